"""Personal data and secrets in a text: where they stand, and how they become pseudonyms. Pure functions.

Not looked for: names, street addresses, dates of birth, addresses spelled out ("name at gmail dot com").
"""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import phonenumbers

from factory.text.credentials import secret_spans
from factory.text.identifiers import (
    Span,
    card_spans,
    email_spans,
    iban_spans,
    ip_spans,
    national_id_spans,
    phone_spans,
)

Policy = Literal["redact", "drop", "allow"]
Kind = Literal["secret", "card", "iban", "national_id", "private_email", "email", "ip", "phone"]

# Company numbers and addresses are often the facts themselves; what opens an account never is.
DEFAULT_POLICIES: Mapping[str, Policy] = {
    "secret": "redact",
    "card": "redact",
    "iban": "redact",
    "national_id": "redact",
    "private_email": "redact",
    "email": "allow",
    "ip": "allow",
    "phone": "allow",
}
SEPARATOR = (
    "\n\n\u241e\n\n"  # between texts that are redacted as one; no document means the record separator's sign
)
DEFAULT_REGIONS = ("GB", "US")
# Six digits: any two of 100 values share a name once in 3,400 corpora; more would cost tokens.
NAME_DIGITS = 6
PSEUDONYM = re.compile(rf"<(?:{'|'.join(DEFAULT_POLICIES).upper()})_[0-9A-F]{{{NAME_DIGITS}}}>")


@dataclass(frozen=True)
class Finding:
    """A stretch of a text that holds personal data or a secret; `kind` is a key of `DEFAULT_POLICIES`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Redacted:
    """A text after its policies; `counts` says how many of each kind stood in it, allowed ones included."""

    text: str
    counts: dict[str, int]
    drop: bool


def find_personal(text: str, regions: Sequence[str] = DEFAULT_REGIONS) -> list[Finding]:
    """Return personal data and secrets in order; where two overlap, the graver kind stays.

    Pseudonyms are none. `regions` are the countries (ISO 3166, upper case) whose telephone numbers are known
    without a country code.
    """
    taken = bytearray(len(text))
    for match in PSEUDONYM.finditer(text):
        taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    findings = []
    for kind, (start, end) in _candidates(text, regions):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            findings.append(Finding(kind, start, end))
    return sorted(findings, key=lambda finding: finding.start)


def _candidates(text: str, regions: Sequence[str]) -> Iterator[tuple[str, Span]]:
    """Yield what may overlap, the graver kinds first."""
    yield from (("secret", span) for span in secret_spans(text))
    if re.search(r"\d", text):
        yield from (("card", span) for span in card_spans(text))
        yield from (("iban", span) for span in iban_spans(text))
        yield from (("national_id", span) for span in national_id_spans(text))
    if "@" in text:
        yield from (("private_email" if private else "email", span) for span, private in email_spans(text))
    if re.search(r"\d", text):
        yield from (("ip", span) for span in ip_spans(text))
        yield from (("phone", span) for span in phone_spans(text, regions))


def redact(
    text: str, policies: Mapping[str, Policy], key: bytes, *, regions: Sequence[str] = DEFAULT_REGIONS
) -> Redacted:
    """Replace what the policies do not allow by pseudonyms like `<EMAIL_3F2A91>`; again changes nothing.

    A kind that `policies` leaves out has its default policy. `key` is a secret of the project: equal values
    get equal names under one key, and who lacks it cannot try values out. `drop` says that a kind to be
    dropped stood in the text.
    """
    merged = {**DEFAULT_POLICIES, **policies}
    findings = find_personal(text, regions)
    counts = Counter(finding.kind for finding in findings)
    while masked := [finding for finding in findings if merged[finding.kind] != "allow"]:
        text = _replace(text, masked, key, regions)
        # A name may have uncovered what its value hid, such as a number that had no word boundary.
        findings = find_personal(text, regions)
        counts.update(finding.kind for finding in findings if merged[finding.kind] != "allow")
    drop = any(merged[kind] == "drop" for kind in counts)
    return Redacted(text, dict(sorted(counts.items())), drop)


def _replace(text: str, findings: Sequence[Finding], key: bytes, regions: Sequence[str]) -> str:
    parts, end = [], 0
    for finding in findings:
        name = pseudonym(finding.kind, text[finding.start : finding.end], key, regions)
        parts += [text[end : finding.start], name]
        end = finding.end
    return "".join([*parts, text[end:]])


def pseudonym(kind: str, value: str, key: bytes, regions: Sequence[str] = DEFAULT_REGIONS) -> str:
    """Return the name a value goes by: the same for every spelling of a number or an address."""
    message = f"{kind}:{_canonical(kind, value, regions)}".encode("utf-8", "surrogatepass")
    digest = hmac.new(key, message, hashlib.sha256).hexdigest()
    return f"<{kind}_{digest[:NAME_DIGITS]}>".upper()


def _canonical(kind: str, value: str, regions: Sequence[str]) -> str:
    if kind == "secret":
        return value
    if kind in {"card", "iban", "national_id"}:
        return re.sub(r"[\W_]", "", value).upper()
    return _dialled(value, regions) if kind == "phone" else value.lower()


def _dialled(value: str, regions: Sequence[str]) -> str:
    """Return a telephone number as dialled from abroad, as far as it can be told."""
    for region in (None, *regions):
        try:
            number = phonenumbers.parse(value, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number) or (region and value.lstrip("(").startswith("0")):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return re.sub(r"[^\d+]", "", value)
