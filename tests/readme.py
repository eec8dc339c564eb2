"""The README's commands, for tests that do what it says."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def code_block(marker: str) -> list[str]:
    """The lines of the fenced block that follows `<!-- marker -->`."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"the README has no block marked {marker!r}"
    return found[1].splitlines()
