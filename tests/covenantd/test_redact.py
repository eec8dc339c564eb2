"""Secrets in settings and text: none leaves the machine, and what is no secret stays readable."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from covenantd import logs
from covenantd.redact import REDACTED, redact_text, redact_value

KEY = "0f3a9bC2d71E4a5b8899aabbccddeeff"
SECRETS = [
    (f"chain at wss://{KEY}@node.example:443 is slow", KEY),
    ("tcp://me:hunter2@host", "hunter2"),
    (f"wss://host/?api-key={KEY}&a=1", KEY),
    (f"https://host/x?access_token={KEY}", KEY),
    (f"GET /x?X-Amz-Signature={KEY}", KEY),
    (f"wss://host/v1/{KEY}", KEY),
    ("wss://host/v1/short", "short"),
    (f"https://mainnet.example/v3/{KEY}/head", KEY),
    ("Authorization: Bearer ab12", "ab12"),
    ("{'Authorization': 'Basic bWU6aHVudGVyMg=='}", "bWU6aHVudGVyMg=="),
    (f"sent with bearer {KEY}", KEY),
    ("mnemonic: one two three", "two"),
    ("the mnemonic is read: one two three four", "two"),
    ("secret phrase = one, two, three", "two"),
    ('{"secretPhrase": "one two three"}', "two"),
    (r'{"event": "read {\"secretPhrase\": \"one two three\", \"x\": 1}"}', "two"),
    (r'{"event": "{\"e\": \"{\\\"secretSeed\\\": \\\"0xabcdef01\\\"}\"}"}', "abcdef01"),
    (r'{"event": "{\"password\": \"a\\\"b hunter2\"}"}', "hunter2"),
    (r'{"password": "a\"hunter2"}', "hunter2"),
    ('{"password": "hunter2 is cut o', "hunter2"),
    ("password=hunter2", "hunter2"),
    ("API_KEY=hunter2", "hunter2"),
    ("x-api-key: hunter2", "hunter2"),
    ("token: hunter2", "hunter2"),
]
INNOCENT = [
    "tcp://127.0.0.1:9945",
    "round 7: 512 tokens, tokens_per_second=91.5, tokenizer=abc",
    "/ip4/192.0.2.7/tcp/31330/p2p/12D3KooWGatU9DoRkc8GDR4fq6TZKXSiYdmbwWAYKMPBTG3oFjhW",
    f"state_hash={KEY}{KEY}",
    '{"event": "seed peers", "reason": "key", "round": 3}',
    "wss://entrypoint-finney.opentensor.ai:443",
    "https://ui.perfetto.dev and https://docs.example/guide/how-to-set-things-up",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_in_text(text: str, secret: str) -> None:
    shown = redact_text(text)
    assert secret not in shown and REDACTED in shown
    assert secret not in redact_text(json.dumps({"event": text})), "and as a line of the log"
    assert secret not in redact_text(json.dumps({"event": json.dumps({"error": text})})), "and one level deeper"


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_json_stays_json() -> None:
    for text in (
        '{"password": null, "round": 1}',
        '{"password": "x", "a": [1]}',
        r'{"a": "{\"token\": \"x\", \"b\": 2}", "c": 3}',
        '{"event": "token: abc", "c": 3}',
        '{"event": "wss://host/v1/key", "c": 3}',
    ):
        assert json.loads(redact_text(text))
    assert json.loads(redact_text('{"password": "x", "round": 1}'))["round"] == 1


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("chain.endpoint", "wss://user:pass@host:443/x", f"wss://{REDACTED}@host:443/{REDACTED}"),
        ("chain.endpoint", "wss://token@host:443", f"wss://{REDACTED}@host:443"),
        ("chain.endpoint", "wss://host/?api_key=xyz&a=1", f"wss://host/?api_key={REDACTED}&a=1"),
        ("chain.endpoint", "tcp://127.0.0.1:9945", "tcp://127.0.0.1:9945"),
        ("some.password", "x", REDACTED),
        ("some.api_key", "x", REDACTED),
        ("some.token_path", "/etc/token", "/etc/token"),
        ("run.seed", "/etc/blobs", "/etc/blobs"),
        ("network.bootstrap", ("/ip4/1.2.3.4/tcp/1",), ["/ip4/1.2.3.4/tcp/1"]),
        ("engine.threads", 4, 4),
    ],
)
def test_settings(name: str, value: object, shown: object) -> None:
    assert redact_value(name, value) == shown


@given(st.text(), st.text(alphabet=st.characters(categories=("L", "N")), min_size=8))
def test_any_secret(before: str, secret: str) -> None:
    for text in (f'{{"secretSeed": "{secret}"}}', f"password={secret}", f"tcp://u:{secret}@h"):
        assert secret not in redact_text(text)
        assert secret not in redact_text(json.dumps({"event": text}, ensure_ascii=False))
    assert isinstance(redact_text(before), str)


def test_a_private_key_block() -> None:
    key = "-----BEGIN " + "PRIVATE KEY-----\nMC4CAQ\n-----END " + "PRIVATE KEY-----"
    assert redact_text(f"a {key} b") == f"a {REDACTED} b"
    assert "MC4CAQ" not in redact_text(key[:40])
    assert redact_text(f"{key[20:]} b") == f"{REDACTED} b", "its beginning is in the part of the log before"


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_the_log_itself_and_what_a_bug_report_takes_of_it(restored: None) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out, {})
    for text, _ in SECRETS:
        structlog.get_logger("a").info(text, error=text, seen={"error": text})
    assert all(json.loads(line) for line in out.getvalue().splitlines())
    lines = redact_text("\n".join(logs.recent.lines()[-len(SECRETS) :]))
    for _, secret in SECRETS:
        assert secret not in lines
