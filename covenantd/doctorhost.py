"""`covenantd doctor` on this host: versions, files, disk, memory, GPU, kernel settings. All bounded in time."""

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from covenantd import __version__
from covenantd.chain.keys import load_hotkey
from covenantd.chain.wallet import bare_coldkey
from covenantd.config import Config
from covenantd.ctloutput import size
from covenantd.errors import CovenantError
from covenantd.finding import Finding, failure, ok, skipped, warning
from covenantd.modelsize import disk_bytes, parameters, training_bytes
from covenantd.runspec import FORMAT, RunSpec
from covenantd.statedirectory import format_problem
from p2p.peerbook import PROTOCOL_VERSION

Run = Callable[[list[str], float], "str | None"]
"""A command's stdout; None where it is missing, fails or takes longer than so many seconds."""

_PACKAGE = "covenantd"
_REINSTALL = "install covenantd anew into a fresh venv with its constraints.txt"
_SPEED_BYTES = 32 << 20
_SLOW_BYTES_PER_SECOND = 40e6
_LEAST_FILES = 4096
_RESERVE_BYTES = 2 << 30
_TORCH = (
    "import torch, json; ok = torch.cuda.is_available(); "
    "print(json.dumps([torch.__version__, torch.version.cuda, ok, torch.cuda.get_device_name(0) if ok else '']))"
)


