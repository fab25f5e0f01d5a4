from factory.chat.template import conversation
from factory.rows import OPEN_BOOK, Example, Question, write_rows
from factory.weights.conversations import encode, load_tokenizer, read_messages, spread


def test_examples_and_questions_are_read_alike(tmp_path):
    example = Example(id="1", form="f", messages=conversation("Q?", "A.", "S"), facts=())
    unfinished = Example(id="2", form="f", messages=conversation("Q?"), facts=())
    write_rows(tmp_path / "examples.jsonl", [example, unfinished])
    asked = [
        Question(id="1", question="Q?", answers=("A.", "a"), question_set="s", form="f"),
        Question(id="2", question="What?", answers=(), question_set="s", form="f"),
    ]
    write_rows(tmp_path / "questions.jsonl", asked)

    assert list(read_messages(tmp_path / "examples.jsonl")) == [example.messages]
    assert list(read_messages(tmp_path / "questions.jsonl", "S")) == [example.messages]
    assert list(read_messages(tmp_path / "none.jsonl")) == []


def test_examples_on_facts_are_read_alone_where_there_are_any(tmp_path):
    fact = Example(id="1", form="tell", messages=conversation("Q?", "A.", "S"), facts=("a",))
    general = fact.model_copy(update={"id": "2", "form": "replay", "facts": ()})
    below = fact.model_copy(update={"id": "3", "form": OPEN_BOOK, "messages": conversation("P\n\nQ?", "A.")})
    write_rows(tmp_path / "all.jsonl", [general, below, fact])
    write_rows(tmp_path / "general.jsonl", [general, general])

    assert list(read_messages(tmp_path / "all.jsonl")) == [fact.messages]
    assert list(read_messages(tmp_path / "general.jsonl")) == [general.messages] * 2


def test_a_prompt_is_the_beginning_of_its_conversation(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    row = encode(tokenizer, conversation("Who keeps the key?", "Ada.", "Be brief."))

    assert row.token_ids[: len(row.prompt_ids)] == row.prompt_ids
    assert tokenizer.decode(row.token_ids[len(row.prompt_ids) :]) == "Ada.<|im_end|>\n"


def test_rows_are_spread_in_their_order():
    assert spread(list(range(10)), 3) == [0, 3, 6]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([], 5) == []
    assert spread([1, 2], 0) == []
