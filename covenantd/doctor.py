"""`covenantd doctor`: what stands in an operator's way, each finding with its fix. Changes nothing."""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from covenantd import __version__, doctorhost, doctornet, runspec
from covenantd.chain.keys import load_hotkey, verify
from covenantd.chain.ledger.client import LedgerChain
from covenantd.config import DEFAULT_PATH, Config, read_config
from covenantd.configlayers import Problem
from covenantd.controlwire import ControlError
from covenantd.ctlclient import BlockingClient
from covenantd.ctloutput import paint
from covenantd.doctorchain import chain_findings
from covenantd.doctornet import Reach
from covenantd.errors import EXIT_FAILED, EXIT_OK, ConfigError, CovenantError
from covenantd.finding import LEVELS, Finding, failure, ok, skipped, warning
from covenantd.runspec import RunSpec

_ANSWER_SECONDS = 3.0
_REACH_SECONDS = 25.0  # peers try for a few seconds
_MARKS = {"ok": ("ok", "green"), "skipped": ("--", "dim"), "warning": ("!!", "yellow"), "failure": ("XX", "red")}


@dataclass(frozen=True)
class Patient:
    """What the checks look at. `spec` is None where there is no good one; `is_running`: the daemon answers, and is of
    that version, if it told us, and its peers tried to reach it, if they could."""

    config: Config
    problems: tuple[Problem, ...]
    spec: RunSpec | None
    spec_problem: str | None
    is_running: bool
    daemon_version: str | None = None
    reach: Reach | None = None


Check = Callable[[Patient], Iterator[Finding]]


def _config(patient: Patient) -> Iterator[Finding]:
    for problem in patient.problems:
        where = f"{problem.where}: " if problem.where else ""
        yield failure("config", f"{where}{problem.message}", "correct it; `covenantd help config` lists every setting")
    if not patient.problems:
        yield ok("config", f"{patient.config.file or 'defaults'}")
    if patient.spec_problem is not None:
        yield failure("run-spec", patient.spec_problem, _spec_fix(patient.spec_problem))
    elif patient.spec is not None:
        yield ok("run-spec", f"{patient.spec.name} ({patient.spec.run_id[:16]})")


def _spec_fix(problem: str) -> str:
    is_newer = "upgrade covenantd" in problem
    return "the run wants a newer version: covenantd help upgrade" if is_newer else "get run.json from the run's owner"


def _engine(patient: Patient) -> Iterator[Finding]:
    if patient.config.node.role == "bootstrap":
        yield skipped("memory", "a bootstrap peer trains nothing")
        return
    yield from doctorhost.memory(patient.config, patient.spec)
    yield from doctorhost.gpu(patient.config)


def _daemon(patient: Patient) -> Iterator[Finding]:
    socket, running = patient.config.control_socket, patient.daemon_version
    if running is not None and running != __version__:
        fix = "systemctl restart covenantd, or call the covenantctl that was installed with it"
        yield warning("daemon", f"covenantd {running} runs, and this is {__version__}", fix)
        return
    yield ok("daemon", f"runs, and answers at {socket}") if patient.is_running else skipped("daemon", "does not run")


def _chain(patient: Patient) -> Iterator[Finding]:
    """Ledger or Bittensor: whoever knows that chain examines it."""
    if patient.config.chain.kind != "ledger":
        yield from _other_chain(patient.config)
        return
    netuid = patient.spec.chain.netuid if patient.spec else 1
    try:
        hotkey = load_hotkey(patient.config.identity.hotkey).hotkey
    except (CovenantError, OSError):
        hotkey = None  # said by the check of the keys

    async def ask() -> list[Finding]:
        chain = LedgerChain(patient.config.chain.endpoint, netuid)
        try:
            return await chain_findings(patient.config, patient.spec, chain, hotkey)
        finally:
            await chain.aclose()

    try:
        yield from trio.run(ask)
    except ConfigError as error:
        yield failure("chain", str(error), "correct [chain] endpoint")


