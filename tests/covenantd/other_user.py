"""`covenantd` and `covenantctl` as another user, who is not root: tests run as root, whom nothing is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")

# One process imports everything, since the interpreter may lie where only root may read, and forks for each command.
_PROGRAM = """
import encodings.idna, importlib, importlib.readers, json, os, sys, tempfile, traceback
for name in "cli configcheck daemon doctor init service ctl ctloutput ctlbugreport completion".split():
    importlib.import_module("covenantd." + name)
import msgpack

def become_and_run(user, program, words, out, err):
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    code = 99
    try:
        os.setgroups([]), os.setgid(user), os.setuid(user)
        code = importlib.import_module("covenantd." + program).main(words)
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            become_and_run(*json.loads(line), out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    print(json.dumps([code, *said]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class OtherUsers:
    _server: subprocess.Popen[str]

    def run(self, user: int, program: str, *words: object) -> Done:
        """`program`: cli or ctl. What it works on must be open to `user`; pytest's own directories are not."""
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps([user, program, list(map(str, words))]), file=self._server.stdin, flush=True)
        return Done(*json.loads(self._server.stdout.readline()))


@contextmanager
def other_users() -> Iterator[OtherUsers]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVENANTD_")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], text=True, cwd=root, env=environment, **pipes) as server:
        yield OtherUsers(server)
        assert server.stdin is not None
        server.stdin.close()
