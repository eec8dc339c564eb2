"""`covenantd install-service`: puts the systemd unit in place. Writes files, runs nothing, says what to run next."""

import argparse
import os
import sys
from importlib import resources
from pathlib import Path

from covenantd.config import DEFAULT_PATH, read_config
from covenantd.errors import EXIT_OK, CovenantError, PermissionRefused

_PROGRAM_IN_UNIT = "/usr/bin/covenantd"
_UNITS, _SYSUSERS = Path("etc/systemd/system"), Path("etc/sysusers.d")
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
"""What ProtectHome and PrivateTmp hide from the service."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", action="store_true", help="add the drop-in that lets it at NVIDIA devices")
    parser.add_argument("--program", metavar="PATH", help="the covenantd to run; this one if not given")
    parser.add_argument("--root", type=Path, metavar="DIR", default=Path("/"), help="write below DIR (for images)")


def main(args: argparse.Namespace) -> int:
    program = str(Path(args.program or _this_program()).absolute())
    if program.startswith(_HIDDEN):
        raise CovenantError(
            f"{program} is where the service cannot see it (ProtectHome, PrivateTmp): make its venv below /opt, "
            "e.g. python3 -m venv /opt/covenantd, or name another by --program"
        )
    for path in install(args.root, program, args.gpu):
        print(f"wrote    {path}")
    for line in out_of_reach(args.root):
        print(f"covenantd: {line}", file=sys.stderr)
    print(next_steps(args.root))
    return EXIT_OK


def out_of_reach(root: Path) -> list[str]:
    """What a config that is there already, of an older version's `init`, wants below /etc, where the service may not
    write. Other mistakes in it are for `check-config`."""
    path = root / DEFAULT_PATH.relative_to("/")
    if not path.is_file():
        return []
    try:
        node = read_config(path, environ={})[0].node
    except CovenantError:
        return []
    wanted = {"state_directory": node.state_directory, "runtime_directory": node.runtime_directory}
    return [
        f"{path}: [node] {key} is {value}, where the service may not write: remove that line; covenantd help upgrade"
        for key, value in wanted.items()
        if value.is_relative_to(path.parent)
    ]


def _this_program() -> str:
    beside = Path(sys.executable).parent / "covenantd"
    return str(beside if beside.exists() else Path(sys.argv[0]))


def install(root: Path, program: str, gpu: bool) -> list[Path]:
    """Unit, drop-in and sysusers file; what is ours from an older version is replaced. Raises PermissionRefused."""
    unit = asset("covenantd.service").replace(_PROGRAM_IN_UNIT, _unit_word(program))
    files = {_UNITS / "covenantd.service": unit, _SYSUSERS / "covenantd.conf": asset("sysusers.conf")}
    if gpu:
        files[_UNITS / "covenantd.service.d" / "gpu.conf"] = asset("gpu.conf")
    written = []
    for relative, text in files.items():
        path = root / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
        except OSError as error:
            raise PermissionRefused(f"{path}: {error.strerror}; run it as root, or with --root DIR") from None
        written.append(path)
    return written


def asset(name: str) -> str:
    """Of `systemd/`, as it ships inside the package."""
    return (resources.files("covenantd") / "assets" / name).read_text(encoding="utf-8")


def _unit_word(program: str) -> str:
    """A path as a word of ExecStart= (systemd.syntax(7)): specifiers doubled, quoted where it must be."""
    escaped = program.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if any(c.isspace() or c in "\\'\"" for c in program) else escaped


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(path)


def next_steps(root: Path) -> str:
    steps = [
        "systemd-sysusers                         # makes the user covenantd",
        "covenantd init --system --run-spec run.json --bootstrap ADDRESS --chain ENDPOINT",
        "covenantd register                       # on Bittensor with btcli: covenantd help bittensor",
        "covenantd doctor",
        "systemctl daemon-reload && systemctl enable --now covenantd",
        "systemctl status covenantd; covenantctl top",
    ]
    where = "" if root == Path("/") else f" (in the system below {root})"
    return "\n".join([f"\nNext{where}:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))])
