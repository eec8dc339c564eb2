"""What can be wrong with what the engine is given."""


class InputError(Exception):
    """A file or field is bad; nothing was changed. `path` is the file, empty if it was none."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


class ContributionError(InputError):
    """Not a valid contribution for this run, round, base, layout and hotkey."""


class StateError(InputError):
    """θ, the error feedback or the optimiser state on disk is torn, foreign or not finite."""
