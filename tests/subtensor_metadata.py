"""Metadata (V15) of as much of a Subtensor runtime as covenantd meets.

Names, shapes and hashers are the chain's, so the SDK's own codec encodes and decodes what a scripted node says."""

import struct
from collections.abc import Mapping, Sequence

from bittensor._generated.errors import ERRORS

PRIMITIVES = ("bool", "char", "str", "u8", "u16", "u32", "u64", "u128")
IDENTITY, TWOX64, BLAKE128 = 6, 5, 2
OPTIONAL, DEFAULT = 0, 1
PALLETS = {"System": 0, "Timestamp": 2, "Aura": 3, "SubtensorModule": 7, "Commitments": 18}
SIGNED_EXTENSIONS = ("CheckSpecVersion", "CheckTxVersion", "CheckGenesis", "CheckMortality", "CheckNonce")


def compact(value: int) -> bytes:
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return struct.pack("<H", value << 2 | 1)
    assert value < 1 << 30
    return struct.pack("<I", value << 2 | 2)


def text(value: str) -> bytes:
    return compact(len(value.encode())) + value.encode()


def listed(items: Sequence[bytes]) -> bytes:
    return compact(len(items)) + b"".join(items)


def option(value: bytes | None) -> bytes:
    return b"\0" if value is None else b"\1" + value


