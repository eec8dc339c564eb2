"""Takes out what must not leave the machine: secrets in settings, credentials in URLs, key material in text. Pure."""

import re

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"(^|_)(secret\w*|seed|mnemonic|password|passphrase|private_key|token)($|_(?!path))", re.IGNORECASE
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")
_QUERY_SECRET = re.compile(r"(?i)([?&;](?:api_?key|key|token|secret|password|auth)=)[^&\s\"']+")
_ASSIGNED = re.compile(
    r"(?i)(\"?\b(?:secretphrase|secretseed|secret_?key|secret|mnemonic|password|passphrase|private_?key)\b\"?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|\S+)"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


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
    text = _PEM.sub(REDACTED, text)
    text = _CREDENTIALS.sub(REDACTED, text)
    text = _QUERY_SECRET.sub(rf"\1{REDACTED}", text)
    return _ASSIGNED.sub(rf"\1{REDACTED}", text)
