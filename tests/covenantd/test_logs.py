"""Logs as each reader gets them."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from covenantd import logs
from covenantd.throttle import Throttle


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_of_our_logs_and_of_libraries() -> None:
    out = io.StringIO()
    logs.configure("info", "auto", out, {})
    structlog.contextvars.bind_contextvars(round=7, phase="train")
    structlog.get_logger("covenantd.x").info("step done", loss=3.5)
    logging.getLogger("p2p.swarm").warning("lost %s", "a peer", extra={"peer": "12D3"})
    logging.getLogger("p2p.swarm").debug("unseen")
    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert ours | {"time": ""} == {
        **{"event": "step done", "loss": 3.5, "round": 7, "phase": "train"},
        **{"level": "info", "logger": "covenantd.x", "time": ""},
    }
    assert theirs["event"] == "lost a peer" and theirs["peer"] == "12D3" and theirs["round"] == 7


def test_level_at_run_time() -> None:
    out = io.StringIO()
    logs.configure("warning", "json", out, {})
    log = structlog.get_logger("covenantd.level")
    log.info("unseen")
    logs.set_level("debug")
    log.debug("seen")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["seen"]
    with pytest.raises(ValueError, match="not a log level"):
        logs.set_level("loud")


def test_tracebacks_and_odd_values_stay_one_line_of_json() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out, {})
    try:
        raise ZeroDivisionError("x\ny")
    except ZeroDivisionError:
        logging.getLogger("a").exception("went wrong", extra={"path": Path("/x")})
    (line,) = out.getvalue().splitlines()
    assert "ZeroDivisionError" in json.loads(line)["exception"] and json.loads(line)["path"] == "/x"


def test_console() -> None:
    out = io.StringIO()
    logs.configure("info", "console", out, {"NO_COLOR": "1"})
    structlog.get_logger("a").info("hello", round=3)
    assert "hello" in out.getvalue() and "round=3" in out.getvalue() and "\x1b" not in out.getvalue()


def test_journald_gets_priorities(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        logs.configure("info", "auto", stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        logging.getLogger("a").error("bad")
        structlog.get_logger("a").info("good")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert [line[:4] for line in lines] == ["<3>{", "<6>{"]


def test_secrets_are_redacted() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out, {})
    structlog.get_logger("a").info(
        "x", secret_seed="s", secretPhrase="s", password="s", tokens_per_second=9, seed_path="/p", tokens=4
    )
    shown = json.loads(out.getvalue())
    assert [shown[k] for k in ("secret_seed", "secretPhrase", "password")] == ["[redacted]"] * 3
    assert (shown["tokens_per_second"], shown["seed_path"], shown["tokens"]) == (9, "/p", 4)


class Hour:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def throttled() -> tuple[io.StringIO, Hour]:
    clock, out = Hour(), io.StringIO()
    logs.configure("info", "json", out, {})
    throttle = next(one for one in logging.getLogger().handlers if isinstance(one, Throttle))
    throttle._now = clock
    return out, clock


def told(out: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    out.seek(0)
    out.truncate()
    return lines


def test_lines_that_peers_cause_come_once_a_minute_with_a_count(throttled: tuple[io.StringIO, Hour]) -> None:
    out, clock = throttled
    ours, theirs = structlog.get_logger("covenantd.miner"), logging.getLogger("p2p.swarm")
    for number in range(1000):
        ours.warning("commit refused", reason=f"r{number}", peer_caused=True)
        theirs.warning("banned %s", f"peer{number}", extra={"peer_caused": True})
        clock.now += 0.01
    first, second = told(out)
    assert (first["event"], first["reason"], second["event"]) == ("commit refused", "r0", "banned peer0")
    assert "peer_caused" not in first and "peer_caused" not in second and "repeated" not in first
    clock.now = 61
    logs.tell_repeated()
    third, fourth = told(out)
    assert (third["reason"], third["repeated"]) == ("r999", 999)
    assert (fourth["event"], fourth["repeated"]) == ("banned peer999", 999)
    ours.warning("commit refused", reason="again", peer_caused=True)
    assert told(out) == [], "the line with the count was this minute's"
    clock.now = 200
    logs.tell_repeated()
    assert [one["repeated"] for one in told(out)] == [1]
    clock.now = 300
    logs.tell_repeated()
    ours.warning("commit refused", reason="later", peer_caused=True)
    assert [one.get("repeated") for one in told(out)] == [None], "told at once after a quiet minute"


def test_what_no_peer_causes_is_never_held_back(throttled: tuple[io.StringIO, Hour]) -> None:
    out, _ = throttled
    for _ in range(3):
        structlog.get_logger("covenantd.engine").warning("engine lost")
        structlog.get_logger("covenantd.engine").warning("commit refused", peer_caused=False)
    assert len(told(out)) == 6


def test_counts_are_told_when_the_process_ends(throttled: tuple[io.StringIO, Hour]) -> None:
    out, _ = throttled
    for _ in range(3):
        logging.getLogger("p2p.swarm").warning("banned %s", "x", extra={"peer_caused": True})
    next(one for one in logging.getLogger().handlers if isinstance(one, Throttle)).flush()  # as logging.shutdown does
    assert [one.get("repeated") for one in told(out)] == [None, 2]
