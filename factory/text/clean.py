"""Normalise text and strip what a reader cannot see. Knows characters, nothing of files or models."""

import re
import unicodedata

# Unicode space separators other than U+0020; U+3000 is the ideographic one.
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
BREAKS = re.compile("\r\n?|[\u0085\u2028\u2029\u000b\u000c]")
# Controls, soft hyphen, zero-width and bidi marks, variation selectors, fillers, tags, halves.
INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
# Joiners carry meaning inside Arabic and Indic words only (U+0590 to U+0FFF).
JOINERS = re.compile("(?<![\u0590-\u0fff])[\u200c\u200d]|[\u200c\u200d](?![\u0590-\u0fff])")


def clean_text(text: str) -> str:
    """Return text in NFC with Unix line ends, plain spaces and no invisible or control characters."""
    if text.isascii() and text.isprintable():
        return text
    text = SPACES.sub(" ", BREAKS.sub("\n", text))
    text = JOINERS.sub("", INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text)


def flatten_text(text: str) -> str:
    """Return cleaned text on one line, each run of white space as one space."""
    return " ".join(clean_text(text).split())


def clean_lines(text: str) -> str:
    """Return cleaned text that keeps its lines and indents, without trailing spaces or outer blank lines."""
    lines = [line.rstrip() for line in clean_text(text).split("\n")]
    return "\n".join(lines).strip("\n")
