"""Errors an operator can meet, each with the exit code systemd and scripts rely on."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_PERMISSION = 4
EXIT_TIMEOUT = 5
EXIT_DAEMON_USAGE = 64
EXIT_BUG = 70
EXIT_TRY_AGAIN = 75
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78


class CovenantError(Exception):
    """Something outside our code is wrong; the message says what, where and what to do."""

    exit_code = EXIT_FAILED


class ConfigError(CovenantError):
    """Config, run spec or key file is wrong; restarting without a change cannot help."""

    exit_code = EXIT_CONFIG


class PermissionRefused(CovenantError):
    """A file or socket we need is not ours to use."""

    exit_code = EXIT_NO_PERMISSION


class TryAgain(CovenantError):
    """The outside world is not ready (chain, peers, disk); a restart later can help."""

    exit_code = EXIT_TRY_AGAIN


class ChainError(TryAgain):
    """The chain could not be asked, or did not answer in time."""


class ChainRefused(CovenantError):
    """The chain answered no; `name` is the chain's own error name, e.g. `SettingWeightsTooFast`."""

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name


class EngineError(TryAgain):
    """The engine process died, stalled or refused an order."""
