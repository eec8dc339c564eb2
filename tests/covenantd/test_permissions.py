"""Files that are not the daemon's to use: named, with whose they are and what to do; exit code 77, so no restart."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from other_user import NOBODY, Done, OtherUsers, as_root, other_users
from run_fixture import SPEC

from covenantd import runspec
from covenantd.chain.keys import Hotkey, create_hotkey
from covenantd.errors import EXIT_CONFIG, EXIT_NO_PERMISSION, EXIT_OK, EXIT_PERMISSION

pytestmark = as_root


class Place:
    """A peer's directory, all of it the user nobody's, until a test takes something away."""

    def __init__(self, directory: Path, users: OtherUsers) -> None:
        self._users = users
        self.directory, self.config = directory, directory / "covenantd.toml"
        self.state = directory / "state"
        for one in (self.state, directory / "run", directory / "conf.d"):
            one.mkdir()
        self.config.write_text(
            '[node]\nstate_directory = "state"\nruntime_directory = "run"\n[run]\nspec = "run.json"\n'
            '[identity]\nhotkey = "hotkey.json"\n[network]\nlisten = "/ip4/127.0.0.1/tcp/0"\n'
        )
        alice = Hotkey.from_uri("//Alice")
        runspec.write(directory / "run.json", replace(SPEC, owner=alice.hotkey), alice)
        create_hotkey(directory / "hotkey.json")
        (directory / "conf.d" / "10-more.toml").write_text("[engine]\nthreads = 1\n")
        for one in (directory, *directory.rglob("*")):
            self.give(one, NOBODY)

    def give(self, path: Path, user: int, mode: int | None = None) -> None:
        os.chown(path, user, user)
        if mode is not None:
            path.chmod(mode)

    def run(self, program: str, *words: object) -> Done:
        return self._users.run(NOBODY, program, *words)

    def refused(self, *words: object) -> str:
        done = self.run("cli", *words)
        assert done.returncode == EXIT_NO_PERMISSION, done.stderr
        assert "Traceback" not in done.stderr and "bug" not in done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def users() -> Iterator[OtherUsers]:
    with other_users() as users:
        yield users


@pytest.fixture
def place(users: OtherUsers) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as directory:
        yield Place(Path(directory), users)


def test_a_config_directory_that_is_closed_to_us(place: Place) -> None:
    place.give(place.directory, 0, 0o700)
    for words in (("run", "--config"), ("check-config",)):
        said = place.refused(*words, place.config)
        assert f"{place.config}: Permission denied: we run as nobody, and {place.directory} is root's" in said
        assert "mode 0700" in said and f"give nobody access to {place.directory}" in said


@pytest.mark.parametrize("name", ["run.json", "hotkey.json", "conf.d/10-more.toml", "conf.d"])
def test_a_file_of_the_config_that_we_may_not_read(place: Place, name: str) -> None:
    """A conf.d that cannot be listed, too: its settings would silently not count."""
    place.give(place.directory / name, 0, 0o600 if "." in name[-5:] else 0o700)
    assert str(place.directory / name) in place.refused("run", "--config", place.config)


@pytest.mark.parametrize("name", ["run.json", "hotkey.json"])
def test_a_directory_of_the_config_that_we_may_not_enter(place: Place, name: str) -> None:
    """Not "does not exist; get it from the run's owner"."""
    hidden = place.directory / "hidden"
    hidden.mkdir(mode=0o700)
    (place.directory / name).rename(hidden / name)
    place.config.write_text(place.config.read_text().replace(f'"{name}"', f'"hidden/{name}"'))
    assert str(hidden) in place.refused("run", "--config", place.config)


@pytest.mark.parametrize("name", ["lock", "format.json", "staging", "engine"])
def test_what_a_daemon_of_root_left_in_the_state_directory(place: Place, name: str) -> None:
    """After one `sudo covenantd run`."""
    path = place.state / name
    if name in ("staging", "engine"):
        path.mkdir(mode=0o755)
        (path / "half-made").write_text("")
    else:
        path.write_text('{"format": 1}\n')
        path.chmod(0o600)
    if name == "engine":
        place.give(place.state, 0, 0o755)
    said = place.refused("run", "--config", place.config)
    assert str(path if name != "engine" else place.state) in said and "root's" in said
    if name == "lock":
        assert f"chown -R nobody: {place.state}" in said


def test_nothing_is_refused_to_the_owner(place: Place) -> None:
    done = place.run("cli", "check-config", place.config)
    assert done.returncode == EXIT_OK, done.stderr


def test_other_programs_are_refused_in_words_as_well(place: Place) -> None:
    place.give(place.directory, 0, 0o755)
    assert str(place.directory) in place.refused("init", "--dir", place.directory / "new")
    service = place.refused("install-service", "--root", place.directory, "--program", "/opt/covenantd/bin/covenantd")
    assert "run it as root" in service


def test_a_socket_that_is_not_for_us_is_exit_code_4(place: Place) -> None:
    (place.directory / "run" / "control.sock").write_text("")
    place.give(place.directory / "run", 0, 0o700)
    done = place.run("ctl", "--socket", place.directory / "run" / "control.sock", "status")
    assert done.returncode == EXIT_PERMISSION and "group" in done.stderr


def test_a_bug_report_is_made_without_the_config_it_may_not_read(place: Place) -> None:
    place.give(place.config, 0, 0o600)
    report = place.directory / "report.tar.gz"
    done = place.run("ctl", "--dir", place.directory, "bugreport", "--output", report)
    assert (done.returncode, "Traceback" in done.stderr) == (EXIT_OK, False), done.stderr
    with tarfile.open(report) as bundle:
        (name,) = (one for one in bundle.getnames() if one.endswith("not-running.json"))
        file = bundle.extractfile(name)
        assert file is not None and b"Permission denied" in file.read()


def test_doctor_goes_on_without_what_it_may_not_read(place: Place) -> None:
    place.give(place.directory, 0, 0o700)
    done = place.run("cli", "doctor", "--config", place.config)
    assert "Permission denied" in done.stdout and "congestion-control" in done.stdout and "bug" not in done.stdout
    assert done.returncode not in (EXIT_CONFIG, EXIT_NO_PERMISSION)
