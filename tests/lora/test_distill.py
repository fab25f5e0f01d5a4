"""The teacher: which passage it reads, that it is the untrained base, and that what it said is kept."""

import pytest
import torch

from factory.chat.context import with_context
from factory.chat.template import conversation, encode_prompt
from factory.lora import distill
from factory.lora.batches import answer_ids, encode, num_labels
from factory.lora.distill import passage_of, soft_targets, teacher_rows, with_passage
from factory.lora.engine import FusedEngine, PlainEngine
from factory.rows import OPEN_BOOK, Evidence, Example
from tests.made import make_examples, make_fact

HALVES = [0.5] * 8
FACTS = [make_fact(number, kind="table" if number % 2 else "sentence") for number in range(4)]


def _example(fact) -> Example:
    return make_examples(fact, {"what_of": f"How heavy is {fact.subject} {{today}}?"})[0]


def test_a_passage_is_the_evidence_under_its_topic_and_a_tables_column_is_named() -> None:
    facts = {fact.id: fact for fact in FACTS}
    assert passage_of(_example(FACTS[0]), facts) == "Scales\n| TD-0 | 0 kg |"
    assert passage_of(_example(FACTS[1]), facts) == "Scales\n| TD-1 | 1 kg |\nWeight: 1 kg"


def test_a_row_of_no_fact_has_its_evidence_and_one_of_no_document_has_none() -> None:
    evidence = Evidence(document="a.md", start=0, end=4, text="Told")
    row = Example(id="a", form="feedback", messages=conversation("Who?", "Ada"), facts=(), evidence=evidence)
    assert passage_of(row, {}) == "Told"
    assert passage_of(row.model_copy(update={"evidence": None}), {}) == ""
    assert passage_of(row.model_copy(update={"form": OPEN_BOOK}), {}) == "", "it has passages already"


def test_the_passage_stands_above_the_question_and_the_system_text_stays() -> None:
    row = Example(id="a", form="x", messages=conversation("Who {is} it?", "Ada", "Be brief."), facts=())
    system, question, answer = with_passage(row, "A {passage}").messages
    assert (system.content, answer.content) == ("Be brief.", "Ada")
    assert question.content == "A {passage}\n\nQuestion: Who {is} it?\nAnswer:"


def _read(tokenizer, facts=FACTS, limit=256):
    examples = [_example(fact) for fact in facts]
    rows = encode(tokenizer, examples, limit)
    return rows, teacher_rows(tokenizer, rows, examples, {fact.id: fact for fact in facts})


def test_the_teacher_reads_the_same_answer_behind_a_longer_prompt(tokenizer) -> None:
    rows, teachers = _read(tokenizer)
    for row, teacher, fact in zip(rows, teachers, FACTS, strict=True):
        assert answer_ids(teacher) == answer_ids(row)
        asked = with_context(
            [passage_of(_example(fact), {fact.id: fact})], f"How heavy is {fact.subject} {{today}}?"
        )
        prompt = encode_prompt(tokenizer, conversation(asked))
        assert list(teacher.ids) == prompt + answer_ids(row)
        assert num_labels(teacher) == len(answer_ids(teacher))


def test_rows_without_evidence_or_with_too_much_of_it_have_no_teacher(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(distill, "TEACHER_TOKENS", 200)
    long = make_fact(2)
    long = long.model_copy(update={"evidence": long.evidence.model_copy(update={"text": "word " * 60})})
    general = Example(id="general", form="replay", messages=conversation("2 + 2?", "4"), facts=())
    examples = [_example(FACTS[1]), _example(long), general]
    rows = encode(tokenizer, examples, 256)
    teachers = teacher_rows(tokenizer, rows, examples, {fact.id: fact for fact in (FACTS[1], long)})
    assert [teacher is None for teacher in teachers] == [False, True, True]


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_the_targets_are_the_bases_likeliest_tokens_and_count_where_the_first_is_right(
    new_model, tokenizer, tmp_path, kind
) -> None:
    _, teachers = _read(tokenizer)
    model = new_model().eval()
    with torch.no_grad(), model.disable_adapter():
        logits = [
            model(input_ids=torch.tensor([row.ids])).logits[0, -num_labels(row) - 1 : -1] for row in teachers
        ]
    right = int(logits[1][0].argmax())
    teachers[1] = type(teachers[1])(  # an answer whose first token the base finds likeliest
        (*teachers[1].ids[: -num_labels(teachers[1])], right),
        (-100,) * (len(teachers[1].ids) - num_labels(teachers[1])) + (right,),
        teachers[1].group,
    )
    logits[1] = logits[1][:1]
    engine = (
        FusedEngine(model, 0, torch.float32)
        if kind == "fused"
        else PlainEngine(model, 0, torch.float32, "cpu", 2)
    )
    found = soft_targets(engine, [None, *teachers], HALVES, tmp_path / "teacher.pt")
    assert sorted(found) == [1, 2, 3, 4]
    for number, expected in enumerate(logits, 1):
        probs, ids = expected.softmax(-1).topk(distill.TOP)
        assert (found[number].probs - probs).abs().max() < 1e-5
        assert torch.equal(found[number].ids[:, :4].long(), ids[:, :4])
    assert found[2].weights.tolist() == [0.5]
    hits = [
        int((row.argmax(-1) == torch.tensor(answer_ids(teacher))).sum())
        for row, teacher in zip(logits, teachers, strict=True)
    ]
    assert [int((found[number].weights > 0).sum()) for number in (1, 2, 3, 4)] == hits


class _Counting:
    """An engine that says the same of every token and counts how often it is asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def top_probs(self, rows, count):
        self.batches.append([row.group for row in rows])
        total = sum(num_labels(row) for row in rows)
        return torch.arange(count).expand(total, -1), torch.full((total, count), 0.01)


def test_what_the_teacher_said_is_kept_and_asked_again_when_the_file_is_damaged_or_of_others(
    tokenizer, tmp_path, caplog
) -> None:
    _, teachers = _read(tokenizer)
    engine, cache = _Counting(), tmp_path / "work" / "teacher.pt"
    first = soft_targets(engine, teachers, HALVES, cache)
    asked = len(engine.batches)
    again = soft_targets(engine, teachers, HALVES, cache)
    assert len(engine.batches) == asked > 0
    assert all(torch.equal(first[number].probs, again[number].probs) for number in first)
    cache.write_bytes(cache.read_bytes()[:100])
    soft_targets(engine, teachers, HALVES, cache)
    assert "is damaged" in caplog.text
    assert len(engine.batches) == 2 * asked
    soft_targets(engine, teachers[:2], HALVES, cache)
    assert "asking the teacher again" in caplog.text
    assert soft_targets(engine, [None], HALVES, tmp_path / "none.pt") == {}


def test_wordings_of_one_passage_are_read_together_and_never_too_many(
    tokenizer, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(distill, "TEACHER_BATCH", 2)
    _, teachers = _read(tokenizer)
    engine = _Counting()
    soft_targets(engine, [teachers[0], teachers[1]] * 3, HALVES, tmp_path / "teacher.pt")
    assert sorted(len(batch) for batch in engine.batches) == [1, 1, 2, 2]
    assert all(len(set(batch)) == 1 for batch in engine.batches)
