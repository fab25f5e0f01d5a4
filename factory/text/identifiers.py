"""Numbers and addresses that point at a person: cards, accounts, ids, e-mail, IP, telephone. Pure functions.

Each `…_spans` yields where its kind stands, judged by checksum where there is one and by the words before it.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban, luhn

Span = tuple[int, int]

GAP = r"[ \u00a0-]"
CARD = re.compile(
    rf"(?<![\w.+/-])(?:\d{{14,19}}|\d{{4}}({GAP})\d{{4}}\1\d{{4}}\1\d{{4}}|\d{{4}}({GAP})\d{{6}}\2\d{{4,5}})(?![\w/-])(?!\.\d)"
    rf"(?!{GAP}\d{{4}}(?!\d))"
)
# Prefixes and lengths (ISO/IEC 7812): Amex, Diners, Visa, Mastercard, Discover, JCB, UnionPay.
ISSUER = re.compile(
    r"3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
IBAN = re.compile(
    rf"(?<![\w-])(?=([A-Z]{{2}}\d{{2}}(?:{GAP}?[A-Z0-9]){{11,30}}))[A-Z]{{2}}\d{{2}}", re.IGNORECASE
)

# What must stand before the number in its line (nothing: form and checksum say enough), form, checker.
NATIONAL_IDS = (
    ("", r"\d{3}-\d{2}-\d{4}", "stdnum.us.ssn"),
    ("", r"9\d{2}-\d{2}-\d{4}", "stdnum.us.itin"),
    (r"\bSSN\b|(?i:social security)", r"\d{3} ?\d{2} ?\d{4}", "stdnum.us.ssn"),
    (r"\bSIN\b|(?i:social insurance)", r"\d{3}[ -]?\d{3}[ -]?\d{3}", "stdnum.ca.sin"),
    ("", r"[A-Z]{2} \d{2} \d{2} \d{2} [A-D]", ""),
    (r"\bNINO\b|\bNI\b|(?i:national insurance)", r"[A-Z]{2} ?(?:\d{2} ?){3}[A-D]", ""),
    (r"\bNHS\b", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "stdnum.gb.nhs"),
    ("", r"[12] \d{2} \d{2} \d[\dAB] \d{3} \d{3} \d{2}", "stdnum.fr.nir"),
    (r"\bDNI\b|\bNIF\b", r"\d{8}-?[A-Z]", "stdnum.es.dni"),
    ("", r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", "stdnum.it.codicefiscale"),
    (r"\bBSN\b|(?i:burgerservicenummer)", r"\d{9}", "stdnum.nl.bsn"),
    (r"(?i:steuer-?id|idnr)", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "stdnum.de.idnr"),
    (r"\bPESEL\b", r"\d{11}", "stdnum.pl.pesel"),
    (r"(?i:personn?nummer)", r"(?:\d{2})?\d{6}[-+]?\d{4}", "stdnum.se.personnummer"),
)
# Prefixes that are never given (gov.uk, National Insurance Manual NIM39110).
NINO = re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]")
# A number with one of these before it names a thing, not a person or a telephone.
THING = re.compile(
    r"\b(?:part|order|ticket|serial|invoice|ref(?:erence)?|sku|model|item|batch|lot|parcel|tracking|account|acct|a/c|po|vat"
    r"|sort code|isbn|issn|ean|gtin|imei|case|job|pad|drawing|licen[cs]e|code|version|id|bay|meter"
    r"|timestamp|s/n)\b"
    r"[\s:#.=]*(?:numbers?|no|nr|codes?|id|is)?[\s:#.=]*$",
    re.IGNORECASE,
)

EMAIL = re.compile(
    r"(?<![\w.+@-])([A-Za-z0-9][\w.+'-]{0,63})@((?:[A-Za-z0-9-]{1,63}\.){1,6}([A-Za-z]{2,24}))(?![\w@-])"
)
FILE_ENDING = re.compile(r"png|jpe?g|gif|svg|webp|ico|css|js|ts|py|html|json|md|txt|pdf", re.IGNORECASE)
MESSAGE_ID = re.compile(r"\W*(?:message-id|in-reply-to|references|content-id)\s*:", re.IGNORECASE)
PRIVATE_LABEL = re.compile(r"\b(?:private|personal|home)\s+e-?mail\b[^@\n]{0,40}$", re.IGNORECASE)
PRIVATE_DOMAIN = re.compile(
    r"(?:gmail|googlemail|ymail|rocketmail|icloud|me|mac|msn|aol|protonmail|fastmail|hushmail|tutanota|tuta|mail|email|hey|qq"
    r"|163|126|btinternet|ntlworld|virginmedia|talktalk|sky|comcast|verizon|sbcglobal|bellsouth|cox|charter|rediffmail"
    r"|naver|hanmail|foxmail)\.(?:com|net)"
    r"|(?:outlook|hotmail|live|yahoo|gmx|yandex|aol)\.[a-z]{2,3}(?:\.[a-z]{2})?"
    r"|(?:proton|pm)\.me|protonmail\.ch|tuta\.io|(?:web|t-online|freenet|arcor|posteo)\.de|mailbox\.org"
    r"|(?:orange|wanadoo|free|laposte|sfr)\.fr|(?:libero|virgilio|alice|tiscali)\.it|(?:wp|o2|onet|interia)\.pl"
    r"|(?:ziggo|xs4all|kpnmail|planet|hetnet)\.nl|(?:uol|bol|terra)\.com\.br|(?:tiscali|blueyonder)\.co\.uk"
    r"|(?:mail|bk|inbox|list)\.ru|bluewin\.ch|seznam\.cz|riseup\.net|disroot\.org",
    re.IGNORECASE,
)

IPV4 = re.compile(r"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-])(?!\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)
IP_WORD = re.compile(
    r"\b(?:ips?|ipv4|dns|hosts?|servers?|gateway|subnet|network|ping|router)\b[^\n]{0,24}$|://$",
    re.IGNORECASE,
)
VERSION_WORD = re.compile(
    r"(?:\b(?:version|firmware|release|build|sections?|clauses?|chapter|rev|ver|v|oid)\b|§)[\s.:]*$",
    re.IGNORECASE,
)

PHONE_LIKE = re.compile(r"\d(?:[\s().\u00a0-]{0,3}\d){8}")
PHONE_LABEL = re.compile(
    r"\b(?:tele(?:phone)?|tel|phone|call|ring|mobile|mob|cell|fax|whatsapp|sms|text)\b[^\d\n]{0,20}$",
    re.IGNORECASE,
)
EXTENSION = r"(?:\D{1,8}\d{1,5})?"
TRUNK = re.compile(rf"(?:\(?0[1-9]\d{{0,3}}\)?{GAP}{{1,2}}\d[\d \u00a0-]*\d|07\d{{9}}){EXTENSION}")
NANP = re.compile(rf"(?:1[-. ])?(?:\(\d{{3}}\) ?\d{{3}}[-. ]|\d{{3}}([-.])\d{{3}}\1)\d{{4}}{EXTENSION}")
UK_SHAPE = re.compile(rf"\(?0[1-9]\d{{2,3}}\)?[ \u00a0]\d{{3,4}}[ \u00a0]?\d{{3,4}}{EXTENSION}")
MIN_PHONE_DIGITS = 9


def card_spans(text: str) -> Iterator[Span]:
    """Yield payment card numbers: an issuer's prefix and length, usual grouping, Luhn."""
    for match in CARD.finditer(text):
        number = re.sub(r"\D", "", match.group())
        grouped = len(number) < len(match.group())
        if (
            ISSUER.fullmatch(number)
            and luhn.is_valid(number)
            and (grouped or not THING.search(_before(text, match)))
        ):
            yield match.span()