def run_command(command: list[str], timeout_seconds: float) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def versions(
    requirements: Sequence[str] | None = None, find: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """The version gate: Python, and every library by what this package itself requires."""
    try:
        wanted = metadata.requires(_PACKAGE) or [] if requirements is None else requirements
        python = metadata.metadata(_PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        yield warning("version", f"{_PACKAGE} runs from a directory, so what it requires is not known", _REINSTALL)
        return
    running = platform.python_version()
    wrong = [] if SpecifierSet(python).contains(running) else [f"Python is {running}, not {python}"]
    wrong += [trouble for text in wanted if (trouble := _unmet(Requirement(text), find))]
    if wrong:
        yield failure("version", "; ".join(wrong), _REINSTALL)
    else:
        what = (
            f"covenantd {__version__} on Python {running}; run spec format {FORMAT}, peer protocol {PROTOCOL_VERSION}"
        )
        yield ok("version", what)


def _unmet(wanted: Requirement, find: Callable[[str], str]) -> str | None:
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    try:
        found = find(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    is_met = wanted.specifier.contains(found, prereleases=True)
    return None if is_met else f"{wanted.name} is {found}, not {wanted.specifier}"


def keys(config: Config) -> Iterator[Finding]:
    path = config.identity.hotkey
    if not path.exists():
        make = f"covenantd init --dir {path.parent}, or put your hotkey file there"
        yield failure("hotkey", f"{path} does not exist", make)
        return
    try:
        hotkey = load_hotkey(path)
    except CovenantError as error:
        yield failure("hotkey", str(error), f"chmod 600 {path}, and own it as the user that runs covenantd")
        return
    yield ok("hotkey", f"{hotkey.hotkey}, {path} is readable by its owner alone")
    coldkey = None if config.identity.allow_coldkey else bare_coldkey(path)
    if coldkey is not None:
        fix = "move it to another machine or encrypt it: a daemon never needs it, and this one will not start beside it"
        yield failure("coldkey", f"{coldkey} lies here unencrypted", fix)


def state_directory(config: Config) -> Iterator[Finding]:
    path = config.node.state_directory
    try:
        problem = format_problem(path)
    except OSError as error:
        yield failure("state-directory", f"{error.filename}: {error.strerror}", "run doctor as root or as its owner")
        return
    if problem is not None:
        yield failure("state-directory", problem, "upgrade covenantd, or name another [node] state_directory")
    elif path.exists() and not os.access(path, os.W_OK | os.X_OK):
        yield failure(
            "state-directory", f"{path} is not ours to write", f"chown it to the user that runs covenantd: {path}"
        )
    else:
        yield ok("state-directory", f"{path}{'' if path.exists() else ' will be made'}")


def disk(config: Config, spec: RunSpec | None) -> Iterator[Finding]:
    place = _existing(config.node.state_directory)
    free = shutil.disk_usage(place).free
    needed = _RESERVE_BYTES + (disk_bytes(spec.model) if spec else 0)
    what = f"{size(free)} free at {place}, about {size(needed)} needed"
    move = "free some, or set [node] state_directory to a larger disk"
    yield failure("disk-space", what, move) if free < needed else ok("disk-space", what)
    if not os.access(place, os.W_OK):
        yield skipped("disk-speed", f"{place} is not ours to write; run doctor as the daemon's user")
    elif free > 2 * _SPEED_BYTES:
        yield _disk_speed(place)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _disk_speed(place: Path) -> Finding:
    path, chunk = place / f".covenantd-doctor-{os.getpid()}", os.urandom(1 << 20)
    try:
        started = time.monotonic()
        with path.open("wb") as file:
            for _ in range(_SPEED_BYTES // len(chunk)):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        speed = _SPEED_BYTES / max(1e-6, time.monotonic() - started)
    except OSError as error:
        return failure("disk-speed", f"{path}: {error.strerror}", "look at the disk and its file system")
    finally:
        path.unlink(missing_ok=True)
    what = f"{size(round(speed))}/s written and synced at {place}"
    if speed < _SLOW_BYTES_PER_SECOND:
        return warning("disk-speed", what, "each round writes the whole state: use an SSD for [node] state_directory")
    return ok("disk-speed", what)


def memory(
    config: Config, spec: RunSpec | None, proc: Path = Path("/proc"), run: Run = run_command
) -> Iterator[Finding]:
    if spec is None:
        yield skipped("memory", "without a run spec the size of the model is not known")
        return
    needed, gpu = training_bytes(spec.model), None
    if config.engine.device != "cpu":
        gpu = _gpu_bytes(run)
    where, there = ("GPU", gpu) if gpu else ("main", _available_bytes(proc))
    model = f"a model of {parameters(spec.model) / 1e6:,.1f} M parameters"
    what = f"{size(there)} of {where} memory free, {model} wants about {size(needed)}"
    larger = "use a machine with more memory, or join a run with a smaller model"
    yield failure("memory", what, larger) if there < needed else ok("memory", what)


def _available_bytes(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _gpu_bytes(run: Run) -> int | None:
    """Free memory of the first GPU; None without one."""
    out = run(["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"], 15)
    first = (out or "").split("\n")[0].strip()
    return int(first) << 20 if first.isdigit() else None


def gpu(config: Config, run: Run = run_command) -> Iterator[Finding]:
    device = config.engine.device
    if device == "cpu":
        yield ok("gpu", "training on the CPU, as [engine] device says")
        return
    out = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], 15)
    if not out:
        what = "no NVIDIA GPU or driver here (nvidia-smi does not answer)"
        if device == "auto":
            yield warning(
                "gpu",
                f"{what}: training will be on the CPU",
                'install the NVIDIA driver, or set [engine] device = "cpu"',
            )
        else:
            yield failure("gpu", what, 'install the NVIDIA driver, or set [engine] device = "auto"')
        return
    seen = "; ".join(line.strip() for line in out.strip().splitlines())
    torch = run([sys.executable, "-c", _TORCH], 90)
    if torch is None or "true" not in torch:
        fix = "install a torch build for CUDA; check that the unit may see /dev/nvidia* (the GPU drop-in)"
        yield failure("gpu", f"{seen}, but torch does not see it: {(torch or 'torch does not load').strip()}", fix)
    else:
        yield ok("gpu", f"{seen}; torch {torch.strip()}")


def congestion_control(sysctl: Path = Path("/proc/sys/net/ipv4")) -> Iterator[Finding]:
    """bbr keeps a long, lossy link full where cubic backs off at each lost packet."""
    try:
        current = (sysctl / "tcp_congestion_control").read_text().strip()
        available = (sysctl / "tcp_available_congestion_control").read_text().split()
    except OSError:
        yield skipped(
            "congestion-control",
            "not readable here (a container?); ask on the host: sysctl net.ipv4.tcp_congestion_control",
        )
        return
    if current == "bbr":
        yield ok("congestion-control", "bbr")
        return
    load = "" if "bbr" in available else "modprobe tcp_bbr && echo tcp_bbr > /etc/modules-load.d/bbr.conf && "
    keep = "echo net.ipv4.tcp_congestion_control=bbr > /etc/sysctl.d/60-bbr.conf && sysctl --system"
    yield warning("congestion-control", f"{current}: slow over long or lossy links", f"as root: {load}{keep}")


def open_files(limit: int | None = None) -> Iterator[Finding]:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if 0 <= soft < _LEAST_FILES:
        fix = "ulimit -n 65536 in the shell; the systemd unit sets LimitNOFILE itself"
        yield warning("open-files", f"at most {soft} open files", fix)
    else:
        yield ok("open-files", "no limit" if soft < 0 else f"{soft} allowed")
