"""What a fresh clone promises: pinned requirements, one test command, a tidy top level, console scripts."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from readme import README, code_block

from covenantd.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FILES = {"CHANGELOG.md", "LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
DIRECTORIES = {"covenantd", "model", "p2p", "systemd", "tests"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def required() -> dict[str, set[str]]:
    """Every distribution that `.[test]` brings, with the extras it is wanted with."""
    wanted: dict[str, set[str]] = {}
    todo = [("covenantd", frozenset({"test"}))]
    while todo:
        name, extras = todo.pop()
        if name in wanted and extras <= wanted[name]:
            continue
        wanted.setdefault(name, set()).update(extras)
        for line in metadata.requires(name) or []:
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                todo.append((canonicalize_name(one.name), frozenset(one.extras)))
    del wanted["covenantd"]
    return wanted


def test_constraints_pin_every_requirement_to_what_is_installed() -> None:
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    assert len(required()) > 60
    for name in required():
        assert name in pinned, f"{name} is not in constraints.txt"
        assert metadata.version(name).partition("+")[0] == pinned[name]


def test_constraints_are_exact_and_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert pins()["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in text.splitlines())


def test_ci_runs_the_command_of_the_readme_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith("#")]
    assert commands[:2] == ["set -euo pipefail", 'cd "$(dirname "$0")/.."']
    assert commands[2:] == code_block("test command")


def test_ci_is_executable_bash() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    for script in (ROOT / ".ci" / "run", ROOT / "tests" / "debian-packages.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_nothing_else_at_the_top_level() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.partition("/")[0] for name in listed.stdout.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} == FILES | DIRECTORIES


def test_console_scripts_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"covenantd": "covenantd.cli:main", "covenantctl": "covenantd.ctl:main"}
    installed = {one.name: one.value for one in metadata.entry_points(group="console_scripts")}
    assert {name: installed[name] for name in scripts} == scripts


def test_the_readme_names_only_commands_that_exist() -> None:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
    verbs = set(re.findall(r"^(?:\S*/)?covenantd ([a-z-]+)", blocks, re.MULTILINE))
    assert {"init", "plan", "ledger", "register", "run"} <= verbs <= set(COMMANDS)
