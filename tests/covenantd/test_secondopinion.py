"""A joiner with two endpoints believes neither alone."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from ledger_fixture import StartLedger
from run_fixture import SPEC, WrittenChain, h

from covenantd import daemon
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Block
from covenantd.config import ChainConfig, Config
from covenantd.errors import ConfigError
from covenantd.secondopinion import compare


@dataclass
class Forged(WrittenChain):
    """As the other, up to a block."""

    until: int = 0

    async def block(self, number: int | None = None) -> Block:
        block = await super().block(number)
        return block if block.number <= self.until else Block(block.number, h("forged"), 0.0)


@pytest.mark.parametrize("heads", [(70, 70), (70, 64), (64, 70)])
async def test_two_that_agree_at_the_newest_block_of_both_are_believed(heads: tuple[int, int]) -> None:
    """One may be ahead: that block, the other does not know yet."""
    one, other = (WrittenChain([1], head=head) for head in heads)
    await compare(one, other, "one", "other")
    assert max(one.read) <= 70 and one.read[-1] == other.read[-1] == min(heads)


async def test_two_that_differ_stop_the_joiner_in_words() -> None:
    with pytest.raises(
        ConfigError, match="endpoint tcp://a says that block 64 is .*second tcp://b that it is"
    ) as caught:
        await compare(WrittenChain([1], head=70), Forged([1], head=64, until=63), "tcp://a", "tcp://b")
    assert caught.value.exit_code == 78 and h("forged")[:16] in str(caught.value)


async def test_one_that_does_not_answer_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    began, silent = trio.current_time(), WrittenChain([1], head=70, failures=5)
    await compare(WrittenChain([1], head=70), silent, "one", "other")
    assert silent.failures == 0 and trio.current_time() - began > 5


async def test_the_daemon_opens_the_second_endpoint_that_its_config_names(start_ledger: StartLedger) -> None:
    one, other = start_ledger({"salt": "one"}), start_ledger({"salt": "other"})
    chain = LedgerChain(one.endpoint, 1)
    node: Any = SimpleNamespace(chain=chain, spec=SPEC)
    await daemon._compare_endpoints(node, ChainConfig(endpoint=one.endpoint, second=one.endpoint))
    with pytest.raises(ConfigError, match=f"second {other.endpoint} that it"):
        await daemon._compare_endpoints(node, ChainConfig(endpoint=one.endpoint, second=other.endpoint))
    await chain.aclose()


async def test_the_wrong_chain_is_named_without_the_key_in_its_url() -> None:
    config = Config(chain=ChainConfig(endpoint="wss://node.example/v1/S3CRET"))
    node: Any = SimpleNamespace(chain=Forged([1], head=70, until=-1), spec=SPEC, config=config)
    with pytest.raises(ConfigError, match="chain wss://node.example.* begins with block") as caught:
        await daemon._check_chain(node)
    assert "S3CRET" not in str(caught.value)
