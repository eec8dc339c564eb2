"""The run spec: its name, its signature, and everything its owner could get wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from run_fixture import SPEC, TIMING

from covenantd import runspec
from covenantd.chain.keys import Hotkey, verify
from covenantd.errors import ConfigError
from covenantd.timing import Timing
from model.config import TrainingConfig

OWNER = Hotkey.from_uri("//Alice")
GOLDEN_RUN_ID = (
    "192833be43c168bd351b09fa65b016db1a894e0ba80cb59108f3314b9bf32170"  # changes with every field that is added
)


def signed(body: Any, owner: Hotkey = OWNER) -> bytes:
    """A document as its owner would sign it, whatever is in it."""
    signature = owner.sign(b"covenantd run spec 1\0" + runspec.canonical(body)).hex()
    return json.dumps({"spec": body, "signature": signature}).encode()


def body_with(path: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(runspec.document(SPEC)))
    *parents, name = path.split(".")
    part = body
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return body


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ConfigError, match=match):
        runspec.parse(data, verify)


def test_a_run_is_named_by_the_hash_of_its_spec() -> None:
    assert SPEC.run_id == GOLDEN_RUN_ID


def test_every_field_is_part_of_the_name() -> None:
    names = {SPEC.run_id}
    changes = {"name": "x", "alpha": 1.0, "timing": replace(TIMING, start_block=8), "piece_bytes": 1 << 17}
    for name, value in changes.items():
        names.add(replace(SPEC, **{name: value}).run_id)
    names.add(replace(SPEC, model=replace(SPEC.model, layers=5)).run_id)
    names.add(replace(SPEC, dataset=replace(SPEC.dataset, train_shards=SPEC.dataset.train_shards[::-1])).run_id)
    assert len(names) == 7


def test_a_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    for _ in range(2):  # two signatures differ
        runspec.write(tmp_path / "run.json", SPEC, OWNER)
        read = runspec.read(tmp_path / "run.json", verify)
        assert read == SPEC and read.run_id == GOLDEN_RUN_ID


def test_only_the_owner_it_names_signs_a_spec(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot sign"):
        runspec.write(tmp_path / "run.json", SPEC, Hotkey.from_uri("//Another"))
    refused(signed(runspec.document(SPEC), Hotkey.from_uri("//Another")), "not signed by its owner")


def test_names_in_any_script_survive(tmp_path: Path) -> None:
    spec = replace(SPEC, name='Bündnis ☂ "1"')
    runspec.write(tmp_path / "run.json", spec, OWNER)
    assert runspec.read(tmp_path / "run.json", verify).run_id == spec.run_id


def test_the_engine_is_told_what_the_spec_says() -> None:
    assert TrainingConfig.from_dict(SPEC.training.as_dict()) == SPEC.training
    assert SPEC.training.run_id == SPEC.run_id and SPEC.protocol("x") == f"/covenantd/{SPEC.run_id[:16]}/x/1"


# Changed, damaged and hostile files

DOCUMENT = signed(json.loads(json.dumps(runspec.document(SPEC))))


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_no_changed_byte_changes_the_run(position: int, flip: int) -> None:
    data = bytearray(DOCUMENT)
    data[position] ^= flip
    try:
        read = runspec.parse(bytes(data), verify)
    except ConfigError:
        return
    assert read == SPEC  # white space, or the case of a hex digit


@given(st.integers(0, len(DOCUMENT) - 1))
def test_a_file_cut_short_is_refused(length: int) -> None:
    refused(DOCUMENT[:length], "not a signed run spec")


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    refused(noise)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["spec", "signature"]), JSON))
def test_a_document_of_any_shape_is_refused(document: dict[str, Any]) -> None:
    refused(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"[" * 500_000, b" " * (runspec.MAX_SPEC_BYTES + 1), b'{"spec":1e999}'])
def test_bombs_are_refused(data: bytes) -> None:
    refused(data)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: run spec has more than"):
        runspec.read(Path("/dev/zero"), verify)


def test_errors_name_the_file_and_a_missing_one_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json.*covenantd plan"):
        runspec.read(tmp_path / "nowhere.json", verify)
    (tmp_path / "bad.json").write_bytes(DOCUMENT.replace(b"golden", b"gilded"))
    with pytest.raises(ConfigError, match=r"bad\.json.*not signed by its owner"):
        runspec.read(tmp_path / "bad.json", verify)


def test_the_owner_cannot_be_exchanged() -> None:
    document = json.loads(DOCUMENT)
    document["spec"]["owner"] = Hotkey.from_uri("//Another").hotkey
    refused(json.dumps(document).encode(), "not signed")


# What its owner signed but nobody can run

GENESIS = runspec.document(SPEC)
LEAVES = [f"{part}.{name}" for part, fields in GENESIS.items() if isinstance(fields, dict) for name in fields]
TOP = list(GENESIS)


@pytest.mark.parametrize("path", [*TOP, *LEAVES])
def test_a_missing_field_is_refused_even_where_we_have_a_default(path: str) -> None:
    """With a default filled in it would be another run here than where it is not missing."""
    refused(signed(body_with(path, ...)))


@pytest.mark.parametrize("path", ["surprise", "model.surprise", "timing.surprise", "scoring.surprise"])
def test_an_unknown_field_is_refused(path: str) -> None:
    refused(signed(body_with(path, 1)), "surprise")


@pytest.mark.parametrize("path", [*TOP, *LEAVES])
def test_a_value_of_another_type_or_sign_is_refused(path: str) -> None:
    fine = {"name": "7", "model.tied_embeddings": True}
    fine |= {f"scoring.{name}": -1 for name in ("scale", "harmful_gain", "useless_share")}
    for value in (None, [], {}, True, "7", -1):
        body = body_with(path, value)
        if fine.get(path, ...) == value:
            assert json.loads(json.dumps(runspec.document(runspec.parse(signed(body), verify)))) == body
        else:
            refused(signed(body))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("genesis_state", "x" * 64),
        ("genesis_state", "AB" * 32),
        ("dataset.train_shards", []),
        ("dataset.train_shards", ["../../etc/passwd"]),
        ("dataset.tokenizer", "short"),
        ("dataset.max_blob_bytes", 0),
        ("inner_steps", 0),
        ("min_inner_steps", 31),
        ("alpha", 0),
        ("alpha", 1.1e9),
        ("alpha", 1e39),
        ("compression.codec", "row2"),
        ("compression.combination", "median"),
        ("compression.kept_per_chunk", 63),
        ("compression.kept_per_chunk", 0),
        ("compression.chunk", 4097),
        ("compression.chunk", 128 * 128),
        ("compression.error_feedback_decay", 5.0),
        ("compression.error_feedback_decay", 1.01),
        ("roster_size", 0),
        ("roster_size", 5000),
        ("snapshot_rounds", 0),
        ("piece_bytes", 1),
        ("piece_bytes", 1 << 40),
        ("timing.block_seconds", 0),
        ("timing.proposal_blocks", 0),
        ("scoring.sequences", 0),
        ("scoring.decay", 1),
        ("chain.netuid", 1 << 16),
        ("chain.genesis", ""),
    ],
)
def test_a_value_nobody_could_run_is_named(path: str, value: Any) -> None:
    refused(signed(body_with(path, value)), "compression" if "compression" in path else path.replace(".", r"\."))


def test_what_topk2_cannot_code_is_named() -> None:
    body = body_with("compression.kept_per_chunk", 65)
    body["compression"]["codec"] = "topk2"
    refused(signed(body), r"compression \(topk2 cannot keep 65 of 4096")


@pytest.mark.parametrize("decay", [0, 0.95, 1])
def test_a_decay_that_is_a_share_is_accepted(decay: float) -> None:
    parsed = runspec.parse(signed(body_with("compression.error_feedback_decay", decay)), verify)
    assert parsed.compression.error_feedback_decay == decay


@pytest.mark.parametrize(
    ("path", "value"), [("revision", 1), ("genesis_id", "ab" * 32), ("timing.first_round", 1), ("timing.earlier", None)]
)
def test_what_belongs_to_a_change_in_mid_run_is_no_part_of_a_genesis_spec(path: str, value: Any) -> None:
    refused(signed(body_with(path, value)), "no genesis spec")


def test_another_format_asks_for_an_upgrade() -> None:
    refused(signed(body_with("format", 2)), "format 2.*upgrade")


# Timing

POINTS = st.integers(-2, 12)


@given(POINTS, POINTS, POINTS, POINTS, POINTS, st.integers(-1, 3), st.integers(0, 3))
def test_timing_is_accepted_exactly_when_its_points_are_in_order_and_votes_have_their_time(
    start: int, seal: int, commit: int, slack: int, vote: int, after: int, proposal: int
) -> None:
    timing = Timing(start, vote + after, seal, commit, vote, slack, proposal_blocks=proposal)
    in_order = start >= 1 and 0 < seal < commit < commit + slack < vote < vote + after
    in_time = proposal >= 1 and vote - commit - slack >= 2 * proposal and after >= proposal
    try:
        timing.check()
    except ConfigError as error:
        assert not (in_order and in_time)
        assert in_order or "seal < commit" in str(error)
        assert not in_order or proposal < 1 or f"proposal_blocks ({proposal})" in str(error)
    else:
        assert in_order and in_time
        assert timing.start(1) > timing.vote(0) > timing.serve(0) > timing.commit(0) > timing.seal(0) > timing.start(0)


@given(st.integers(0, 500))
def test_the_last_decided_round_is_the_newest_whose_vote_block_has_come(block: int) -> None:
    decided = [number for number in range(30) if TIMING.vote(number) <= block]
    assert TIMING.last_decided(block) == (decided[-1] if decided else -1)


PACES = st.lists(st.tuples(st.integers(1, 6), st.integers(8, 30)), max_size=3)


@given(PACES, st.integers(0, 400))
def test_rounds_follow_each_other_without_a_gap_through_changes_of_pace(
    paces: list[tuple[int, int]], block: int
) -> None:
    timing, first = TIMING, 0
    for rounds, length in paces:
        first += rounds
        changes = {"seal_blocks": 1, "commit_blocks": 3, "vote_blocks": 6, "blocks_per_round": length}
        timing = timing.from_round(first, **changes)
    starts = [timing.start(number) for number in range(60)]
    for number in range(59):
        assert timing.start(number + 1) - timing.start(number) == timing.of(number).blocks_per_round
        assert timing.start(number) < timing.seal(number) < timing.commit(number) < timing.serve(number)
        assert timing.serve(number) < timing.vote(number) < timing.start(number + 1)
    assert starts == sorted(set(starts)) and starts[0] == TIMING.start(0)
    decided = [number for number in range(60) if timing.vote(number) <= block]
    assert timing.last_decided(block) == (decided[-1] if decided else -1)
