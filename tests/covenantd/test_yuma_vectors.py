"""Epochs recorded from a real Subtensor runtime, and the command that checks them."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from covenantd.chain.yuma.__main__ import main
from covenantd.chain.yuma.vectors import BadVectors, parse_vectors

GOLDEN = Path(__file__).parents[1] / "golden" / "yuma_epochs.json"
VECTORS: dict[str, Any] = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("index", range(len(VECTORS["cases"])))
def test_recorded_epochs_come_out_to_the_bit(index: int) -> None:
    """The chain's own fixed point is followed step by step, so not even the allowed unit is used up."""
    case = parse_vectors({"cases": [VECTORS["cases"][index]]})[0]
    assert case.deviations() == dict.fromkeys(("incentive", "dividends", "consensus", "vtrust", "bonds"), 0)


def test_the_vectors_cover_every_mode_penalty_and_kappa() -> None:
    cases = VECTORS["cases"]
    assert len(cases) == 23
    assert {c["mode"] for c in cases} == {"classic", "yuma3", "yuma3+liquid"}
    assert {c["bonds_penalty"] for c in cases} == {1, 30000, 65535}
    assert {c["kappa"] for c in cases} == {20000, 32767, 40000}


def test_check_prints_the_cases_and_the_largest_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(GOLDEN)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24 and lines[-1] == "23 cases, largest deviation 0 of 65535, allowed 1"
    assert lines[0].startswith("ok  case   0  yuma3 ")


@pytest.mark.parametrize(("units", "code"), [(1, 0), (2, 1)])
def test_check_fails_past_one_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str], units: int, code: int) -> None:
    vectors = {"cases": deepcopy(VECTORS["cases"][:2])}
    vectors["cases"][1]["out"]["bonds"][2][3] += units
    (tmp_path / "v.json").write_text(json.dumps(vectors))
    assert main(["check", str(tmp_path / "v.json")]) == code
    out = capsys.readouterr().out
    assert f"largest deviation {units}" in out and ("OFF case   1" in out) == bool(code)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "not an object with"),
        (("cases",), {}, "not an object with"),
        (("cases", 0), 3, r"cases\[0\]: not an object"),
        (("cases", 0, "mode"), "yuma2", "mode: one of classic"),
        (("cases", 0, "stakes"), [], "between 1 and"),
        (("cases", 0, "stakes", 0), -1, "not integers between 0"),
        (("cases", 0, "stakes", 0), True, "not integers"),
        (("cases", 0, "kappa"), 65536, "kappa: not integers"),
        (("cases", 0, "steepness"), 5000, "steepness"),
        (("cases", 0, "alpha"), [1], "alpha: not 2 numbers"),
        (("cases", 0, "weights"), [[]], "weights: not 14 rows"),
        (("cases", 0, "weights", 3), [1, 2], r"weights\[3\]: neither empty nor 14"),
        (("cases", 0, "bonds", 3), None, r"bonds\[3\]: not a list"),
        (("cases", 0, "out"), None, "out: not an object"),
        (("cases", 0, "out", "vtrust"), [0], "vtrust: not 14 numbers"),
    ],
)
def test_what_is_no_file_of_vectors(path: tuple[Any, ...], value: Any, message: str) -> None:
    vectors: Any = {"cases": deepcopy(VECTORS["cases"][:1])}
    if not path:
        vectors = value
    else:
        target = vectors
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
    with pytest.raises(BadVectors, match=message):
        parse_vectors(vectors)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"cases": 1}', None])
def test_check_says_what_is_wrong_with_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "v.json").write_bytes(content)
    assert main(["check", str(tmp_path / "v.json")]) == 2
    assert capsys.readouterr().err.startswith("yuma: ")
