"""Words of company prose: closed classes, verb forms, plurals, tags. Knows words, no sentences."""

import re
import warnings
from functools import cache, lru_cache

from textblob.en import lexicon
from textblob.en import tag as tag_words

from factory.text.segment import Piece, words

_VERBS = """
    accept add allow answer appear apply approve arrive ask belong book bring buy call carry cast change
    charge check claim close collect come connect contain cost count cover deliver deserve discard drive
    drop earn end enter exceed expire fail fall fit gain get give go govern grow handle hang have head
    hold include inspect install invoice join keep last lead leave lie lift like list live lock look make
    manage mark mean measure meet move need note offer open operate order own park pay permit pick plan
    play print produce pull push reach read receive record refund release remain rent repair replace reply
    report require reset rest return ring rise run save say see sell send serve set ship show sit sleep
    sound stand start stay stop store strike supply swap take test tip total train travel treat trigger
    trip turn understand use visit wait want watch wear weigh wind work write
"""
_PREPOSITIONS = """
    about above across after against along among around at before behind below beneath beside between
    beyond by down during for from in inside into near of off on onto out outside over past per since
    through to toward towards under until up upon via with within without
"""
_DEICTIC = """
    it this that these those they he she there here which who what one ones such both neither whoever
    whatever
"""
_SUBORDINATORS = "if when after before once while until unless since as because where whenever"
_OPENERS = "for in on at during from by with within above below under over " + _SUBORDINATORS
_PRONOUNS = "it this that these those them they us we me him he her she you one ones there so"
PRONOUNS = frozenset(_PRONOUNS.split())
VERBS = frozenset(_VERBS.split())
BE = frozenset(("is", "are", "was", "were"))
MODALS = frozenset(("can", "could", "may", "might", "must", "shall", "should", "will", "would"))
HAVE_DO = frozenset(("has", "have", "had", "does", "do", "did"))
DEICTIC = frozenset(_DEICTIC.split())
PREPOSITIONS = frozenset(_PREPOSITIONS.split())
SUBORDINATORS = frozenset(_SUBORDINATORS.split())
OPENERS = frozenset(_OPENERS.split())
IRREGULAR = {
    "has": "have", "had": "have", "does": "do", "did": "do", "went": "go", "goes": "go", "took": "take",
    "gave": "give", "made": "make", "held": "hold", "kept": "keep", "left": "leave", "began": "begin",
    "came": "come", "became": "become", "ran": "run", "paid": "pay", "sold": "sell", "sent": "send",
    "got": "get", "said": "say", "saw": "see", "found": "find", "built": "build", "bought": "buy",
    "brought": "bring", "chose": "choose", "drew": "draw", "drove": "drive", "fell": "fall", "felt": "feel",
    "grew": "grow", "heard": "hear", "knew": "know", "led": "lead", "lost": "lose", "meant": "mean",
    "met": "meet", "rang": "ring", "rose": "rise", "stood": "stand", "struck": "strike", "taught": "teach",
    "told": "tell", "thought": "think", "won": "win", "wore": "wear", "wrote": "write", "cost": "cost",
    "put": "put", "set": "set", "read": "read", "cut": "cut", "let": "let", "spent": "spend", "hung": "hang",
}  # fmt: skip
_UNITS = "kg mm cm m km mph V A W Nm dB GB MB kB s h ohm Hz bar % °C"
_NO_UNITS = "exp ext no x jan feb mar apr jun jul aug sep sept oct nov dec"
UNITS = frozenset(_UNITS.split())
NO_UNITS = frozenset(_NO_UNITS.split())
IRREGULAR_PLURALS = {"foot": "feet", "child": "children", "man": "men", "woman": "women"}
SAME_PLURAL = frozenset(("people", "staff", "men", "women", "children", "feet", "pence", "mice", "series"))
DURATIONS = frozenset(("second", "minute", "hour", "day", "night", "week", "month", "year"))
_ARTICLES = "a an the all any each every no your our their his her my its some most many few"
ARTICLES = frozenset(_ARTICLES.split())
NO_NOUNS = BE | MODALS | HAVE_DO | PREPOSITIONS | DEICTIC | ARTICLES | OPENERS | {"and", "or", "but"}
PARTICLES = frozenset(("up", "out", "off", "down", "over"))


@cache
def _load() -> None:
    """Read the word lists now: TextBlob leaves their files open, which warns wherever they are first needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for part in (lexicon, lexicon.morphology, lexicon.context, lexicon.entities):
            len(part)


def is_known(word: str) -> bool:
    """Tell whether a word stands in the lexicon of English, which names of people and products do not."""
    _load()
    return word in lexicon


@lru_cache(maxsize=65536)
def tags(sentence: str) -> tuple[tuple[Piece, str], ...]:
    """Return the words of a sentence with their Penn part-of-speech tags."""
    _load()
    pieces = words(sentence)
    if not pieces:
        return ()
    tagged = tag_words(" ".join(piece.text for piece in pieces), tokenize=False)
    labels = [label for _, label in tagged]
    return tuple(zip(pieces, labels, strict=False))


def lemma(verb: str) -> str:
    """Return the base form of an inflected verb; regular rules and a short list of irregular ones."""
    word = verb.lower()
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    if word.endswith("ied"):
        return word[:-3] + "y"
    if word.endswith("ed") and len(word) > 4:
        return _undo_past(word)
    return word


def _undo_past(word: str) -> str:
    stem = word[:-2]
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
        return stem[:-1]
    silent_e = re.search(r"(?:[aiou][bcdgklmnrstvz]|[cgsv]|[bcdfgkptz]l|ir|ur|or)$", stem)
    return (
        stem + "e"
        if silent_e
        and not re.search(r"(?:ai|ea|oo|ee|ou|oi)[^csvz]$|er$|en$|it$|(?:ll|ss|n[dt]|st|rt|ct)$", stem)
        else stem
    )


def plural(unit: str) -> str:
    """Return a unit as it follows `how many`."""
    first, *others = unit.split(" ")
    if first in UNITS or first.lower() in SAME_PLURAL or not first.isalpha():
        return unit
    if first.lower() in IRREGULAR_PLURALS and not others:
        return IRREGULAR_PLURALS[first.lower()]
    if first.endswith(("x", "ch", "sh")) and not others:
        return f"{first}es"
    if not first.endswith("s") and not others:
        return f"{first[:-1]}ies" if first.endswith("y") and first[-2:-1] not in "aeiou" else f"{first}s"
    return unit


def lower_first(text: str) -> str:
    """Return a text to stand inside a sentence: names, codes and `I` keep their capital."""
    first, *others = text.split(" ")
    if first.lower() in ARTICLES:
        return text[:1].lower() + text[1:]
    name = not first[1:].islower() or (others and others[0][:1].isupper()) or not is_known(first.lower())
    return text if name else text[:1].lower() + text[1:]
