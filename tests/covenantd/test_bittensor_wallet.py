"""Wallets as btcli leaves them: the hotkey is read, a bare coldkey beside it is refused."""

from pathlib import Path

import bittensor
import pytest

from covenantd import doctorhost
from covenantd.chain.keys import create_hotkey, load_hotkey, verify
from covenantd.chain.wallet import bare_coldkey, refuse_bare_coldkey
from covenantd.config import ChainConfig, Config, IdentityConfig
from covenantd.configcheck import _hotkey_problem
from covenantd.errors import ConfigError
from covenantd.registration import register


@pytest.fixture
def wallet(tmp_path: Path) -> bittensor.Wallet:
    made = bittensor.Wallet(name="mine", hotkey="validator", path=str(tmp_path))
    made.create_new_hotkey(use_password=False, suppress=True)
    return made


def hotkey_of(tmp_path: Path) -> Path:
    return tmp_path / "mine" / "hotkeys" / "validator"


def test_a_wallets_hotkey_signs(wallet: bittensor.Wallet, tmp_path: Path) -> None:
    key = load_hotkey(hotkey_of(tmp_path))
    assert key.hotkey == wallet.hotkey.ss58_address
    assert wallet.hotkey.verify(b"message", key.sign(b"message"))
    assert verify(key.hotkey, b"message", bytes(wallet.hotkey.sign(b"message")))
    refuse_bare_coldkey(hotkey_of(tmp_path), allowed=False)


def test_a_bare_coldkey_is_refused_unless_allowed(wallet: bittensor.Wallet, tmp_path: Path) -> None:
    wallet.create_new_coldkey(use_password=False, suppress=True)
    path = hotkey_of(tmp_path)
    with pytest.raises(ConfigError, match=r"mine/coldkey: .*allow_coldkey"):
        refuse_bare_coldkey(path, allowed=False)
    refuse_bare_coldkey(path, allowed=True)
    config = Config(identity=IdentityConfig(hotkey=path), origins={"identity.hotkey": "here"})
    assert "coldkey" in str(_hotkey_problem(config))
    assert [one.name for one in doctorhost.keys(config) if one.level == "failure"] == ["coldkey"]


def test_encrypted_keys_are_told_from_bare_ones(wallet: bittensor.Wallet, tmp_path: Path) -> None:
    wallet.create_new_coldkey(use_password=True, suppress=True, coldkey_password="a-long-Passw0rd")
    refuse_bare_coldkey(hotkey_of(tmp_path), allowed=False)
    hotkey_of(tmp_path).write_bytes((tmp_path / "mine" / "coldkey").read_bytes())  # as an encrypted hotkey looks
    with pytest.raises(ConfigError, match="encrypted"):
        load_hotkey(hotkey_of(tmp_path))


def test_a_link_into_a_wallet_is_followed(wallet: bittensor.Wallet, tmp_path: Path) -> None:
    wallet.create_new_coldkey(use_password=False, suppress=True)
    link = tmp_path / "hotkey.json"
    link.symlink_to(hotkey_of(tmp_path))
    assert bare_coldkey(link) == tmp_path / "mine" / "coldkey"


def test_a_hotkey_outside_of_wallets_has_no_coldkey(tmp_path: Path) -> None:
    create_hotkey(tmp_path / "hotkey.json")
    (tmp_path / "coldkey").write_bytes((tmp_path / "hotkey.json").read_bytes())
    refuse_bare_coldkey(tmp_path / "hotkey.json", allowed=False)


async def test_registration_is_sent_to_where_the_coldkey_is(wallet: bittensor.Wallet, tmp_path: Path) -> None:
    config = Config(identity=IdentityConfig(hotkey=hotkey_of(tmp_path)), chain=ChainConfig("bittensor", "finney"))
    with pytest.raises(ConfigError, match="btcli subnets register --netuid 9"):
        await register(config, 9)
