"""From the SDK's answers to the protocol's types: what an endpoint may say, and worse."""

from typing import Any

import bittensor
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.chain.bittensor.endpoint import bittensor_endpoint_problem, chain_kind, shown
from covenantd.chain.bittensor.fate import Included, NotTaken, Unknown, judge
from covenantd.chain.bittensor.reading import parse_fields, raw_fields
from covenantd.errors import ChainRefused

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
VARIANTS = st.sampled_from(["Raw0", "Raw1", "Raw5", "Raw128", "Raw129", "Raw", "None", "Sha256", "TimelockEncrypted"])


@given(st.lists(st.binary(max_size=128), max_size=3))
def test_fields_come_back_as_they_were_written(fields: list[bytes]) -> None:
    [written] = raw_fields(fields)["fields"]
    assert parse_fields(written) == tuple(fields)


@given(st.lists(st.dictionaries(VARIANTS, JSON, max_size=2) | JSON, max_size=5) | JSON)
def test_no_answer_makes_the_parser_fail(answer: Any) -> None:
    fields = parse_fields(answer)
    assert fields is None or (len(fields) <= 3 and all(len(field) <= 128 for field in fields))


@pytest.mark.parametrize(
    "fields",
    [
        [{"Raw5": "0x68656c6c"}],  # a byte short
        [{"Raw5": "hello"}],  # text: what a lossy decoder makes of bytes
        [{"Sha256": "0x" + "00" * 32}],
        [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 7}}],
        ["None"],
        [{"Raw1": "0x00"}] * 4,
        [{"Raw129": "0x" + "00" * 129}],
    ],
)
def test_commitments_of_other_kinds_are_none_of_ours(fields: Any) -> None:
    assert parse_fields(fields) is None


def test_fields_may_be_bytes_or_numbers() -> None:
    assert parse_fields([{"Raw2": b"hi"}, {"Raw2": [104, 105]}]) == (b"hi", b"hi")


def result(name: str | None = None, block: str | None = None, **changes: Any) -> bittensor.ExtrinsicResult:
    error = bittensor.ChainError(name or "connection dropped", name)
    return bittensor.ExtrinsicResult(
        **{"success": False, "message": str(error), "error": error, "block_hash": block, **changes}
    )


def test_fates() -> None:
    assert judge(result(success=True, extrinsic_id="4031337-0007")) == Included(4031337)
    assert judge(result(success=True)) == Included(None)
    assert isinstance(judge(result("Stale")), NotTaken)
    for name in (None, "Dropped", "Usurped", "FinalityTimeout", "AlreadyImported"):
        assert isinstance(judge(result(name)), Unknown), name
    for name, block in (("NeuronNoValidatorPermit", "0x1"), ("Payment", None), ("BadProof", None)):
        with pytest.raises(ChainRefused, match=name):
            judge(result(name, block))
    with pytest.raises(ChainRefused, match="Other"):
        judge(result(None, "0x1"))  # in a block, and failed there, whatever it is called


@pytest.mark.parametrize(
    "good", ["finney", "test", "local", "ws://127.0.0.1:9944", "wss://node.example/key", "ws://[::1]:9944"]
)
def test_good_endpoints(good: str) -> None:
    assert bittensor_endpoint_problem(good) is None and chain_kind(good) == "bittensor"


@pytest.mark.parametrize("bad", ["", "Finney", "http://x", "ws://", "ws://:1", "wss://a:b", "ws://a b", "ws://[::1"])
def test_bad_endpoints(bad: str) -> None:
    assert bittensor_endpoint_problem(bad) is not None and chain_kind(bad) == "ledger"


def test_networks_are_the_sdks() -> None:
    from bittensor.settings import NETWORKS

    from covenantd.chain.bittensor.endpoint import NETWORKS as OURS

    assert set(OURS) == set(NETWORKS)


def test_a_providers_key_is_not_shown() -> None:
    assert shown("wss://user:secret@node.example:443/v1/secret?key=secret") == "wss://node.example:443"
