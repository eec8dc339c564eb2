"""`covenantd doctor` on a Bittensor chain: in words, what would keep this peer from taking part."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import trio

from covenantd import runspec
from covenantd.chain.bittensor.client import BittensorChain
from covenantd.chain.bittensor.standing import Standing, read_standing
from covenantd.chain.keys import load_hotkey, verify
from covenantd.chain.opening import open_chain
from covenantd.chain.protocol import Metagraph
from covenantd.config import Config
from covenantd.doctorchain import chain_findings as common_findings
from covenantd.errors import ChainError, ChainRefused, CovenantError
from covenantd.finding import Finding, failure, ok, skipped, warning
from covenantd.runspec import RunSpec

_FIRST_ANSWER_SECONDS = 45.0  # the SDK's import and the chain's metadata come before it
_VOTE_BYTES = 256  # at most: identity and vote
_SEEN_BACK_BLOCKS = 300  # a node that prunes keeps 256
_RAO = 10**9


def chain_findings(config: Config) -> list[Finding]:
    """Asks the chain that `[chain]` names. Changes nothing, signs nothing."""
    try:
        spec: RunSpec | None = runspec.read(config.run.spec, verify)
    except CovenantError:
        spec = None  # said by another check
    if spec is None:
        return [skipped("chain", "which subnet is the run's, its run spec would say")]
    try:
        hotkey = load_hotkey(config.identity.hotkey).hotkey
    except CovenantError:
        hotkey = None  # so is this
    return trio.run(_examined, config, spec, hotkey)


async def _examined(config: Config, spec: RunSpec, hotkey: str | None) -> list[Finding]:
    chain = open_chain(config.chain, spec.chain.netuid)
    assert isinstance(chain, BittensorChain)  # who calls looked at [chain] kind
    try:
        return await examine(config, spec, spec.chain.netuid, chain, hotkey)
    finally:
        await chain.aclose()


async def examine(
    config: Config,
    spec: RunSpec | None,
    netuid: int,
    chain: BittensorChain,
    hotkey: str | None,
    wall: Callable[[], float] = time.time,
) -> list[Finding]:
    """What is wrong, most basic first; the rest is left out where the chain does not answer at all."""
    try:
        with trio.fail_after(_FIRST_ANSWER_SECONDS):
            head = await chain.block()
            metagraph = await chain.metagraph(head.number)
    except trio.TooSlowError:
        return [_no_answer(chain, f"no answer in {_FIRST_ANSWER_SECONDS:g} s")]
    except ChainRefused as refusal:
        return [_refused(chain, netuid, refusal)]
    except ChainError as error:
        return [_no_answer(chain, str(error))]
    found = [_in_words_of_bittensor(one, netuid) for one in await common_findings(config, spec, chain, hotkey, wall)]
    found += await _memory(chain, head.number)
    if hotkey is not None and metagraph.neuron(hotkey) is not None:
        found += await _limits(config, spec, chain, netuid, metagraph, hotkey)
    return found


def _no_answer(chain: BittensorChain, why: str) -> Finding:
    fix = "try another node: [chain] endpoint takes a network's name (finney, test) or ws://HOST:PORT, wss://HOST"
    if "turns us away" in why:
        fix = "its operator limits this address: wait as long as it says, or use a node of your own or a paid one"
    return failure("chain", why if chain.endpoint in why else f"{chain.endpoint}: {why}", fix)


def _refused(chain: BittensorChain, netuid: int, refusal: ChainRefused) -> Finding:
    if refusal.name == "SubnetNotExists":
        fix = "is this the network of the run? set [chain] endpoint, or get the right run spec"
        return failure("chain", f"{chain.endpoint} has no subnet {netuid}", fix)
    return failure("chain", f"{chain.endpoint}: {refusal}", "see what the chain means by that name")


def _in_words_of_bittensor(finding: Finding, netuid: int) -> Finding:
    """The common examination knows the ledger's remedies."""
    if finding.level == "failure" and finding.name == "registration" and "not registered" in finding.what:
        fix = f"register it where its coldkey is: btcli subnets register --netuid {netuid}"
        return replace(finding, fix=fix)
    if finding.level == "failure" and finding.name == "chain" and "begins with" not in finding.what:
        return replace(finding, fix="try another node: set [chain] endpoint")
    return finding


async def _memory(chain: BittensorChain, head: int) -> list[Finding]:
    """Who joins, or was away, verifies votes of long ago."""
    if head <= _SEEN_BACK_BLOCKS:
        return []
    try:
        await chain.block(head - _SEEN_BACK_BLOCKS)
    except ChainRefused:
        what = (
            f"the node has forgotten the state of {_SEEN_BACK_BLOCKS} blocks ago: votes of past rounds cannot be read"
        )
        return [warning("chain-archive", what, "set [chain] archive to a node that keeps all states")]
    except ChainError as error:
        return [warning("chain-archive", f"the state of {_SEEN_BACK_BLOCKS} blocks ago: {error}", "try again")]
    return [ok("chain-archive", "old states can be read")]


async def _limits(
    config: Config, spec: RunSpec | None, chain: BittensorChain, netuid: int, metagraph: Metagraph, hotkey: str
) -> list[Finding]:
    try:
        standing = await chain.ask("limits", lambda connection: read_standing(connection, netuid, hotkey))
    except (ChainError, ChainRefused) as error:
        return [warning("chain-limits", f"the chain's limits could not be read: {error}", "try again")]
    found = [_quota(standing)]
    if config.node.role == "validator":
        found += _weights(spec, standing, metagraph, hotkey)
    return found


def _quota(standing: Standing) -> Finding:
    left, allowed = standing.commitment_bytes_left, standing.commitment_bytes_allowed
    what = f"{left} of {allowed} bytes of commitments are left in this epoch"
    if left < _VOTE_BYTES:
        fix = "nothing else may publish commitments with this hotkey; the count starts anew with the next epoch"
        return warning("commitment-quota", what, fix)
    return ok("commitment-quota", what)


def _weights(spec: RunSpec | None, standing: Standing, metagraph: Metagraph, hotkey: str) -> Iterator[Finding]:
    neuron = metagraph.neuron(hotkey)
    stake, least = neuron.stake if neuron else 0, standing.weights_min_stake
    if stake < least:
        what = f"its stake of {stake / _RAO:g} is below the {least / _RAO:g} that setting weights takes"
        yield failure("weights-stake", what, "add stake to the hotkey: btcli stake add")
    limit, wait = standing.weights_rate_limit_blocks, standing.weights_wait_blocks
    if spec is not None and limit > spec.timing.blocks_per_round:
        what = f"the chain takes weights every {limit} blocks, a round has {spec.timing.blocks_per_round}"
        yield warning("weights-rate-limit", what, "weights of some rounds will come late; none of them is lost")
    elif wait:
        yield ok("weights-rate-limit", f"weights were set lately; the chain takes more in {wait} blocks")
    else:
        yield ok("weights-rate-limit", f"one write in {limit} blocks; the next is possible now")
