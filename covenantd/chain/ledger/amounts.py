"""Amounts as people write them: `1.5` is one and a half units, `100rao` a hundred billionths of one."""

from decimal import Decimal, InvalidOperation

from covenantd.chain.ledger.state import MAX_AMOUNT

RAO_PER_UNIT = 1_000_000_000
_MAX_CHARACTERS = 40


def parse_amount(text: str) -> int:
    """Rao. Raises ValueError for what is negative, finer than a rao, too much, or no number."""
    number = text.removesuffix("rao")
    plain = len(text) <= _MAX_CHARACTERS and number.isascii() and number.replace(".", "", 1).isdigit()
    try:
        rao = Decimal(number) * (1 if number != text else RAO_PER_UNIT) if plain else Decimal("NaN")
    except InvalidOperation:
        rao = Decimal("NaN")
    if not rao.is_finite() or rao != rao.to_integral_value() or rao > MAX_AMOUNT:
        raise ValueError(f"{text!r:.60} is no amount: write 1.5, or 100rao")
    return int(rao)


def amount_text(rao: int) -> str:
    """In units, without zeros at the end."""
    whole, rest = divmod(rao, RAO_PER_UNIT)
    return f"{whole}.{rest:09}".rstrip("0") if rest else str(whole)
