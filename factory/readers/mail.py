"""Read mail (.eml): headers as fields, the body by its own format, attachments as members."""

import email
import email.policy
import re
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

from factory.readers.contract import Block, Limits, Member, Parsed, ReadError
from factory.readers.html import html_blocks
from factory.readers.plain import text_blocks
from factory.text.clean import clean_text

QUOTE_MARKS = re.compile(r"^(?:>[ >]*)", re.M)
HEADERS = ("From", "To", "Cc", "Date", "Subject")


def read_mail(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a mail's headers and body; the plain body is preferred to the HTML one."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    headers = {header: _header(message, header) for header in HEADERS}
    if not any(headers.values()):
        raise ReadError(
            "corrupt", "It has none of the headers From, To, Date and Subject: it is not an e-mail."
        )
    fields = [Block("field", f"{header}: {value}") for header, value in headers.items() if value]
    metadata = {header.lower(): value for header, value in headers.items()} | _iso_date(headers["Date"])
    body = message.get_body(preferencelist=("plain", "html"))
    blocks = _body_blocks(body) if isinstance(body, EmailMessage) else []
    return Parsed(fields + blocks, headers["Subject"], metadata, _attachments(message))


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, IndexError, AttributeError, TypeError):
        return " ".join(str(dict(message.raw_items()).get(name, "")).split())


def _iso_date(date: str) -> dict[str, str]:
    try:
        return {"date": parsedate_to_datetime(date).isoformat()}
    except ValueError:
        return {}


def _body_blocks(body: EmailMessage) -> list[Block]:
    text = clean_text(_decode(body))
    if body.get_content_subtype() == "html":
        return html_blocks(text)
    return text_blocks(QUOTE_MARKS.sub("", text))


def _decode(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        return data.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeDecodeError):
        return data.decode("latin-1")


def _attachments(message: EmailMessage) -> list[Member]:
    """Return the attached files; pictures inside the body are left out, a name used twice gets a number."""
    members: dict[str, Member] = {}
    for number, part in enumerate(message.iter_attachments(), 1):
        if part.get_content_maintype() == "image" and part.get_content_disposition() != "attachment":
            continue
        name = (
            (part.get_filename() or f"attachment-{number}{_suffix(part)}")
            .replace("/", "_")
            .replace("\\", "_")
        )
        name = name if name not in members else f"{number}-{name}"
        members[name] = Member(name, _content(part))
    return list(members.values())


def _suffix(part: EmailMessage) -> str:
    known = {"message/rfc822": ".eml", "text/plain": ".txt", "text/html": ".html", "application/pdf": ".pdf"}
    return known.get(part.get_content_type(), "")


def _content(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        return bytes(part.get_content())
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
