"""Whether two endpoints tell of the same chain: one alone could show a joiner a chain of its own."""

import structlog

from covenantd.agreement import persistently
from covenantd.chain.protocol import Chain
from covenantd.errors import ConfigError

log = structlog.get_logger("covenantd.secondopinion")


async def compare(chain: Chain, second: Chain, endpoint: str, other: str) -> None:
    """At the newest block that is final for both; one that does not answer is waited for. Raises ConfigError."""
    head = await persistently(chain.block, "head")
    number = min(head.number, (await persistently(second.block, "head of [chain] second")).number)
    here = await persistently(lambda: chain.block(number), f"block {number}")
    there = await persistently(lambda: second.block(number), f"block {number} of [chain] second")
    if here.hash != there.hash:
        raise ConfigError(
            f"[chain] endpoint {endpoint} says that block {number} is {here.hash[:16]}, [chain] second {other} that it "
            f"is {there.hash[:16]}: one of them is wrong or on another chain; ask the run's owner which to use"
        )
    log.info("two endpoints tell of the same chain", block=number, hash=here.hash[:16])
