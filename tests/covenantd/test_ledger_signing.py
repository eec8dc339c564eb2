import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covenantd.chain.keys import Hotkey
from covenantd.chain.ledger.signing import DOMAIN, call_digest, open_call, sign_call
from covenantd.chain.ledger.state import Refusal, canonical_json

ALICE, BOB = Hotkey.from_uri("//Alice"), Hotkey.from_uri("//Bob")
GENESIS = "ab" * 32


def submit(submission: dict[str, str], genesis: str = GENESIS) -> Any:
    return open_call(submission["hotkey"], submission["call"], submission["signature"], genesis)


def refusal(submission: dict[str, str], genesis: str = GENESIS) -> str:
    with pytest.raises(Refusal) as caught:
        submit(submission, genesis)
    return caught.value.name


def signed(body: str, signer: Hotkey = ALICE) -> dict[str, str]:
    signature = signer.sign(DOMAIN + body.encode("ascii")).hex()
    return {"hotkey": signer.hotkey, "call": body, "signature": signature}


def body(**changes: Any) -> str:
    fields = {"args": {}, "genesis": GENESIS, "hotkey": ALICE.hotkey, "method": "register", "nonce": 1}
    return canonical_json(fields | changes)


def test_round_trip() -> None:
    call = submit(sign_call(ALICE, GENESIS, 7, "add_stake", {"amount": 5}))
    assert (call.hotkey, call.nonce, call.method, call.args) == (ALICE.hotkey, 7, "add_stake", {"amount": 5})


def test_the_signed_bytes_are_fixed() -> None:
    submission = sign_call(ALICE, GENESIS, 1, "set_commitment", {"fields": ["00ff"]})
    assert submission["call"] == (
        '{"args":{"fields":["00ff"]},"genesis":"' + GENESIS + '","hotkey":"'
        '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY","method":"set_commitment","nonce":1}'
    )
    assert call_digest(submission["call"]) == "a9467faf76d0b6d53dd628a3b0ffbd53a8666c70965cc293f4d06450fd1e9a3d"


def test_whose_signature_counts() -> None:
    submission = sign_call(ALICE, GENESIS, 1, "register", {})
    assert refusal(submission | {"hotkey": BOB.hotkey}) == "BadSignature"
    assert refusal(signed(body(hotkey=BOB.hotkey))) == "BadSignature"
    assert refusal(submission | {"signature": ""}) == "BadSignature"
    assert refusal(submission | {"signature": "zz" * 64}) == "BadSignature"
    assert refusal(submission | {"signature": ALICE.sign(submission["call"].encode()).hex()}) == "BadSignature"
    assert refusal(submission, "cd" * 32) == "WrongGenesis"


@given(st.data())
def test_any_change_breaks_the_signature(data: st.DataObject) -> None:
    submission = sign_call(ALICE, GENESIS, 1, "set_commitment", {"fields": ["00ff"]})
    text = submission["call"]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[at]))
    assert refusal(submission | {"call": text[:at] + other + text[at + 1 :]}) == "BadSignature"


def test_one_call_has_one_text() -> None:
    assert submit(signed(body())).method == "register"
    assert refusal(signed(body() + " ")) == "MalformedCall"
    assert refusal(signed(json.dumps(json.loads(body())))) == "MalformedCall"
    assert refusal(signed(body()[:-1] + ',"nonce":1}')) == "MalformedCall"
    assert refusal(signed(body(extra=1))) == "MalformedCall"
    assert refusal(signed("[" * 50_000)) == "MalformedCall"
    assert refusal(signed("x" * 70_000)) == "MalformedCall"
    assert refusal(signed("NaN")) == "MalformedCall"
    with pytest.raises(Refusal, match="ASCII"):
        open_call(ALICE.hotkey, "é", "00" * 64, GENESIS)


@pytest.mark.parametrize("nonce", [0, -1, 1 << 63, True, 1.5, "1", None])
def test_nonces_are_counts(nonce: object) -> None:
    assert refusal(signed(body(nonce=nonce))) == "MalformedCall"


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("register", {"x": 1}),
        ("add_stake", {}),
        ("add_stake", {"amount": -1}),
        ("add_stake", {"amount": 1 << 63}),
        ("add_stake", {"amount": True}),
        ("transfer", {"to": "nobody", "amount": 1}),
        ("transfer", {"to": None, "amount": 1}),
        ("set_commitment", {"fields": "00"}),
        ("set_commitment", {"fields": ["0"]}),
        ("set_commitment", {"fields": ["FF"]}),
        ("set_commitment", {"fields": ["00" * 129]}),
        ("set_commitment", {"fields": [""] * 17}),
        ("set_weights", {"uids": [0], "values": [65536], "version_key": 0}),
        ("set_weights", {"uids": [-1], "values": [1], "version_key": 0}),
        ("set_weights", {"uids": [0.0], "values": [1], "version_key": 0}),
        ("set_weights", {"uids": [0], "values": [1]}),
        ("register", []),
        ("register", None),
    ],
)
def test_arguments_have_a_shape(method: str, args: object) -> None:
    assert refusal(signed(body(method=method, args=args))) == "InvalidArguments"


@pytest.mark.parametrize("method", ["mint", "", None, 1, ["register"]])
def test_unknown_methods(method: object) -> None:
    assert refusal(signed(body(method=method))) == "UnknownMethod"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda c: st.lists(c) | st.dictionaries(st.text(), c),
)


@given(st.dictionaries(st.sampled_from(["args", "genesis", "hotkey", "method", "nonce", "x"]), _json))
def test_a_hostile_signer_gets_a_refusal(fields: dict[str, Any]) -> None:
    refusal(signed(canonical_json(fields)))


@given(_json)
def test_a_hostile_signer_of_anything(value: object) -> None:
    refusal(signed(canonical_json(value)))
