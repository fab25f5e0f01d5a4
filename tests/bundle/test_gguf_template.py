"""The chat template inside a GGUF file: the same marks as from the tokenizer's files, opening token included."""

import pytest

from factory.bundle.gguf_template import read_turn_template
from factory.chat.turns import derive
from factory.errors import BaseModelError, ExportError
from tests.bundle.ollama_stub import write_gguf
from tests.chat.test_turns import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_gives_the_marks_of_the_template_it_carries(tmp_path, family):
    source, bos, _ = FAMILIES[family]
    path = tmp_path / "model.gguf"
    write_gguf(path, source, tokens=("", "é", bos, "<|end|>"), opening=2)
    assert read_turn_template(path) == derive(source, bos)


def test_the_first_and_the_last_token_can_open(tmp_path):
    source = "{{ bos_token }}" + FAMILIES["chatml"][0]
    for index, bos in enumerate(("<s>", "x", "<é>")):
        write_gguf(tmp_path / f"{index}.gguf", source, tokens=("<s>", "x", "<é>"), opening=index)
        assert read_turn_template(tmp_path / f"{index}.gguf").opening == bos


@pytest.mark.parametrize(("tokens", "opening"), [(("a",), None), (("a",), 1), ((), 0)])
def test_a_file_without_a_known_opening_token_opens_with_nothing(tmp_path, tokens, opening):
    path = tmp_path / "model.gguf"
    write_gguf(path, "{{ bos_token }}" + FAMILIES["chatml"][0], tokens=tokens, opening=opening)
    assert read_turn_template(path).opening == ""


def test_a_file_without_a_template_and_one_that_is_no_gguf_are_errors(tmp_path):
    write_gguf(tmp_path / "plain.gguf", None)
    with pytest.raises(ExportError, match="carries no chat template"):
        read_turn_template(tmp_path / "plain.gguf")
    (tmp_path / "text.gguf").write_text("GGUG")
    with pytest.raises(BaseModelError, match="not a usable GGUF"):
        read_turn_template(tmp_path / "text.gguf")
