import os
import stat

import base58 as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import IdentityError
from p2p.identity import base58, create_identity, ensure_identity, peer_id_of

# go-libp2p printed this peer id for the key of 32 bytes 0x01 (p2pd of hivemind 1.1.12)
GOLDEN_SEED = bytes([1] * 32)


def test_a_new_identity_is_private_and_stable(tmp_path):
    path = tmp_path / "p2p.key"
    peer_id = create_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert peer_id.startswith("12D3KooW")
    assert peer_id_of(path) == ensure_identity(path) == peer_id
    assert [p.name for p in tmp_path.iterdir()] == ["p2p.key"]


def test_an_identity_is_never_overwritten(tmp_path):
    path = tmp_path / "p2p.key"
    peer_id = create_identity(path)
    with pytest.raises(IdentityError, match="never overwritten"):
        create_identity(path)
    assert peer_id_of(path) == peer_id
    assert [p.name for p in tmp_path.iterdir()] == ["p2p.key"]


def test_the_file_is_libp2ps_private_key_message(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(GOLDEN_SEED).public_key().public_bytes_raw()
    path = tmp_path / "p2p.key"
    path.touch(0o600)
    path.write_bytes(b"\x08\x01\x12\x40" + GOLDEN_SEED + public)
    assert peer_id_of(path) == "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "p2p.key"
    create_identity(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        peer_id_of(path)


@pytest.mark.parametrize(
    "data", [b"", b"\x08\x01\x12\x40" + b"x" * 63, b"\x08\x00\x12\x40" + b"x" * 64, os.urandom(5000)]
)
def test_what_is_no_identity_is_refused(tmp_path, data):
    path = tmp_path / "p2p.key"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(IdentityError, match="not an Ed25519"):
        peer_id_of(path)


def test_halves_that_disagree_are_refused(tmp_path):
    path = tmp_path / "p2p.key"
    create_identity(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IdentityError, match="disagree"):
        peer_id_of(path)


def test_a_missing_identity_names_the_command(tmp_path):
    with pytest.raises(IdentityError, match="covenantd init"):
        peer_id_of(tmp_path / "none")
    with pytest.raises(IdentityError, match="cannot write"):
        create_identity(tmp_path / "no" / "such" / "directory")


@given(st.binary(max_size=64))
def test_base58_agrees_with_the_reference(data):
    assert base58(data) == reference.b58encode(data).decode()