class Types:
    """The portable registry: each distinct type once."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}

    def add(self, definition: bytes, path: str = "") -> int:
        parts = [text(part) for part in path.split("::")] if path else []
        body = listed(parts) + listed([]) + definition + listed([])
        return self._ids.setdefault(body, len(self._ids))

    def primitive(self, name: str) -> int:
        return self.add(bytes([5, PRIMITIVES.index(name)]))

    def sequence(self, of: int) -> int:
        return self.add(b"\2" + compact(of))

    def array(self, length: int, of: int) -> int:
        return self.add(b"\3" + struct.pack("<I", length) + compact(of))

    def tuple_of(self, *of: int) -> int:
        return self.add(b"\4" + listed([compact(one) for one in of]))

    def compact(self, of: int) -> int:
        return self.add(b"\6" + compact(of))

    def struct(self, path: str, fields: Mapping[str, int] | Sequence[int]) -> int:
        return self.add(b"\0" + _fields(fields), path)

    def enum(self, path: str, variants: Mapping[str, tuple[int, Mapping[str, int] | Sequence[int]]]) -> int:
        written = [
            text(name) + _fields(fields) + bytes([index]) + listed([]) for name, (index, fields) in variants.items()
        ]
        return self.add(b"\1" + listed(written), path)

    def option(self, of: int) -> int:
        return self.enum("Option", {"None": (0, ()), "Some": (1, (of,))})

    def encoded(self) -> bytes:
        return listed([compact(number) + body for body, number in self._ids.items()])


def _fields(fields: Mapping[str, int] | Sequence[int]) -> bytes:
    named = fields.items() if isinstance(fields, Mapping) else [(None, one) for one in fields]
    return listed(
        [option(None if name is None else text(name)) + compact(of) + option(None) + listed([]) for name, of in named]
    )


class Runtime:
    """Everything by name, then `encoded`."""

    def __init__(self) -> None:
        self.types = types = Types()
        self.u8, self.u16, self.u32, self.u64 = (types.primitive(name) for name in ("u8", "u16", "u32", "u64"))
        self.bool, self.bytes = types.primitive("bool"), types.sequence(self.u8)
        self.account = types.struct("sp_core::crypto::AccountId32", [types.array(32, self.u8)])
        self.hash = types.struct("primitive_types::H256", [types.array(32, self.u8)])
        self.commitment_info = self._commitment_info()
        self.call = self._call()

    def encoded(self) -> bytes:
        apis = self._apis()
        extrinsic, pallets = self._extrinsic(), self._pallets()
        call, unit = compact(self.call), self.types.tuple_of()
        enums = call + compact(self._event()) + compact(unit)
        body = self.types.encoded() + pallets + extrinsic + compact(unit) + apis + enums + listed([])
        return b"meta" + bytes([15]) + body

    def _commitment_info(self) -> int:
        data = {"None": (0, ())}
        data |= {f"Raw{n}": (n + 1, (self.types.array(n, self.u8),)) for n in range(129)}  # type: ignore[dict-item]
        fields = self.types.sequence(self.types.enum("pallet_commitments::types::Data", data))
        bounded = self.types.struct("bounded_collections::bounded_vec::BoundedVec", [fields])
        return self.types.struct("pallet_commitments::types::CommitmentInfo", {"fields": bounded})

    def _account_info(self) -> int:
        counts = {name: self.u32 for name in ("nonce", "consumers", "providers", "sufficients")}
        return self.types.struct("frame_system::AccountInfo", counts)

    def _call(self) -> int:
        u16s = self.types.sequence(self.u16)
        weights = {"netuid": self.u16, "mecid": self.u8, "dests": u16s, "weights": u16s, "version_key": self.u64}
        sealed = {
            "netuid": self.u16,
            "mecid": self.u8,
            "commit": self.bytes,
            "reveal_round": self.u64,
            "commit_reveal_version": self.u16,
        }
        subtensor = {"set_mechanism_weights": (119, weights), "commit_timelocked_mechanism_weights": (118, sealed)}
        commit = {"set_commitment": (0, {"netuid": self.u16, "info": self.commitment_info})}
        calls = {"SubtensorModule": subtensor, "Commitments": commit}
        self.calls = {name: self.types.enum(f"pallet_{name.lower()}::pallet::Call", c) for name, c in calls.items()}
        return self.types.enum(
            "node_subtensor_runtime::RuntimeCall", {name: (PALLETS[name], (of,)) for name, of in self.calls.items()}
        )

    def _event(self) -> int:
        unit = {name: (index, ()) for index, name in enumerate(("Normal", "Operational", "Mandatory"))}
        weight = self.types.struct(
            "sp_weights::weight_v2::Weight",
            {name: self.types.compact(self.u64) for name in ("ref_time", "proof_size")},
        )
        info = self.types.struct(
            "frame_support::dispatch::DispatchInfo",
            {
                "weight": weight,
                "class": self.types.enum("frame_support::dispatch::DispatchClass", unit),
                "pays_fee": self.types.enum("frame_support::dispatch::Pays", {"Yes": (0, ()), "No": (1, ())}),
            },
        )
        module = self.types.struct("sp_runtime::ModuleError", {"index": self.u8, "error": self.types.array(4, self.u8)})
        error = self.types.enum("sp_runtime::DispatchError", {"Other": (0, ()), "Module": (3, (module,))})
        outcomes = {
            "ExtrinsicSuccess": (0, {"dispatch_info": info}),
            "ExtrinsicFailed": (1, {"dispatch_error": error, "dispatch_info": info}),
        }
        system = self.types.enum("frame_system::pallet::Event", outcomes)
        return self.types.enum("node_subtensor_runtime::RuntimeEvent", {"System": (0, (system,))})

    def _extrinsic(self) -> bytes:
        types, unit = self.types, self.types.tuple_of()
        address = types.enum("sp_runtime::multiaddress::MultiAddress", {"Id": (0, (self.account,))})
        signatures = {"Ed25519": (0, (types.array(64, self.u8),)), "Sr25519": (1, (types.array(64, self.u8),))}
        signature = types.enum("sp_runtime::MultiSignature", signatures)
        eras = {"Immortal": (0, ())} | {f"Mortal{n}": (n, (self.u8,)) for n in range(1, 256)}
        era = types.enum("sp_runtime::generic::era::Era", eras)
        tip = types.compact(types.primitive("u128"))
        extensions = {
            "CheckSpecVersion": (unit, self.u32),
            "CheckTxVersion": (unit, self.u32),
            "CheckGenesis": (unit, self.hash),
            "CheckMortality": (era, self.hash),
            "CheckNonce": (types.compact(self.u32), unit),
            "ChargeTransactionPayment": (tip, unit),
        }
        written = [text(n) + compact(extra) + compact(signed) for n, (extra, signed) in extensions.items()]
        ids = (address, self.call, signature, types.tuple_of(*(extra for extra, _ in extensions.values())))
        return bytes([4]) + b"".join(compact(one) for one in ids) + listed(written)

    def _storage(self) -> dict[str, dict[str, tuple[int, tuple[tuple[int, int], ...], int]]]:
        """Pallet -> item -> (modifier, ((hasher, key type), ...), value type)."""
        types, subnet = self.types, (IDENTITY, self.u16)
        phase = types.enum("frame_system::Phase", {"ApplyExtrinsic": (0, (self.u32,)), "Finalization": (1, ())})
        record = {"phase": phase, "event": self._event(), "topics": types.sequence(self.hash)}
        events = types.sequence(types.struct("frame_system::EventRecord", record))
        registration = types.struct(
            "pallet_commitments::types::Registration",
            {"deposit": self.u64, "block": self.u32, "info": self.commitment_info},
        )
        usage = types.struct(
            "pallet_commitments::types::UsageTracker", {"last_epoch": self.u64, "used_space": self.u64}
        )
        mode = types.enum("subtensor::SubnetEpochConsensus", {"Yuma": (0, ()), "Null": (1, ())})
        revealed = types.sequence(types.tuple_of(self.bytes, self.u64))
        by_subnet = {
            "CommitRevealWeightsEnabled": self.bool,
            "WeightsSetRateLimit": self.u64,
            "LastUpdate": types.sequence(self.u64),
            "MinAllowedWeights": self.u16,
            "MaxWeightsLimit": self.u16,
            "SubnetEpochConsensus": mode,
            "Tempo": self.u16,
            "RevealPeriodEpochs": self.u64,
            "LastEpochBlock": self.u64,
            "PendingEpochAt": self.u64,
            "SubnetEpochIndex": self.u64,
            "BlocksSinceLastStep": self.u64,
        }
        subtensor = {name: (DEFAULT, (subnet,), of) for name, of in by_subnet.items()}
        subtensor["Uids"] = (OPTIONAL, (subnet, (BLAKE128, self.account)), self.u16)  # type: ignore[assignment]
        row = types.sequence(types.tuple_of(self.u16, self.u16))
        subtensor["Weights"] = (DEFAULT, (subnet, (IDENTITY, self.u16)), row)  # type: ignore[assignment]
        subtensor["StakeThreshold"] = (DEFAULT, (), self.u64)  # type: ignore[assignment]
        whose = (subnet, (TWOX64, self.account))
        return {
            "Aura": {},
            "System": {
                "Events": (DEFAULT, (), events),
                "Account": (DEFAULT, ((BLAKE128, self.account),), self._account_info()),
            },
            "Timestamp": {"Now": (DEFAULT, (), self.u64)},
            "SubtensorModule": subtensor,  # type: ignore[dict-item]
            "Commitments": {
                "CommitmentOf": (OPTIONAL, whose, registration),
                "RevealedCommitments": (OPTIONAL, whose, revealed),
                "UsedSpaceOf": (OPTIONAL, whose, usage),
                "MaxSpace": (DEFAULT, (), self.u32),
            },
        }

    def _pallets(self) -> bytes:
        storage = self._storage()
        written = []
        for name, index in PALLETS.items():
            entries = [self._entry(item, *shape) for item, shape in storage[name].items()]
            held = option(text(name) + listed(entries))
            call = option(compact(self.calls[name]) if name in self.calls else None)
            errors = {e.name: (i, ()) for (pallet, i), e in ERRORS.items() if e.pallet == name}
            error = option(
                compact(self.types.enum(f"pallet_{name.lower()}::pallet::Error", errors)) if errors else None
            )
            slot = text("SlotDuration") + compact(self.u64) + listed([bytes([b]) for b in struct.pack("<Q", 12_000)])
            constants = listed([slot + listed([])] if name == "Aura" else [])
            written.append(text(name) + held + call + option(None) + constants + error + bytes([index]) + listed([]))
        return listed(written)

    def _entry(self, name: str, modifier: int, keys: tuple[tuple[int, int], ...], value: int) -> bytes:
        if not keys:
            kind = b"\0" + compact(value)
        else:
            key = keys[0][1] if len(keys) == 1 else self.types.tuple_of(*(of for _, of in keys))
            kind = b"\1" + listed([bytes([hasher]) for hasher, _ in keys]) + compact(key) + compact(value)
        default = bytes(1) if modifier == OPTIONAL else bytes(16)  # zero, false, empty, the first of an enum
        return text(name) + bytes([modifier]) + kind + listed([bytes([b]) for b in default]) + listed([])

    def _apis(self) -> bytes:
        types = self.types
        u16, u64 = types.compact(self.u16), types.compact(self.u64)
        u64s, u16s, accounts = types.sequence(u64), types.sequence(u16), types.sequence(self.account)
        columns = {
            "netuid": u16,
            "block": u64,
            "tempo": u16,
            "last_step": u64,
            "blocks_since_last_step": u64,
            "owner_hotkey": self.account,
            "owner_coldkey": self.account,
            "network_registered_at": u64,
            "num_uids": u16,
            "hotkeys": accounts,
            "coldkeys": accounts,
            "validator_permit": types.sequence(self.bool),
            "last_update": u64s,
            "block_at_registration": u64s,
            "incentives": u16s,
            "dividends": u16s,
            "emission": u64s,
            "total_stake": u64s,
            "alpha_stake": u64s,
        }
        graph = types.option(types.struct("pallet_subtensor::rpc_info::metagraph::Metagraph", columns))
        methods = {"get_metagraph": graph, "get_next_epoch_start_block": types.option(self.u64)}
        inputs = listed([text("netuid") + compact(self.u16)])
        written = [text(name) + inputs + compact(output) + listed([]) for name, output in methods.items()]
        return listed([text("SubnetInfoRuntimeApi") + listed(written) + listed([])])
