"""Secrets in a text: passwords, tokens and keys, by shape, issuer and the name they go by. Pure functions.

detect-secrets' plugins are asked what they find in a line, never to verify it, which is what would go to the
network. A hash, a UUID or another random-looking word is no secret unless it is called one.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

Span = tuple[int, int]

# These do badly in prose: quoted hashes, addresses, key headers without the key, JWTs without their end.
LEFT_OUT = {
    "Base64 High Entropy String",
    "Hex High Entropy String",
    "Public IP (ipv4)",
    "Private Key",
    "JSON Web Token",
}
# Lines longer than this are cut at white space: some plugins take quadratic time.
LINE = re.compile(r"[^\n]{1,2000}(?!\S)|[^\n]{1,2000}")
SUSPECT = re.compile(
    r"A[KS]IA|pass|pwd|\bpw\b|secret|token|key|credential|contrase|bearer|basic|://"
    r"|\b(?=[\w+/=.-]{0,60}\d)[\w+/=.-]{11}",
    re.IGNORECASE,
)
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[A-Za-z0-9+/=\s\\:,.-]{16,20000}?-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:\s{0,4}[A-Za-z0-9+/=]{32,})+)"
)
SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:(?P<jwt>eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?)"
    r"|(?P<issued>(?:sk-(?:ant-|proj-|or-)?[\w-]{20,}|gh[pousr]_\w{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|AIza[\w-]{35}|ya29\.[\w-]{20,}|dop_v1_[a-f0-9]{64}|dckr_pat_[\w-]{20,}"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|whsec_[A-Za-z0-9+/=]{24,}|AGE-SECRET-KEY-1[0-9A-Z]{50,}"
    r"|[a-z]{2,8}_(?:live|test|prod|sandbox)_[A-Za-z0-9]{16,}))"
    r"|(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}[\s,;:|\"']{1,10}(?P<aws>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
    r"|(?:[Bb]earer|BEARER|Authorization: Basic)\s+(?P<header>[\w.~+/=-]{20,})"
    r"|sig=(?P<sas>[A-Za-z0-9%/+]{30,}=*))"
)
ASSIGNED = re.compile(
    r"(?:(?P<strong>password|passwd|passphrase|passcode|pwd|(?<=_)pass|pass(?=[\"'\s]*=)|\bpw\b)"
    r"|secret(?:[ _-]key)?|token|credential"
    r"|(?:api|access|private|signing|encryption|auth|account|shared)[ _-]?key)"
    r"[\w-]{0,40}[\s\"'`*_\]]{0,4}(?::=|=>|={1,3}|:|\||\b(?:is|was)\b)[\s\"'`*]{0,5}"
    r"(?P<value>[^\s\"'`<>,;|]{6,200})",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(
    r"[$%@]?[{(<\[].*|(?-i:\$(?:[A-Z_][A-Z\d_]*|[a-z_]+))|%\w+%"
    r"|.*(?:\byour|_your|placeholder|x{4}|\*{3}|\.{3}|redacted).*"
    r"|(?:string|required|optional|hidden|secret|password|passwd|undefined|example|default|unknown|changed?|enabled?"
    r"|disabled?|expired?|missing|invalid|incorrect|forgotten|rotated?|stored|never|always|boolean)",
    re.IGNORECASE,
)
# A reference, a call, a place or a moment rather than a value.
ELSEWHERE = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_][\w.]*[(\[].*|\w+://.*|[\w.+-]+@[\w-]+\.[\w.-]+"
    r"|\d{4}-\d\d-\d\d(?:[T ].*)?|\d+-[a-z]+(?:-[a-z]+)*|(?:~|\.{1,2})?/[a-z0-9_./-]+"
    r"|[\w./-]+\.(?:md|txt|pdf|docx?|xlsx?|html?|ya?ml|json|py|csv|pem|env)"
)
SLUG = re.compile(r"(?:[A-Za-z]+|\d+)(?:[-_./](?:[A-Za-z]+|\d+)){2,}")
PASSPHRASE = re.compile(r"(?:[A-Za-z]{3,}-){3,}[A-Za-z]{3,}")
MIN_TOKEN_CHARS = 16
MIN_TOKEN_ENTROPY = 3.0  # bits a character; the limit detect-secrets uses for hexadecimal strings
MIN_PASSWORD_CHARS = 6


def secret_spans(text: str) -> Iterator[Span]:
    """Yield where secrets stand; a value found once is found wherever else it stands in the text."""
    yield from (match.span() for match in PRIVATE_KEY.finditer(text))
    values = {value for line in LINE.findall(text) if SUSPECT.search(line) for value in _values(line)}
    if values:
        anyone = "|".join(
            re.escape(value) for value in sorted(values, key=lambda value: (-len(value), value))
        )
        yield from (
            match.span() for match in re.finditer(rf"(?<![A-Za-z0-9])(?:{anyone})(?![A-Za-z0-9])", text)
        )


def _values(line: str) -> Iterator[str]:
    """Yield the secret values of a line."""
    for match in SHAPES.finditer(line):
        value = match.group(match.lastgroup or 0)
        if match.lastgroup in {"jwt", "aws"} or (_has_digit(value) and not SLUG.fullmatch(value)):
            yield value
    for match in ASSIGNED.finditer(line):
        value = re.sub(r"&\w+=.*|\*\*.*|[.,:;)\]}]+$", "", match["value"])
        value = value if match["strong"] else re.split(r"[^\w.~+/=%:-]", value)[0]
        if is_password(value) if match["strong"] else is_token(value):
            yield value
    for kind, plugin in _plugins():
        accepts = ACCEPTS.get(kind, _has_digit)
        found = (value.removeprefix("AccountKey=").strip(" \t\"':=") for value in plugin.analyze_string(line))
        yield from filter(accepts, found)


@cache
def _plugins() -> tuple[tuple[str, Any], ...]:
    """Return detect-secrets' plugins by what they look for; imported late, as it loads an HTTP client."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class  # noqa: PLC0415

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    return tuple((kind, classes[kind]()) for kind in sorted(classes) if kind not in LEFT_OUT)


