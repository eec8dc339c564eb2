"""Takes out what must not leave the machine: secrets in settings, credentials in URLs, key material in text. Pure.

Text is redacted wherever it stands, also inside JSON and inside JSON that a JSON string holds (its quotes escaped).
Rather too much than too little: what a chain's endpoint has after its host is gone wholly, for a key may be its path.
"""

import re

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"(^|_)(secret\w*|seed|mnemonic|password|passphrase|private_key|api_?key|authorization|token)($|_(?!path))",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^/\s@\"'\\]+(?=@)")
_QUERY_SECRET = re.compile(
    r"(?i)([?&;][\w.-]*(?:key|token|secret|password|passwd|auth|signature)s?=)[^&;\s\"'\\]+",
)
_ENDPOINT_PATH = re.compile(r"(?i)(\bwss?://[^/\s?#\"'\\]+/)[^\s?#\"'\\,;)]+")
_KEY_IN_PATH = re.compile(r"(?i)(\bhttps?://[^\s\"'\\]*?/)(?=[a-z_-]*\d)(?=[\d_-]*[a-z])[\w-]{20,}")
_BEARER = re.compile(r"(?i)(\bauthorization\\*[\"']?\s*[:=]\s*(?:\\*[\"'])?(?:\w+\s+)?|\bbearer\s+)[\w.~+/=-]{4,}")
_NAME = (
    r"(?:[\w-]*(?:secret[_-]?phrase|secret[_-]?seed|secret[_-]?key|private[_-]?key|api[_-]?key|access[_-]?token|"
    r"auth[_-]?token)|secret|seed[_ -]?phrase|mnemonic|password|passwd|passphrase|token)"
)
_QUOTED = r"(?P<quote>\\+[\"']).*?(?:(?<!\\)(?P=quote)|$)|(?P<double>\")(?:[^\"\\\n]|\\.)*(?:\"|$)|'[^'\n]*(?:'|$)"
_ASSIGNED = re.compile(
    rf"(?im)((?<![\w?&;-]){_NAME}\b(?:\\*[\"'])?\s*[:=]\s*)(?:{_QUOTED}|(?!(?:null|true|false)\b)[^\s\"'\\]*[^\s\"'\\,;}}\]])"
)
_WORDS = re.compile(
    r"(?im)(\b(?:mnemonic|(?:secret|seed|pass)[_ -]?phrase)\b[^:=\n\"\\]{0,30}[:=]?\s*)(?:[a-z]+[ ,]+){2,}[a-z]+\b",
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_PEM_END = re.compile(r"\A.*-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)  # of one whose beginning was cut off
_RULES = (_QUERY_SECRET, _ENDPOINT_PATH, _KEY_IN_PATH, _BEARER, _WORDS)


def redact_value(name: str, value: object) -> object:
    """A setting's value as it may be shown. Paths of secrets are fine: the config holds no secret itself."""
    key = name.rpartition(".")[2]
    if SECRET_NAME.search(key) and name != "run.seed":
        return REDACTED
    if isinstance(value, tuple | list):
        return [redact_value(name, one) for one in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """Logs and errors: whatever looks like a secret, wherever it stands."""
    text = _PEM_END.sub(REDACTED, _PEM.sub(REDACTED, text))
    text = _USERINFO.sub(REDACTED, text)
    for rule in _RULES:
        text = rule.sub(rf"\1{REDACTED}", text)
    return _ASSIGNED.sub(_without_value, text)


def _without_value(found: re.Match[str]) -> str:
    """In quotes what was in quotes: JSON stays JSON."""
    quote = found["quote"] or found["double"] or ""
    return f"{found[1]}{quote}{REDACTED}{quote}"
