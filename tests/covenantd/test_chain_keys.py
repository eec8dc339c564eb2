import json
import os
from pathlib import Path

import bittensor_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.chain.keys import Hotkey, create_hotkey, load_hotkey, public_key, verify
from covenantd.errors import ConfigError, PermissionRefused

ALICE = Hotkey.from_uri("//Alice")


def test_a_created_key_is_private_and_loads_as_the_same(tmp_path: Path) -> None:
    path = tmp_path / "hotkey"
    former = os.umask(0)
    try:
        key = create_hotkey(path)
    finally:
        os.umask(former)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_hotkey(path).hotkey == key.hotkey
    assert verify(key.hotkey, b"m", load_hotkey(path).sign(b"m"))
    assert public_key(key.hotkey).hex() == key.public_key_hex


def test_the_file_is_bittensors(tmp_path: Path) -> None:
    key = create_hotkey(tmp_path / "hotkey")
    data = (tmp_path / "hotkey").read_bytes()
    assert bittensor_core.deserialize_keypair_from_keyfile_data(data).ss58_address == key.hotkey
    assert {"secretPhrase", "secretSeed", "ss58Address", "publicKey"} <= json.loads(data).keys()


def test_never_over_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "hotkey"
    create_hotkey(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="already"):
        create_hotkey(path)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="directory"):
        create_hotkey(tmp_path / "nowhere" / "hotkey")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: no such key file; `covenantd init`"):
        load_hotkey(tmp_path / "absent")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "hotkey"
    create_hotkey(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_hotkey(path)


def test_unless_systemd_handed_it_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create_hotkey(tmp_path / "hotkey")
    (tmp_path / "hotkey").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_hotkey(tmp_path / "hotkey").hotkey == key.hotkey
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "other"))
    with pytest.raises(ConfigError):
        load_hotkey(tmp_path / "hotkey")


def _private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_an_encrypted_file_is_refused_in_words(tmp_path: Path) -> None:
    data = bittensor_core.encrypt_keyfile_data(ALICE.file_bytes(), "password")
    with pytest.raises(ConfigError, match="encrypted"):
        load_hotkey(_private(tmp_path / "hotkey", data))


def test_a_public_file_cannot_sign(tmp_path: Path) -> None:
    data = json.dumps({"ss58Address": ALICE.hotkey}).encode()
    with pytest.raises(ConfigError, match="secret"):
        load_hotkey(_private(tmp_path / "hotkeypub.txt", data))


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises((ConfigError, PermissionRefused)):
            load_hotkey(path)
    with pytest.raises(ConfigError, match="too long"):
        load_hotkey(_private(tmp_path / "big", b"x" * 100_000))


@pytest.mark.parametrize("field", ["secretSeed", "ss58Address"])
def test_the_message_on_a_damaged_file_holds_no_secret(tmp_path: Path, field: str) -> None:
    content = json.loads(Hotkey.generate().file_bytes())
    content[field] = json.loads(Hotkey.generate().file_bytes())[field]
    if field == "secretSeed":
        del content["secretPhrase"], content["privateKey"]
    with pytest.raises(ConfigError) as caught:
        load_hotkey(_private(tmp_path / "hotkey", json.dumps(content).encode()))
    assert content["secretSeed"][2:] not in str(caught.value)
    assert caught.value.__suppress_context__  # nor does a traceback


@given(st.binary(max_size=200))
def test_garbage_is_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = _private(tmp_path_factory.mktemp("keys") / "hotkey", data)
    with pytest.raises(ConfigError):
        load_hotkey(path)


def test_the_secret_is_not_shown() -> None:
    assert repr(ALICE) == f"Hotkey({ALICE.hotkey})"


@given(st.one_of(st.text(), st.just(ALICE.hotkey), st.none(), st.binary()), st.binary(), st.binary())
def test_verify_never_raises(hotkey: object, message: bytes, signature: bytes) -> None:
    assert verify(hotkey, message, signature) is False  # type: ignore[arg-type]
    assert verify(hotkey, message, signature[:64].ljust(64, b"\0")) is False  # type: ignore[arg-type]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_verify_takes_any_32_bytes_for_a_key(key: bytes, signature: bytes) -> None:
    assert verify(bittensor_core.ss58_encode(key), b"message", signature) is False


@given(st.binary(max_size=300), st.integers(0, 511))
def test_a_flipped_bit_is_seen(message: bytes, bit: int) -> None:
    signature = bytearray(ALICE.sign(message))
    assert verify(ALICE.hotkey, message, bytes(signature))
    assert not verify(ALICE.hotkey, message + b"x", bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(ALICE.hotkey, message, bytes(signature))


def test_one_key_has_one_spelling() -> None:
    other = bittensor_core.ss58_encode(public_key(ALICE.hotkey), 0)
    assert not verify(other, b"m", ALICE.sign(b"m"))
    with pytest.raises(ValueError):
        public_key(other)
