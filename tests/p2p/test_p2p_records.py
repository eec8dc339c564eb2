import struct

import pytest
from bittensor_core import Keypair
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import RecordRejected
from p2p.records import MAX_RECORD_BYTES, NO_ROUND, Record, open_record, sign

RUN, OTHER_RUN = "ab" * 32, "cd" * 32


class Hotkey:
    def __init__(self, uri: str) -> None:
        self._keypair = Keypair.create_from_uri(uri)

    @property
    def hotkey(self) -> str:
        return self._keypair.ss58_address

    def sign(self, message: bytes) -> bytes:
        return self._keypair.sign(message)


def verify(hotkey: str, message: bytes, signature: bytes) -> bool:
    try:
        return Keypair(ss58_address=hotkey).verify(message, signature)
    except ValueError:
        return False


ALICE, BOB = Hotkey("//Alice"), Hotkey("//Bob")


def signed(signer=ALICE, **changes) -> bytes:
    fields = {"run_id": RUN, "kind": "commit", "round": 7, "peer_id": "12D3KooWtest", "body": {"blob": b"x"}}
    return sign(signer, **{**fields, "issued_at": 1.5, **changes})


def reason(data: bytes, **changes) -> str:
    with pytest.raises(RecordRejected) as caught:
        open_record(data, verify, **{"run_id": RUN, "kind": "commit", **changes})
    return caught.value.reason


def test_a_record_opens_as_it_was_signed():
    record = open_record(signed(), verify, run_id=RUN, kind="commit", round=7, hotkey=ALICE.hotkey)
    assert record == Record(RUN, "commit", 7, ALICE.hotkey, "12D3KooWtest", record.body, 1.5)
    assert record.content() == {"blob": b"x"}
    assert record.fields().raw("blob", exact=1) == b"x"


def test_each_mismatch_has_its_word():
    assert reason(signed(run_id=OTHER_RUN)) == "run"
    assert reason(signed(kind="receipt")) == "kind"
    assert reason(signed(round=8), round=7) == "round"
    assert reason(signed(BOB), hotkey=ALICE.hotkey) == "hotkey"
    assert reason(signed(), peer_id="12D3KooWother") == "peer"
    assert reason(b"\0" * (MAX_RECORD_BYTES + 1)) == "oversized"
    assert reason(b"") == reason(signed()[:150]) == "malformed"


def test_every_flipped_bit_is_noticed():
    data = signed()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        assert reason(bytes(broken)) in {"signature", "run", "kind", "malformed"}


def test_another_hotkeys_name_on_a_record_is_a_bad_signature():
    data = signed(BOB).replace(BOB.hotkey.encode(), ALICE.hotkey.encode())
    assert reason(data) == "signature"


def test_a_signature_for_something_else_is_no_record():
    data = signed()
    assert reason(ALICE.sign(data[64:]) + data[64:]) == "signature"  # without the domain


def test_the_body_is_not_parsed_before_the_signature_is_checked():
    header = signed()[64:-8]
    data = ALICE.sign(b"covenantd record 1\0" + header + b"\xc1junk") + header + b"\xc1junk"
    assert reason(data[:-1] + b"?") == "signature"
    opened = open_record(data, verify, run_id=RUN, kind="commit")
    with pytest.raises(RecordRejected, match="malformed"):
        opened.fields()


def test_the_layout_is_as_documented():
    data = signed(round=NO_ROUND)
    run, round, issued_at = struct.unpack_from(">32sqd", data, 64)
    assert (run.hex(), round, issued_at) == (RUN, -1, 1.5)
    texts = b"\x06commit" + bytes([48]) + ALICE.hotkey.encode() + b"\x0c12D3KooWtest"
    assert data[64 + 48 :] == texts + b"\x81\xa4blob\xc4\x01x"


@pytest.mark.parametrize("changes", [{"issued_at": float("nan")}, {"issued_at": float("inf")}, {"round": -2}])
def test_numbers_out_of_range_are_malformed(changes):
    assert reason(signed(**changes)) == "malformed"


def test_a_record_that_nobody_would_accept_is_not_signed():
    with pytest.raises(ValueError, match="exceeds"):
        signed(body={"x": b"\0" * MAX_RECORD_BYTES})
    with pytest.raises(ValueError):
        signed(kind="")
    with pytest.raises(ValueError):
        signed(kind="ü")


@given(st.binary(max_size=400))
def test_byte_soup_is_rejected(soup):
    assert reason(soup) in {"malformed", "run"}


@given(st.binary(max_size=300))
def test_byte_soup_under_a_good_header_is_rejected(soup):
    assert reason(signed()[: 64 + 48] + soup) in {"malformed", "kind", "signature"}
