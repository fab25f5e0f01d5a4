"""Show a spreadsheet cell's value the way its number format does. Knows format codes, not workbooks."""

import datetime as dt
import decimal
import math
import re
from typing import Any

LITERALS = re.compile(r'"([^"]*)"|\\(.)|\[\$([^\]-]*)[^\]]*\]|\[[^\]]*\]|_.|\*.')
DIGITS = re.compile(r"([#0?](?:[#0?,]*[#0?])?)(,*)(?:\.([#0?]+)(,*))?")
EXACT = decimal.Context(
    prec=400, rounding=decimal.ROUND_HALF_UP
)  # as spreadsheets round; floats end at 1e308


def format_value(value: Any, number_format: str) -> str:
    """Return a cell's text: 0.15 under '0%' reads '15%', 1234.5 under '"£"#,##0.00' reads '£1,234.50'.

    Dates read as ISO dates, whole numbers without a decimal point, error values as nothing.
    """
    if value is None or (
        isinstance(value, str) and re.fullmatch(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NULL!|NUM!)", value)
    ):
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, dt.datetime):
        return value.date().isoformat() if value.time() == dt.time() else value.isoformat(" ", "minutes")
    if isinstance(value, dt.time):
        return value.isoformat("minutes")
    if isinstance(value, int | float):
        return _format_number(value, number_format or "General")
    return str(value)


def _format_number(value: float, number_format: str) -> str:
    section = number_format.split(";")[0]
    shown = LITERALS.sub(lambda found: found[1] or found[2] or found[3] or "", section)
    digits = DIGITS.search(shown)
    if digits is None or not math.isfinite(value) or re.search(r"General|[Ee][+-]|/|@", shown):
        return _plain(value)
    whole, fraction = digits[1], digits[3] or ""
    thousands = len(digits[2]) + len(digits[4] or "")  # each comma at the end leaves three places out
    exact = abs(decimal.Decimal(repr(value))).scaleb((2 if "%" in shown else 0) - 3 * thousands, EXACT)
    rounded = exact.quantize(decimal.Decimal(1).scaleb(-len(fraction)), context=EXACT)
    text = f"{rounded:{',' if ',' in whole else ''}f}"
    for _ in range(len(fraction) - len(fraction.rstrip("#"))):
        text = text.removesuffix("0")
    text = text.rstrip(".") if fraction else text
    integer, point, rest = text.partition(".")
    text = f"{integer.zfill(whole.count('0'))}{point}{rest}"
    sign = "-" if value < 0 and float(text.replace(",", "")) else ""
    return f"{sign}{shown[: digits.start()]}{text}{shown[digits.end() :]}".strip()


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.12g}"
