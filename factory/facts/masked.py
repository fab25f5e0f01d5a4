"""Facts and conflicts without the personal data and secrets in them, as rows are redacted before training."""

from collections.abc import Mapping, Sequence
from itertools import islice

from factory.rows import Conflict, Fact
from factory.text.redact import SEPARATOR, Policy, redact


def mask_fact(fact: Fact, policies: Mapping[str, Policy], key: bytes) -> Fact:
    """Return a fact without what the policies do not allow; its texts are read as one: labels may stand apart."""
    return _with(fact, _redacted(_texts(fact), policies, key))


def mask_conflict(conflict: Conflict, policies: Mapping[str, Policy], key: bytes) -> Conflict:
    """Return a conflict without what the policies do not allow; what one claim shows as a secret is one in all."""
    texts = [conflict.question, *(text for claim in conflict.claims for text in _texts(claim.fact))]
    question, *rest = _redacted(texts, policies, key)
    left = iter(rest)
    claims = tuple(
        claim.model_copy(update={"fact": _with(claim.fact, list(islice(left, len(_texts(claim.fact)))))})
        for claim in conflict.claims
    )
    return conflict.model_copy(update={"question": question, "claims": claims})


def _redacted(texts: Sequence[str], policies: Mapping[str, Policy], key: bytes) -> list[str]:
    return redact(SEPARATOR.join(texts), policies, key).text.split(SEPARATOR)


def _texts(fact: Fact) -> list[str]:
    return [fact.subject, fact.relation, fact.topic, fact.evidence.text, *fact.answers]


def _with(fact: Fact, texts: Sequence[str]) -> Fact:
    if texts == _texts(fact):
        return fact
    subject, relation, topic, shown, *answers = texts
    evidence = fact.evidence.model_copy(update={"text": shown})
    changes = {"subject": subject, "relation": relation, "topic": topic, "evidence": evidence}
    return fact.model_copy(update=changes | {"answer": answers[0], "answers": tuple(answers)})