def is_password(value: str) -> bool:
    """Tell whether what is called a password looks like one: letters with digits or signs, or many words."""
    mixed = any(char.isalpha() for char in value) and re.search(r"[\d!@#$%^&*+=?~]", value)
    one_word = len(value) >= MIN_PASSWORD_CHARS and not re.search(r"[\s`{},;]", value)
    return one_word and bool(mixed or PASSPHRASE.fullmatch(value)) and not _is_reference(value)


def is_token(value: str) -> bool:
    """Tell whether what is called a token, secret or key looks made by a machine."""
    if len(value) < MIN_TOKEN_CHARS or value.isdigit() or _is_reference(value):
        return False
    kinds = [char.isdigit() + 2 * char.isupper() for char in value if char.isalnum()]
    changes = sum(one != other for one, other in pairwise(kinds))
    return changes >= len(kinds) / 5 and entropy(value) >= MIN_TOKEN_ENTROPY and not SLUG.fullmatch(value)


def entropy(value: str) -> float:
    """Return the Shannon entropy of a text's characters, in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _opens_url(value: str) -> bool:
    """Tell whether the password of `scheme://user:password@host` is more than a word that stands for one."""
    named = re.fullmatch(r"[A-Za-z]+(?:[_-][A-Za-z]+)+", value)
    return len(value) >= MIN_PASSWORD_CHARS and not named and not _is_reference(value)


# What these plugins find needs a look of its own; of others, a word without digits is none.
ACCEPTS: dict[str, Callable[[str], bool]] = {
    "AWS Access Key": bool,
    "Basic Auth Credentials": _opens_url,
    "Secret Keyword": is_password,
}


def _is_reference(value: str) -> bool:
    return bool(PLACEHOLDER.fullmatch(value) or ELSEWHERE.fullmatch(value))


def _has_digit(value: str) -> bool:
    return any(char.isdigit() for char in value)