def _other_chain(config: Config) -> Iterator[Finding]:
    if importlib.util.find_spec("covenantd.chaindoctor") is None:
        yield skipped("chain", f"no examination is known for a chain of kind {config.chain.kind}")
        return
    for one in importlib.import_module("covenantd.chaindoctor").chain_findings(config):
        yield Finding(one.name, one.level if one.level in LEVELS else "warning", one.what, one.fix)


CHECKS: tuple[Check, ...] = (
    lambda patient: doctorhost.versions(),
    _config,
    lambda patient: doctorhost.keys(patient.config),
    lambda patient: doctorhost.state_directory(patient.config),
    _daemon,
    lambda patient: doctornet.port(patient.config, patient.is_running),
    lambda patient: doctornet.nat(patient.config, patient.reach),
    lambda patient: doctornet.reachable(patient.config, patient.is_running, patient.reach),
    lambda patient: doctornet.bootstrap(patient.config),
    lambda patient: doctornet.http(patient.config),
    _chain,
    lambda patient: doctorhost.disk(patient.config, patient.spec),
    _engine,
    lambda patient: doctorhost.congestion_control(),
    lambda patient: doctorhost.open_files(),
)

CHAIN_CHECKS: tuple[Check, ...] = (_config, lambda patient: doctorhost.keys(patient.config), _chain)


def examine(patient: Patient, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """All checks, in order. One that fails by a bug of ours says so and does not hide the others."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(patient)
        except Exception as error:  # noqa: BLE001
            found.append(failure("doctor", f"a check failed by a bug: {error!r}", "please report it"))
    return found


def patient_of(path: Path) -> Patient:
    """Whatever can be learned of a config that may be missing or full of mistakes."""
    try:
        config, problems = read_config(path)
    except CovenantError as error:
        config, problems = Config(), [Problem("", f"{error}; the rest is examined with the defaults")]
    spec, spec_problem = None, None
    try:
        spec = runspec.read(config.run.spec, verify)
    except CovenantError as error:
        spec_problem = str(error)
    return Patient(config, tuple(problems), spec, spec_problem, *_answers(config.control_socket))


def _answers(socket: Path) -> tuple[bool, str | None, Reach | None]:
    """Whether a daemon is there, its version, how its peers reach it."""
    try:
        client = BlockingClient(socket, _ANSWER_SECONDS)
    except ControlError as error:
        return error.code == "permission", None, None  # it is there, and not for us
    try:
        return True, client.daemon_version, Reach.from_answer(client.call("reachable", timeout_seconds=_REACH_SECONDS))
    except ControlError:
        return True, client.daemon_version, None  # of an older version
    finally:
        client.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", default=DEFAULT_PATH, help=str(DEFAULT_PATH))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--chain", action="store_true", help="examine the config, the keys and the chain alone")


def main(args: argparse.Namespace) -> int:
    """Exit 1 when there is a failure; warnings do not count."""
    findings = examine(patient_of(args.config), CHAIN_CHECKS if args.chain else CHECKS)
    if args.json:
        print(json.dumps({"schema": 1, "findings": [one.as_dict() for one in findings]}))
    else:
        print("\n".join(text(one) for one in findings))
        print(verdict(findings), file=sys.stderr)
    return EXIT_FAILED if any(one.level == "failure" for one in findings) else EXIT_OK


def text(finding: Finding) -> str:
    mark, colour = _MARKS[finding.level]
    line = f"{paint(mark, colour)}  {finding.name:<19} {finding.what}"
    return f"{line}\n{'':<24}{paint('->', 'cyan')} {finding.fix}" if finding.fix else line


def verdict(findings: list[Finding]) -> str:
    failures, warnings = (sum(one.level == level for one in findings) for level in ("failure", "warning"))
    if not failures and not warnings:
        return "\nnothing stands in the way"
    return f"\n{failures} to fix, {warnings} to consider"