def iban_spans(text: str) -> Iterator[Span]:
    """Yield bank accounts whose country, length, form and two check digits agree."""
    for match in IBAN.finditer(text):
        start, candidate = match.start(), match.group(1)
        ends = [group.end() for group in re.finditer(r"[A-Za-z0-9]+", candidate)]
        for end in reversed(ends):
            alone = not text[start + end : start + end + 1].isalnum()
            if alone and iban.is_valid(candidate[:end], check_country=False):
                yield start, start + end
                break


def national_id_spans(text: str) -> Iterator[Span]:
    """Yield valid national identity numbers, named as such where the form alone says too little."""
    for label, form, is_valid in _national_ids():
        for match in form.finditer(text):
            before = _before(text, match)
            called = label.search(before) if label.pattern else not THING.search(before)
            if called and is_valid(match.group()):
                yield match.span()


@cache
def _national_ids() -> tuple[tuple[re.Pattern[str], re.Pattern[str], Callable[[str], bool]], ...]:
    return tuple(
        (
            re.compile(label),
            re.compile(rf"(?<![\w-]){form}(?![\w-])"),
            import_module(module).is_valid if module else _is_nino,
        )
        for label, form, module in NATIONAL_IDS
    )


def _is_nino(value: str) -> bool:
    return bool(NINO.fullmatch(value.replace(" ", "")))


