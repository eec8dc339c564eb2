from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p._multiaddr import AddressError, decode, encode, peer_id_from_bytes, peer_id_to_bytes, split_peer

PEER = "12D3KooWDASkxrmYJTmEAYaqYUxaunRit6799XKKSvF2wp4AMTc5"


@pytest.mark.parametrize(
    ("text", "raw"),
    [  # the vectors of multiformats' own implementations
        ("/ip4/127.0.0.1/tcp/4001", "047f000001060fa1"),
        ("/ip6/::1/tcp/80", "29000000000000000000000000000000010600" + "50"),
        ("/dns4/example.org/tcp/443", "360b6578616d706c652e6f72670601bb"),
        ("/ip4/10.0.0.1/udp/4001/quic-v1", "040a00000191020fa1cd03"),
        ("/unix/tmp/p2pd.sock", "90030e2f746d702f703270642e736f636b"),
    ],
)
def test_golden_vectors(text: str, raw: str) -> None:
    assert encode(text).hex() == raw
    assert decode(bytes.fromhex(raw)) == text


def test_addresses_with_peer_ids_round_trip() -> None:
    relayed = f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}"
    assert decode(encode(relayed)) == relayed
    assert split_peer(relayed) == (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit", PEER)


@given(st.binary(min_size=1, max_size=64))
def test_peer_ids_round_trip(raw: bytes) -> None:
    assert peer_id_to_bytes(peer_id_from_bytes(raw)) == raw


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    with suppress(AddressError):
        decode(raw)


@given(st.text(max_size=80) | st.from_regex(r"(/(ip4|ip6|tcp|dns|p2p|unix)/[^/]{0,9}){1,4}"))
def test_any_text_encodes_or_is_refused(text: str) -> None:
    with suppress(AddressError):
        decode(encode(text))


@pytest.mark.parametrize(
    "text", ["", "/", "x", "/ip4", "/ip4/1.2.3.4/tcp/70000", "/ip4/1.2.3.4", "/ip4/1.2.3.4/p2p/0OIl"]
)
def test_split_peer_refuses(text: str) -> None:
    with pytest.raises(AddressError):
        split_peer(text)
