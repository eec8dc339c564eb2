"""`covenantd doctor` on the chain: does it answer, is it the run's, are we on it, do the clocks agree."""

import time
from collections.abc import Callable, Iterator

import trio

from covenantd.chain.protocol import Block, Chain, Metagraph
from covenantd.config import Config
from covenantd.ctloutput import duration
from covenantd.errors import ChainError, ChainRefused, ConfigError
from covenantd.finding import Finding, failure, ok, warning
from covenantd.runspec import RunSpec

_SECONDS = 15.0
_SKEW_SECONDS = 2.0  # ahead of us: a block cannot be from the future
_LATE_BLOCKS = 6  # that old the newest block may be before somebody's clock, or the chain, is wrong


async def chain_findings(
    config: Config, spec: RunSpec | None, chain: Chain, hotkey: str | None, wall: Callable[[], float] = time.time
) -> list[Finding]:
    """Asks the chain for its head, its origin and who is registered."""
    try:
        with trio.fail_after(_SECONDS):
            head, origin = await chain.block(), await chain.block(0)
            metagraph = await chain.metagraph(head.number)
    except trio.TooSlowError:
        return [_silent(config, f"no answer in {_SECONDS:g} s")]
    except (ChainError, ChainRefused, ConfigError) as error:
        return [_silent(config, str(error))]
    found = [_origin(config, spec, head, origin)]
    found += _clock(spec, head, wall())
    return [*found, *([] if hotkey is None else _registration(config, metagraph, hotkey))]


def _silent(config: Config, why: str) -> Finding:
    fix = "is the ledger up and its address right? Try from here: covenantd ledger --help; set [chain] endpoint"
    return failure("chain", f"{config.chain.endpoint}: {why}", fix)


def _origin(config: Config, spec: RunSpec | None, head: Block, origin: Block) -> Finding:
    if spec is not None and spec.chain.genesis != origin.hash:
        what = f"{config.chain.endpoint} begins with block {origin.hash[:16]}, the run wants {spec.chain.genesis[:16]}"
        return failure("chain", what, "set [chain] endpoint to the chain of the run, or get the right run spec")
    return ok("chain", f"{config.chain.endpoint} answers, block {head.number}")


def _clock(spec: RunSpec | None, head: Block, now: float) -> Iterator[Finding]:
    """By the newest block's time: it is at most a few block times old, and never from the future."""
    age, block_seconds = now - head.timestamp, spec.timing.block_seconds if spec else 12.0
    allowed = _SKEW_SECONDS + _LATE_BLOCKS * block_seconds
    sync = "timedatectl set-ntp true (or install chrony), then `timedatectl` must say: synchronized: yes"
    if age < -_SKEW_SECONDS:
        yield failure("clock", f"this clock is {duration(-age)} behind the chain's", sync)
    elif age > allowed:
        what = f"the newest block is {duration(age)} old by this clock: it runs ahead, or the chain stands still"
        yield warning("clock", what, f"{sync}; if the clock is right, look after the chain")
    else:
        yield ok("clock", f"agrees with the chain's (newest block {max(0.0, age):.1f} s old)")


def _registration(config: Config, metagraph: Metagraph, hotkey: str) -> Iterator[Finding]:
    if config.node.role == "bootstrap":
        yield ok("registration", "not needed by a bootstrap peer")
        return
    neuron = metagraph.neuron(hotkey)
    if neuron is None:
        fix = "covenantd register --config FILE, or have the subnet's owner register it"
        yield failure("registration", f"{hotkey} is not registered on subnet {metagraph.netuid}", fix)
    elif config.node.role == "validator" and not neuron.validator_permit:
        fix = "permits go to the largest stakes at each epoch: add stake to the hotkey, then wait for one"
        yield failure("registration", f"uid {neuron.uid} has no validator permit", fix)
    else:
        yield ok("registration", f"uid {neuron.uid} on subnet {metagraph.netuid}")
