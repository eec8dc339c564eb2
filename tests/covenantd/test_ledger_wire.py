import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from covenantd.chain.ledger import answers
from covenantd.chain.ledger.state import Refusal
from covenantd.chain.ledger.wire import (
    LineStream,
    LineTooLong,
    parse_request,
    parse_response,
    refusal_line,
    request_line,
    result_line,
)
from covenantd.errors import ChainError

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=5), c, max_size=3),
    max_leaves=8,
)


async def test_lines_however_they_are_cut() -> None:
    ours, theirs = memory_stream_pair()
    lines = LineStream(theirs, 10)
    for chunk in (b"a", b"bc\nde", b"f\n\n", b"0123456789\nrest"):
        await ours.send_all(chunk)
    await ours.send_eof()
    assert [await lines.receive_line() for _ in range(5)] == [b"abc", b"def", b"", b"0123456789", None]


@pytest.mark.parametrize("data", [b"x" * 11 + b"\n", b"x" * 200_000])
async def test_a_line_is_bounded(data: bytes) -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(data)
    with pytest.raises(LineTooLong):
        await LineStream(theirs, 10).receive_line()


def test_round_trip() -> None:
    assert parse_request(request_line(3, "head", {"a": [1]})) == (3, "head", {"a": [1]})
    assert parse_response(result_line(3, {"é": None}), 3) == {"é": None}
    with pytest.raises(Refusal) as caught:
        parse_response(refusal_line(3, Refusal("StaleNonce", "was 4")), 3)
    assert (caught.value.name, caught.value.detail) == ("StaleNonce", "was 4")
    assert json.loads(refusal_line(None, Refusal("ParseError")))["error"]["code"] == -32700


@given(st.one_of(st.binary(), _json.map(lambda v: json.dumps(v).encode()), st.just(b"[" * 100_000)))
def test_hostile_requests_are_refused(line: bytes) -> None:
    with pytest.raises(Refusal):
        parse_request(line)


@given(st.one_of(st.binary(), _json.map(lambda v: json.dumps(v).encode()), st.just(b"[" * 100_000)))
def test_hostile_answers_are_seen(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_response(line, 1)


@given(_json.map(lambda v: json.dumps({"id": 1, "error": v}).encode()))
def test_hostile_errors_are_seen(line: bytes) -> None:
    with pytest.raises((ValueError, Refusal)):
        parse_response(line, 1)


METAGRAPH: dict[str, Any] = {
    "netuid": 1,
    "block": 3,
    "neurons": [
        {"uid": 0, "hotkey": "a", "stake": 1, "validator_permit": True, "registered_block": 0}
        | {"last_update_block": 0, "incentive": 0, "dividends": 0, "emission": 0}
    ],
    "commitments": {"a": {"block": 2, "fields": ["00"]}},
    "weights": {"0": [[1], [65535]]},
}


def test_a_metagraph_is_read() -> None:
    graph = answers.decoded(answers.parse_metagraph, METAGRAPH)
    assert graph.neurons[0].validator_permit and graph.commitments["a"].fields == (b"\0",)
    assert graph.weights == {0: {1: 65535}}


@pytest.mark.parametrize("parse", [answers.parse_block, answers.parse_epoch, answers.parse_metagraph])
@given(value=_json)
def test_nonsense_is_a_chain_error(parse: Any, value: Any) -> None:
    with pytest.raises(ChainError):
        answers.decoded(parse, value)


@pytest.mark.parametrize("key", list(METAGRAPH))
@given(value=_json)
def test_a_metagraph_with_nonsense_in_it(key: str, value: Any) -> None:
    try:
        answers.decoded(answers.parse_metagraph, METAGRAPH | {key: value})
    except ChainError:
        return
    assert isinstance(value, int | list | dict)


@pytest.mark.parametrize("fields", [["00"] * 4, ["00" * 129], ["zz"], "00", [1]])
def test_a_commitment_beyond_its_limits(fields: Any) -> None:
    value = METAGRAPH | {"commitments": {"a": {"block": 2, "fields": fields}}}
    if fields == "00":
        value["commitments"]["a"]["fields"] = 5
    with pytest.raises(ChainError):
        answers.decoded(answers.parse_metagraph, value)
