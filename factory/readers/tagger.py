"""The word tagger that unstructured gets instead of a spaCy model: a rule that needs no download.

Import it after `offline` has blocked what spaCy would load. Knows English verbs, no file format.
"""

import re
from typing import Any

import spacy
import unstructured.nlp.tokenize
from spacy.language import Language

COMMON_VERBS = (
    "is are was were be been am has have had do does did can could will would shall should may might must "
    "need use make get take give see ship go let"
)
VERBS = frozenset(COMMON_VERBS.split())
VERB_ENDINGS = re.compile(r"(?:ed|ing|ize|ise|ify)$")


def use_lite_tagger() -> None:
    """Replace the spaCy model that unstructured would download by a rule: is there a verb?"""

    @Language.component("lite_tagger")
    def tag_verbs(document: Any) -> Any:
        for token in document:
            token.tag_ = "VB" if token.lower_ in VERBS or VERB_ENDINGS.search(token.lower_) else "NN"
        return document

    def load_lite_model() -> Language:
        language = spacy.blank("en")
        language.add_pipe("sentencizer")
        language.add_pipe("lite_tagger")
        return language

    unstructured.nlp.tokenize._load_spacy_model = load_lite_model
