"""Block 0: the subnet's rules and whoever is in from the start."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from covenantd.chain.keys import public_key
from covenantd.chain.ledger.permits import assign_permits
from covenantd.chain.ledger.state import MAX_AMOUNT, Account, AllowedRow, NeuronRow, Settings, State
from covenantd.chain.yuma.subnet import MODES
from covenantd.errors import ConfigError

MAX_GENESIS_BYTES = 4 << 20
_NEURON_KEYS = ("hotkey", "stake", "validator_permit")
_SETTING_LIMITS = {
    "netuid": 65535,
    "tempo_blocks": 1 << 20,
    "max_neurons": 4096,
    "max_validators": 4096,
    "max_weight_limit": 65535,
    "kappa": 65535,
    "bonds_penalty": 65535,
    "bonds_moving_average": 1_000_000,
    "alpha_low": 65535,
    "alpha_high": 65535,
    "alpha_steepness": 4000,
    "reveal_period_epochs": 100,
}
_AT_LEAST_ONE = (
    "tempo_blocks",
    "max_neurons",
    "max_validators",
    "max_registrations_per_block",
    "activity_cutoff_blocks",
    "reveal_period_epochs",
)


@dataclass(frozen=True)
class GenesisNeuron:
    hotkey: str
    stake: int = 0  # rao
    validator_permit: bool | None = None  # a check: permits follow from stake


@dataclass(frozen=True)
class Genesis:
    settings: Settings = Settings()
    neurons: tuple[GenesisNeuron, ...] = ()  # uids in this order
    balances: Mapping[str, int] | None = None  # hotkey -> rao
    allowed: tuple[str, ...] = ()  # hotkeys that may register in a private subnet

    def state(self) -> State:
        """The state of block 0. Raises ConfigError if a neuron's stated permit is not what its stake gives."""
        state = State()
        state.settings = self.settings
        for hotkey, balance in (self.balances or {}).items():
            state.accounts.put(hotkey, Account(balance=balance))
        for hotkey in self.allowed:
            state.allowed.put(hotkey, AllowedRow())
        for uid, neuron in enumerate(self.neurons):
            state.accounts.put(neuron.hotkey, replace(state.account(neuron.hotkey), stake=neuron.stake))
            state.put_neuron(uid, NeuronRow(neuron.hotkey, registered_block=0))
        assign_permits(state)
        for uid, neuron in enumerate(self.neurons):
            if neuron.validator_permit not in (None, state.neuron(uid).validator_permit):
                raise ConfigError(
                    f"genesis: neuron {uid} says validator_permit {str(neuron.validator_permit).lower()}, but a "
                    f"permit follows from stake: the {self.settings.max_validators} (max_validators) largest of at "
                    f"least {self.settings.min_permit_stake} rao (min_permit_stake)"
                )
        return state


def read_genesis(path: Path) -> Genesis:
    """Read a genesis file. Raises ConfigError, naming the file and the key."""
    value = read_genesis_json(path)
    try:
        return parse_genesis(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_genesis_json(path: Path) -> Any:
    """What the file says, unchecked. Raises ConfigError, naming the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GENESIS_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the genesis file: {error.strerror}") from None
    if len(data) > MAX_GENESIS_BYTES:
        raise ConfigError(f"{path}: too long for a genesis file")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None


def parse_genesis(value: Any) -> Genesis:
    """{"neurons": [{"hotkey", "stake"?, "validator_permit"?}], "balances": {hotkey: rao}, "allow_list": [hotkey],
    and any of `Settings`}."""
    if not isinstance(value, dict):
        raise ConfigError("genesis: must be an object")
    known = [f.name for f in fields(Settings)]
    _refuse_unknown(value, (*known, "neurons", "balances", "allow_list"), "genesis")
    settings = _settings({name: value[name] for name in known if name in value})
    neurons = tuple(_neuron(i, entry) for i, entry in enumerate(_list(value, "neurons")))
    if len(neurons) > settings.max_neurons:
        raise ConfigError(f"genesis: {len(neurons)} neurons, max_neurons is {settings.max_neurons}")
    if len({n.hotkey for n in neurons}) != len(neurons):
        raise ConfigError("genesis: a hotkey stands twice in neurons")
    balances = value.get("balances", {})
    if not isinstance(balances, dict):
        raise ConfigError("genesis: balances must be an object")
    amounts = {_hotkey(k, "balances"): _amount(v, f"balances.{k}") for k, v in balances.items()}
    if sum(amounts.values()) + sum(n.stake for n in neurons) > MAX_AMOUNT:
        raise ConfigError("genesis: balances and stakes together exceed 2^63 - 1 rao")
    allowed = tuple(dict.fromkeys(_hotkey(entry, "allow_list") for entry in _list(value, "allow_list")))
    if allowed and not settings.private:
        raise ConfigError('genesis: allow_list means nothing unless "private" is true')
    return Genesis(settings, neurons, amounts, allowed)


def _settings(value: Mapping[str, Any]) -> Settings:
    settings = Settings(**{name: _setting(name, entry) for name, entry in value.items()})
    if settings.yuma not in MODES:
        raise ConfigError(f"genesis: yuma must be one of {', '.join(MODES)}")
    if settings.alpha_low > settings.alpha_high:
        raise ConfigError("genesis: alpha_low exceeds alpha_high")
    if settings.owner:
        _hotkey(settings.owner, "owner")
    return settings


def _neuron(index: int, entry: Any) -> GenesisNeuron:
    where = f"neurons[{index}]"
    if not isinstance(entry, dict):
        raise ConfigError(f"genesis: {where} must be an object")
    _refuse_unknown(entry, _NEURON_KEYS, where)
    permit = entry.get("validator_permit")
    if permit is not None and not isinstance(permit, bool):
        raise ConfigError(f"genesis: {where}.validator_permit must be true or false")
    return GenesisNeuron(_hotkey(entry.get("hotkey"), where), _amount(entry.get("stake", 0), f"{where}.stake"), permit)


def _setting(name: str, value: Any) -> Any:
    kind = type(getattr(Settings(), name))
    if type(value) is not kind:
        raise ConfigError(f"genesis: {name} must be {kind.__name__}")
    if kind is str and len(value) > 64:
        raise ConfigError(f"genesis: {name} is longer than 64 characters")
    low, high = int(name in _AT_LEAST_ONE), _SETTING_LIMITS.get(name, MAX_AMOUNT >> 20)
    if kind is int and not low <= value <= high:
        raise ConfigError(f"genesis: {name} must be between {low} and {high}")
    return value


def _hotkey(value: Any, where: str) -> str:
    try:
        public_key(value)
    except (ValueError, TypeError):
        raise ConfigError(f"genesis: {where}: {value!r:.80} is not an ss58 hotkey") from None
    return str(value)


def _amount(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_AMOUNT:
        raise ConfigError(f"genesis: {where} must be an amount in rao")
    return value


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    entries = value.get(name, [])
    if not isinstance(entries, list):
        raise ConfigError(f"genesis: {name} must be a list")
    return entries


def _refuse_unknown(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"{where}: unknown key {key!r:.80}" + (f", did you mean {near[0]!r}?" if near else ""))
