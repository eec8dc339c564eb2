"""`covenantd register`: gives this peer's hotkey a uid on the ledger. On Bittensor that is wallet tooling's work."""

import argparse
from pathlib import Path

import trio

from covenantd import runspec
from covenantd.chain.keys import load_hotkey, verify
from covenantd.chain.ledger.client import LedgerChain
from covenantd.chain.protocol import Metagraph
from covenantd.config import DEFAULT_PATH, Config, load_config
from covenantd.errors import EXIT_OK, ChainRefused, ConfigError

_ALREADY = "HotKeyAlreadyRegisteredInSubNet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", default=DEFAULT_PATH, help=str(DEFAULT_PATH))
    parser.add_argument("--netuid", type=int, metavar="N", help="the run spec's; 1 while there is no run spec")


def main(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    netuid = _netuid(config) if args.netuid is None else args.netuid
    print(trio.run(register, config, netuid))
    return EXIT_OK


def _netuid(config: Config) -> int:
    return runspec.read(config.run.spec, verify).chain.netuid if config.run.spec.exists() else 1


async def register(config: Config, netuid: int) -> str:
    """Register unless we are; says the outcome in a line. Raises ConfigError, ChainError, ChainRefused."""
    hotkey = load_hotkey(config.identity.hotkey)
    if config.chain.kind == "bittensor":
        raise ConfigError(
            "a Bittensor subnet registers a hotkey by its coldkey, which has no place on this host; where that key is, "
            f"run: btcli subnets register --netuid {netuid}  (hotkey {hotkey.hotkey})"
        )
    chain = LedgerChain(config.chain.endpoint, netuid, hotkey)
    try:
        news = await _news(chain)
        metagraph = await chain.metagraph((await chain.block()).number)
    finally:
        await chain.aclose()
    return f"{hotkey.hotkey} {news}uid {_uid(metagraph, hotkey.hotkey)} of netuid {netuid}"


async def _news(chain: LedgerChain) -> str:
    try:
        return f"registered in block {await chain.register()}: "
    except ChainRefused as refusal:
        if refusal.name != _ALREADY:
            raise
        return "was registered already: "


def _uid(metagraph: Metagraph, hotkey: str) -> str:
    neuron = metagraph.neuron(hotkey)
    return "?" if neuron is None else str(neuron.uid)
