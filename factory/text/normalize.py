"""How texts are compared: one spelling for case, accents, number words, articles. Pure functions of str."""

import re
import unicodedata

_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_TO_TWENTY.split())} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
}
ARTICLES = {"a", "an", "the"}
TOKEN = re.compile(r"\d+(?:[.:]\d+)*|[^\W\d_]+")
# Letters that Unicode does not take apart into a plain one and a mark, and the typographic apostrophes.
PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "’": "'", "ʼ": "'"})  # noqa: RUF001
MARKS = re.compile(r"[\u0300-\u036f]")
# Raised, lowered and fraction digits: NFKD would run them into the number before (1½ → 11/2, 10³ → 103).
SMALL_DIGIT = re.compile(r"(?<=\d)(?=[²³¹⁰-⁹₀-₉¼-¾⅐-⅞])")


def tokens(text: str) -> list[str]:
    """Return a text's comparison tokens: lower case, no accents or articles, numbers in digits."""
    found = (NUMBER_WORDS.get(token, token) for token in TOKEN.findall(plain(text)))
    return [token for token in found if token not in ARTICLES]


def plain(text: str) -> str:
    """Return a text in lower case without accents, thousands separators and the possessive s."""
    letters = text.lower() if text.isascii() else _without_accents(text)
    digits = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", letters)
    return re.sub(r"'s\b", "", digits)


def _without_accents(text: str) -> str:
    """Return a text in lower case, Latin letters freed of their accents, other scripts as they are."""
    split = unicodedata.normalize("NFKD", SMALL_DIGIT.sub(" ", text))
    bare = MARKS.sub("", unicodedata.normalize("NFKD", split.casefold()))
    return unicodedata.normalize("NFC", bare).translate(PLAIN)


def normalize(text: str) -> str:
    """Return the comparison tokens joined by single spaces."""
    return " ".join(tokens(text))


def contains(text: str, part: str) -> bool:
    """Tell whether the tokens of `part` stand side by side in `text`; an empty part is never contained."""
    needle = normalize(part)
    return bool(needle) and f" {needle} " in f" {normalize(text)} "


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """Return the runs of `size` comparison tokens; a shorter text is one run."""
    found = tokens(text)
    if len(found) <= size:
        return {tuple(found)}
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written: bytes that were no UTF-8, and halves of characters, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