def email_spans(text: str) -> Iterator[tuple[Span, bool]]:
    """Yield e-mail addresses, and whether each is private: by its provider, or called so in its line."""
    found = []
    for match in EMAIL.finditer(text):
        repository = match[1] == "git" or text[max(0, match.start() - 3) : match.start()] == "://"
        line_start = text.rfind("\n", 0, match.start()) + 1
        if not (repository or FILE_ENDING.fullmatch(match[3]) or MESSAGE_ID.match(text, line_start)):
            private = PRIVATE_DOMAIN.fullmatch(match[2]) or PRIVATE_LABEL.search(_before(text, match, 60))
            found.append((match.span(), match.group().lower(), bool(private)))
    known = {address for _, address, private in found if private}
    yield from ((span, address in known) for span, address, _ in found)


def ip_spans(text: str) -> Iterator[Span]:
    """Yield IP addresses of hosts; versions, section numbers, masks and loopback are none."""
    for match in IPV4.finditer(text):
        before = _before(text, match)
        octets = [int(part) for part in match.group().split(".")]
        plain = (
            max(octets) < 256 and octets[0] not in {0, 127, 255} and not re.search(r"\b0\d", match.group())
        )
        telling = max(octets) > 20 or (octets[0] == 10 and 0 in octets) or IP_WORD.search(before)
        if plain and telling and not VERSION_WORD.search(before):
            yield match.span()
    for match in IPV6.finditer(text):
        if len(match.group()) >= 8 and _is_ipv6(match.group()):
            yield match.span()


def _is_ipv6(value: str) -> bool:
    """Tell an IPv6 address from names in C++ (`add::face`) and from times (`10:40:00::`)."""
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return bool(re.search(r"\d", value) and re.search(r"[a-fA-F]|(?::\w+){5}", value))


def phone_spans(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Yield telephone numbers: international ones, and national ones of the regions (ISO 3166)."""
    if not PHONE_LIKE.search(text):
        return
    yield from _phones(text, (None, *regions), Leniency.VALID, _is_phone)
    # Numbers that no exchange has given out, such as those Ofcom keeps for films: by their shape alone.
    shaped = (None, "GB") if "GB" in regions else (None,)
    yield from _phones(text, shaped, Leniency.POSSIBLE, _could_be_phone)


def _phones(
    text: str, regions: Sequence[str | None], leniency: int, accepts: Callable[[str, str], bool]
) -> Iterator[Span]:
    for region in regions:
        for match in PhoneNumberMatcher(text, region, leniency=leniency):
            unopened = match.raw_string.startswith("(") and ")" not in match.raw_string
            start, raw = match.start + unopened, match.raw_string[unopened:]
            before = _line_before(text, start)
            if _stands_alone(raw, before, text[match.end : match.end + 2]) and accepts(raw, before):
                yield start, match.end


def _stands_alone(raw: str, before: str, after: str) -> bool:
    """Tell whether a number is long enough, no part of a longer word, and not called something else."""
    if sum(char.isdigit() for char in raw) < MIN_PHONE_DIGITS:
        return False
    if re.search(r"[\w.+/\\#$£€-]$", before) or re.match(r"\w|%|[-/.,:]\d", after):
        return False
    return raw.startswith("+") or not THING.search(before)


def _is_phone(raw: str, before: str) -> bool:
    """Tell whether a valid number is also written like one, or called one."""
    written = raw.startswith("+") or TRUNK.fullmatch(raw) or NANP.fullmatch(raw)
    return bool(written or PHONE_LABEL.search(before))


def _could_be_phone(raw: str, before: str) -> bool:
    if raw.startswith("+"):
        return bool(re.search(r"\d[ ()-]+\d", raw))
    called = re.fullmatch(r"0[1-9]\d{8,9}", raw) and PHONE_LABEL.search(before)
    return bool(UK_SHAPE.fullmatch(raw) or called)


def _before(text: str, match: re.Match[str], size: int = 40) -> str:
    return _line_before(text, match.start(), size)


def _line_before(text: str, start: int, size: int = 40) -> str:
    """Return up to `size` characters that stand before a place in its line."""
    return text[max(0, start - size) : start].rpartition("\n")[2]
