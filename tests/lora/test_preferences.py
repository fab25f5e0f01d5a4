"""Preference files: one clear line for what is wrong, nothing that the test asks, and pairs with one prompt."""

import json

import pytest

from factory.chat.template import conversation, encode_prompt
from factory.errors import TrainError
from factory.lora.batches import answer_ids, epoch_rows
from factory.lora.preferences import encode_pairs, read_preferences
from factory.rows import Preference, Question

GOOD = {"prompt": "Who keeps it?", "chosen": "Ada", "rejected": "Bea"}
TESTED = Question(id="a", question="Who keeps the key?", answers=("Ada",), question_set="user", form="user")


def _write(path, *rows) -> object:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{not json", "Expecting property name"),
        ('"text"', "Input should be a valid dictionary"),
        ({"prompt": "Who?", "chosen": "Ada"}, "rejected: Field required"),
        ({**GOOD, "rejected": ""}, "rejected: String should have at least 1 character"),
        ({**GOOD, "prompt": ""}, "prompt: .* at least 1"),
        ({**GOOD, "prompt": []}, "prompt: .* at least 1"),
        ({**GOOD, "prompt": [{"role": "robot", "content": "Hi"}]}, "prompt"),
        ({**GOOD, "rejected": "Ada"}, "chosen and rejected are the same"),
        ({**GOOD, "prompt": [{"role": "assistant", "content": "Hi"}]}, "prompt ends with no question"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_in_one_line(tmp_path, row, why: str) -> None:
    path = _write(tmp_path / "pairs.jsonl", GOOD, "", row)
    with pytest.raises(TrainError, match=rf'^pairs\.jsonl line 3 is not {{"prompt": .*: .*{why}') as error:
        read_preferences(path, [])
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path) -> None:
    with pytest.raises(TrainError, match=r"gone\.jsonl' cannot be read"):
        read_preferences(tmp_path / "gone.jsonl", [])
    with pytest.raises(TrainError, match="holds nothing to train on, since it is empty"):
        read_preferences(_write(tmp_path / "empty.jsonl", ""), [])


def test_what_the_test_asks_is_left_out_and_said(tmp_path, caplog) -> None:
    leak = {**GOOD, "prompt": [{"role": "user", "content": "who keeps the KEY"}]}
    path = _write(tmp_path / "pairs.jsonl", {**GOOD, "response_id": "more keys are fine"}, leak)
    assert [row.prompt for row in read_preferences(path, [TESTED])] == ["Who keeps it?"]
    assert "1 of 2 preferences ask what the test asks" in caplog.text
    with pytest.raises(TrainError, match="all 1 ask what the test asks"):
        read_preferences(_write(tmp_path / "leaks.jsonl", leak), [TESTED])


def test_both_answers_follow_the_same_prompt_as_it_is_asked(tokenizer) -> None:
    pairs = encode_pairs(tokenizer, [Preference(**GOOD)], "Be brief.", 256)
    prompt = encode_prompt(tokenizer, conversation("Who keeps it?", system="Be brief."))
    for row, answer in ((pairs.chosen[0], "Ada"), (pairs.rejected[0], "Bea")):
        assert list(row.ids) == prompt + answer_ids(row)
        assert tokenizer.decode(answer_ids(row)) == f"{answer}<|im_end|>"


def test_a_conversation_keeps_its_own_system_text_and_gets_the_runs_when_it_has_none(tokenizer) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    rows = [Preference(**(GOOD | {"prompt": turns[start:]})) for start in (0, 1)]
    pairs = encode_pairs(tokenizer, rows, "Be brief.", 256)
    one, other = (tokenizer.decode(row.ids) for row in pairs.chosen)
    assert one.startswith("<|im_start|>system\nsystem<|im_end|>")
    assert other.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nuser")


def test_pairs_with_a_long_answer_are_left_out_and_counted(tokenizer) -> None:
    long = Preference(prompt="Who?", chosen="Ada", rejected="Bea " * 100)
    pairs = encode_pairs(tokenizer, [Preference(**GOOD), long], "", 64)
    assert (len(pairs.chosen), len(pairs.rejected), pairs.num_left_out) == (1, 1, 1)
    with pytest.raises(
        TrainError, match=r"All 1 rows of train\.preferences are longer than train\.max_tokens=64"
    ):
        encode_pairs(tokenizer, [long], "", 64)


def test_two_pairs_of_one_prompt_are_both_met_in_every_epoch(tokenizer) -> None:
    rows = [Preference(**GOOD), Preference(**(GOOD | {"rejected": "Cem"}))]
    pairs = encode_pairs(tokenizer, rows, "", 256)
    assert sorted(epoch_rows(pairs.chosen, 0, 7)) == [0, 1]
