"""`covenantd plan`: everything a new run needs, in one directory: run spec, tokenizer, tokens and θ_0 as blobs.

One inner step is measured here, on this machine, so that the run spec's H and deadlines leave every round a factor
of two: slow machines get fewer steps, not void rounds.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import trio

from covenantd import runspec
from covenantd.chain.bittensor.endpoint import chain_kind
from covenantd.chain.keys import create_hotkey, load_hotkey
from covenantd.chain.opening import open_chain
from covenantd.config import ChainConfig
from covenantd.errors import EXIT_OK, ConfigError, CovenantError
from covenantd.roster import MAX_CONTRIBUTIONS
from covenantd.runspec import ChainSpec, Dataset, RunSpec, Scoring
from covenantd.timing import Timing
from model.config import CODECS, OUTER, CompressionConfig, InnerConfig, ModelConfig, compression_named
from p2p.blobs import BlobStore
from p2p.child import Child
from p2p.manifest import MAX_PIECE_BYTES, MIN_PIECE_BYTES

BLOBS, SPEC = "blobs", "run.json"
ALPHA_HELP = f"outer learning rate ({', '.join(f'{codec} {alpha:g}' for codec, (alpha, _) in OUTER.items())})"
PIECE_HELP = "size of the pieces that blobs travel in (64 KiB for small models, up to 1 MiB for large ones)"
CODEC_HELP = f"what peers send: {', '.join(CODECS)} ({CompressionConfig().codec})"
_GENESIS_SECONDS = 3600.0
_STATE_ALLOWANCE_BYTES = 1 << 20
_LEAST_PIECE_BYTES, _MOST_PIECE_BYTES, _STATE_PIECES = 64 << 10, 1 << 20, 1 << 15
_FULL_ROUND_STEPS = 30
_TRAIN_SECONDS = 5.0  # what a round's training window aims at on a small machine
_MARGIN = 2.0


@dataclass(frozen=True)
class Load:
    """What shares a machine, to guess how much slower a step gets than the one measured alone."""

    miners: int
    validators: int
    cores: int

    @property
    def contention(self) -> float:
        return max(1.0, 1.3 * (self.miners + self.validators) / self.cores)


@dataclass(frozen=True)
class Pace:
    """Seconds of each part of a round, and the inner steps that fit."""

    inner_steps: int
    train_seconds: float
    commit_seconds: float
    certify_seconds: float
    step_seconds: float


def pace(inner_step_seconds: float, load: Load, scoring: Scoring, batch_sequences: int) -> Pace:
    """`inner_step_seconds`: one step measured alone on one thread. A forward pass is about a third of a step; scoring
    takes one set of sequences before and two after for each contribution, and one that all share."""
    step = inner_step_seconds * load.contention
    train = max(_TRAIN_SECONDS, _MARGIN * step)
    steps = max(1, min(_FULL_ROUND_STEPS, int(train / (_MARGIN * step))))
    forward_passes = (3 * load.miners + 1) * math.ceil(scoring.sequences / batch_sequences)
    certify = max(4.0, _MARGIN * (1.0 + forward_passes * step / 3))
    return Pace(steps, train, max(2.0, 4 * step), certify, max(2.0, 20 * step))


@dataclass(frozen=True)
class Beat:
    """A chain's blocks. `proposal_blocks`: from a finalized head, which may be seen late and lie behind the newest
    block, over a proposal sent upon it, to the block that includes the votes for it."""

    block_seconds: float
    proposal_blocks: int


LEDGER = Beat(1.0, 2)
BITTENSOR = Beat(12.0, 6)  # 3 until a block is final, 1 to propose and judge, 2 for a vote to be included


def timing(pace: Pace, start_block: int, block_seconds: float, proposal_blocks: int = LEDGER.proposal_blocks) -> Timing:
    """Each part of a round lasts as long as its pace says, and as many blocks as what happens on chain in it needs:
    votes in the turns of two certifiers that fail and of a third, and so far into the end of the round; heads that
    differ by half a proposal while commits are closed and contributions opened."""

    def blocks(seconds: float, least: int) -> int:
        return max(least, math.ceil(seconds / block_seconds))

    skew = proposal_blocks // 2
    seal = blocks(pace.train_seconds, 1)
    commit = seal + blocks(pace.commit_seconds, skew)
    vote = commit + skew + blocks(pace.certify_seconds, 4 * proposal_blocks)
    return Timing(
        start_block=start_block,
        blocks_per_round=vote + blocks(pace.step_seconds, proposal_blocks),
        seal_blocks=seal,
        commit_blocks=commit,
        vote_blocks=vote,
        serve_slack_blocks=skew,
        block_seconds=block_seconds,
        proposal_blocks=proposal_blocks,
    )


@dataclass(frozen=True)
class Genesis:
    """What `model.genesis` made: see there. Paths are relative to `directory`."""

    directory: Path
    data: dict[str, Any]

    @property
    def inner_step_seconds(self) -> float:
        return float(self.data["inner_step_seconds"])


async def genesis(
    directory: Path, preset: str, seed: int, on_line: Callable[[str], None], data: Path | None = None
) -> Genesis:
    """Run `model.genesis` as a process of its own (it needs torch). Raises CovenantError with its last words.

    `data`: what `covenantd data` has made; without, the bundled text.
    """
    await trio.Path(directory).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", "-m", "model.genesis", "--preset", preset, "--out", str(directory)]
    command += [] if data is None else ["--data", str(data)]
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        child = Child([*command, "--seed", str(seed)], output=write_end)
    finally:
        os.close(write_end)
    last = ""
    try:
        with trio.fail_after(_GENESIS_SECONDS):
            async with trio.lowlevel.FdStream(read_end) as stream:
                pending = b""
                async for chunk in stream:
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        last = line.decode(errors="replace")
                        on_line(last)
            returncode = await child.wait()
    finally:
        await child.stop(grace_seconds=0)
    if returncode != 0:
        raise CovenantError(f"making the run's model and data failed ({returncode}): {last}")
    return Genesis(directory, json.loads(last))


def piece_bytes_for(state_bytes: int) -> int:
    """Every piece costs a request and a hash, so a large state has large ones; yet a contribution, a 280th of it,
    should have some dozens: each can be relayed as soon as it is there."""
    return min(max(_LEAST_PIECE_BYTES, 1 << (state_bytes // _STATE_PIECES).bit_length()), _MOST_PIECE_BYTES)


def adopt(made: Genesis, store: BlobStore, piece_bytes: int, keep: bool = False) -> tuple[Dataset, str]:
    """Turn the files into blobs (`keep`: leave them there, too).

    Returns the dataset and θ_0's blob id, which is its state hash.
    """
    data = made.data

    def blob(name: str) -> str:
        return store.adopt(made.directory / name, piece_bytes, keep)

    sizes = [(made.directory / name).stat().st_size for name in (*data["train_shards"], data["theta"])]
    dataset = Dataset(
        tokenizer=blob(data["tokenizer"]),
        train_shards=tuple(blob(name) for name in data["train_shards"]),
        heldout_shard=blob(data["heldout_shard"]),
        max_blob_bytes=max(sizes) + _STATE_ALLOWANCE_BYTES,
    )
    return dataset, blob(data["theta"])


@dataclass(frozen=True)
class Wishes:
    """What the owner of a new run chooses."""

    name: str
    piece_bytes: int
    alpha: float
    roster_size: int
    netuid: int
    owner: str  # hotkey, ss58
    compression: CompressionConfig = CompressionConfig()


def compose(
    made: Genesis, blobs: tuple[Dataset, str], chosen: Wishes, paced: Pace, when: Timing, chain_genesis: str
) -> RunSpec:
    dataset, theta = blobs
    inner = InnerConfig(warmup_steps=2 * paced.inner_steps)
    return RunSpec(
        name=chosen.name,
        model=ModelConfig(**made.data["model"]),
        inner=inner,
        compression=chosen.compression,
        piece_bytes=chosen.piece_bytes,
        genesis_state=theta,
        dataset=dataset,
        inner_steps=paced.inner_steps,
        min_inner_steps=1,
        alpha=chosen.alpha,
        roster_size=chosen.roster_size,
        snapshot_rounds=1,
        timing=when,
        scoring=Scoring(),
        chain=ChainSpec(netuid=chosen.netuid, genesis=chain_genesis),
        owner=chosen.owner,
    )


def codec(text: str) -> CompressionConfig:
    """For --codec."""
    try:
        return compression_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def alpha_of(args: argparse.Namespace) -> float:
    """--alpha, else what goes with --codec."""
    alpha: float | None = args.alpha
    return OUTER[args.codec.codec][0] if alpha is None else alpha


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, help="where run.json and the blobs go")
    parser.add_argument("--chain", required=True, metavar="ENDPOINT", help="e.g. tcp://10.0.0.1:9945, or finney")
    parser.add_argument("--owner", type=Path, help="hotkey file that signs the run spec; made if absent")
    parser.add_argument("--name", default="covenant", help="the run's name")
    parser.add_argument("--preset", default="nano", help="model preset")
    parser.add_argument("--netuid", type=whole(0, (1 << 16) - 1), default=1)
    parser.add_argument(
        "--miners", type=whole(1, 1 << 16), default=4, help="miners expected at the start, all on machines like this"
    )
    parser.add_argument("--alpha", type=number(1e-9, 1e9), metavar="A", help=ALPHA_HELP)
    parser.add_argument("--roster-size", type=whole(1, MAX_CONTRIBUTIONS), default=20)
    parser.add_argument("--piece-bytes", type=whole(MIN_PIECE_BYTES, MAX_PIECE_BYTES), metavar="BYTES", help=PIECE_HELP)
    parser.add_argument(
        "--block-seconds", type=number(0.01, 3600), metavar="S",
        help=f"as the chain makes them ({LEDGER.block_seconds:g}; {BITTENSOR.block_seconds:g} on Bittensor)",
    )  # fmt: skip
    parser.add_argument("--start-in-seconds", type=number(0, 1e9), default=60.0, help="when round 0 begins, from now")
    parser.add_argument("--codec", type=codec, default=CompressionConfig(), metavar="CODEC", help=CODEC_HELP)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, metavar="DIR", help="tokens that `covenantd data` made (bundled text)")


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer in [low, high]."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number in [low, high]."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number from {low:g} to {high:g}")
        return value

    return parse


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def beat_of(endpoint: str, block_seconds: float | None) -> Beat:
    beat = BITTENSOR if chain_kind(endpoint) == "bittensor" else LEDGER
    return beat if block_seconds is None else replace(beat, block_seconds=block_seconds)


def main(args: argparse.Namespace) -> int:
    return trio.run(_main, args)


async def _main(args: argparse.Namespace) -> int:
    if (args.dir / SPEC).exists():
        raise ConfigError(f"{args.dir / SPEC} exists: a run is made once; choose another --dir")
    args.dir.mkdir(parents=True, exist_ok=True)
    owner_file = args.owner or args.dir / "owner-hotkey.json"
    owner = load_hotkey(owner_file) if owner_file.exists() else create_hotkey(owner_file)
    chain = open_chain(ChainConfig(chain_kind(args.chain), args.chain), args.netuid)
    origin = await chain.block(0)  # first of all: without a chain the rest would be in vain
    made = await genesis(args.dir / "genesis", args.preset, args.seed, _tell, args.data)
    head = await chain.block()
    await chain.aclose()
    piece_bytes = args.piece_bytes or piece_bytes_for((made.directory / made.data["theta"]).stat().st_size)
    blobs = adopt(made, BlobStore(args.dir / BLOBS), piece_bytes)
    load = Load(miners=args.miners, validators=0, cores=max(1, args.miners))
    paced = pace(made.inner_step_seconds, load, Scoring(), InnerConfig().batch_sequences)
    beat = beat_of(args.chain, args.block_seconds)
    when = timing(paced, head.number + 1 + math.ceil(args.start_in_seconds / beat.block_seconds), *astuple(beat))
    alpha = alpha_of(args)
    wishes = Wishes(args.name, piece_bytes, alpha, args.roster_size, args.netuid, owner.hotkey, args.codec)
    spec = compose(made, blobs, wishes, paced, when, origin.hash)
    runspec.write(args.dir / SPEC, spec, owner)
    print(f"run {spec.run_id[:16]} in {args.dir / SPEC}: {paced.inner_steps} inner steps a round of "
          f"{when.blocks_per_round * beat.block_seconds:.0f} s, first round at block {when.start_block}")  # fmt: skip
    return EXIT_OK
