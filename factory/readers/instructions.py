"""Count phrases that speak to a language model instead of a reader. Judges text only; decides nothing."""

import re

_VERB = r"(?:ignore|disregard|forget|override|bypass)"
_WHAT = r"(?:instructions?|prompts?|rules|messages|guidelines|directions|context)"
PATTERNS = [
    rf"\b{_VERB}\s+(?:all\s+|any\s+|the\s+|your\s+|of\s+|my\s+|these\s+)*"
    rf"(?:previous|prior|above|earlier|preceding|system|other)\s+(?:\w+\s+)?{_WHAT}",
    r"\byou\s+are\s+(?:now|no\s+longer)\s+(?:an?\s+|in\s+|the\s+|bound\s+|DAN\b)",
    r"\b(?:reveal|print|repeat|output|show)\s+(?:me\s+)?(?:your|the)\s+(?:system|hidden|initial)\s+(?:prompt|instructions?)",
    r"\bnew\s+(?:system\s+)?instructions?\s*:",
    r"\b(?:dear|attention|note\s+to)\s+(?:any\s+|the\s+|all\s+)?(?:AI|LLM|language\s+model|assistant|chatbot)s?\b",
    r"\bif\s+you\s+are\s+an?\s+(?:AI|LLM|language\s+model|(?:AI\s+)?assistant|chatbot)\b",
    r"\b(?:pretend|act)\s+(?:to\s+be|as\s+if\s+you\s+(?:are|were)|as)\s+an?\s+(?:unrestricted|uncensored|AI|LLM)\b",
    r"\bdo\s+not\s+(?:tell|inform|mention\s+(?:this|it)\s+to)\s+the\s+user\b",
]
INSTRUCTIONS = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS), re.I)


def count_instructions(text: str) -> int:
    """Return how many phrases of a text are directed at a model, like 'ignore all previous instructions'."""
    return sum(1 for _ in INSTRUCTIONS.finditer(text))
