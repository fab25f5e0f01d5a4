"""The table of backends: every entry resolves, and a teacher is named in exactly one way."""

import importlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.backends.endpoint import EndpointBackend
from factory.backends.local import GgufBackend
from factory.backends.registry import BACKENDS, TeacherConfig, open_teacher
from factory.chat.template import conversation
from factory.errors import BaseModelError
from tests.tiny import make_tiny_base


def test_every_entry_names_a_function_that_exists() -> None:
    for target in BACKENDS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), target
    assert set(BACKENDS) == {"gguf", "endpoint"}


@pytest.mark.parametrize(
    "fields",
    [{}, {"gguf": "a.gguf", "url": "http://h"}, {"url": "ftp://h"}, {"url": "h"}, {"gguf": "a.gguf", "rewordings": 0},
     {"url": "http://h", "key": "s3cret"}],
)  # fmt: skip
def test_a_teacher_that_is_none_or_two_things_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TeacherConfig(**fields)


def test_an_endpoint_is_opened_without_asking_it() -> None:
    backend = open_teacher(TeacherConfig(url="http://127.0.0.1:1/v1", model="m"))
    assert isinstance(backend, EndpointBackend)
    backend._client.close()


def test_a_gguf_file_answers_chats_greedily(tmp_path: Path) -> None:
    backend = open_teacher(TeacherConfig(gguf=make_tiny_base(tmp_path / "base") / "base-F16.gguf"))
    assert isinstance(backend, GgufBackend)
    replies = {backend.chat(conversation("What is the code?"), max_tokens=8) for _ in range(2)}
    assert len(replies) == 1


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(BaseModelError):
        open_teacher(TeacherConfig(gguf=tmp_path / "no.gguf"))
