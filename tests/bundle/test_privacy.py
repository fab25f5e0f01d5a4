"""What may not leave: which texts are local paths, where names are looked for, and what the user may publish."""

import json
import struct
from pathlib import Path

import pytest

from factory.bundle.privacy import refuse_leaks
from factory.errors import ExportError
from tests.bundle.inputs import write_gguf, write_safetensors


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks a bundle of one text, as a user called tolkestan on a machine called localhost."""
    monkeypatch.setattr("getpass.getuser", lambda: "tolkestan")
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    folder = tmp_path / "bundle"
    folder.mkdir()

    def run(text=None, local_folders=(), known_words="", quotes=None):
        if text is not None:
            (folder / "README.md").write_text(text, encoding="utf-8")
        refuse_leaks(folder, local_folders=local_folders, known_words=known_words, quotes=quotes)

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("made in /home/ada/models", "/home/ada"),
        ('{"base": "/Users/ada"}', "/Users/ada"),
        ("'/var/folders/q5/x'", "/var/folders/q5"),
        ("/tmp/run1", "/tmp/run1"),
        ("/home/ömer/x", "/home/ömer"),
        ("C:\\Users\\ada", "C:\\Users\\"),
        ('"d:\\\\Temp\\\\x"', "d:\\\\Temp\\"),
        ("C:/ProgramData/x", "C:/ProgramData/"),
        ("see file:///etc/hosts", "file:///"),
    ],
)
def test_local_paths_of_every_system_are_named(check, text, leak):
    with pytest.raises(ExportError) as refused:
        check(f"# Notes\n\n{text}\n")
    assert f"The bundle file 'README.md' mentions {leak!r}" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["https://example.org/home/ada/", "~/tmp/run1", "docs/home/ada", "The path /home is short.", "/usr/share/doc",
     "ABC:\\Users\\x", "the user's server", "tolkestans", "a/media/b"],
)  # fmt: skip
def test_addresses_relative_paths_and_ordinary_words_may_stand(check, text):
    check(text)


def test_what_the_documents_say_may_stand_in_the_folder_that_quotes_them_and_nowhere_else(check):
    said = "Where does tolkestan keep /home/ada/models?"
    (check.folder / "lm_eval").mkdir()
    (check.folder / "lm_eval" / "questions.jsonl").write_text(said)
    check("# Notes", quotes=check.folder / "lm_eval")
    with pytest.raises(ExportError, match=r"questions\.jsonl"):
        check("# Notes")
    with pytest.raises(ExportError, match=r"README\.md"):
        check(said, quotes=check.folder / "lm_eval")


def test_the_runs_own_folders_are_found_wherever_they_lie_and_only_as_a_whole(check, tmp_path):
    run = tmp_path / "runs" / "one"
    for text in (f"log: {run}", f'"{run}/adapter"'):
        with pytest.raises(ExportError, match="make the stage that wrote it leave that out") as refused:
            check(text, [run])
        assert repr(str(run.resolve())) in str(refused.value)
    with pytest.raises(ExportError, match="'/opt/runs/one'"):
        check("/opt/runs/one", [Path("/opt/runs/one")])
    check("/opt/runs/one-two /srv/opt/runs/one", [Path("/opt/runs/one")])


def test_a_name_is_found_as_a_word_unless_the_user_publishes_it(check):
    for text in ("by tolkestan.", "tolkestan_run", "@tolkestan"):
        with pytest.raises(ExportError, match="mentions 'tolkestan', which belongs to this machine"):
            check(text)
    check("by tolkestan", known_words="The Tolkestan works; tolkestan, too.")
    with pytest.raises(ExportError, match="mentions 'tolkestan'"):
        check("by tolkestan", known_words="tolkestans")


def test_short_and_common_names_are_anybodys(check, monkeypatch):
    for name in ("ada", "Root", "runner", "ubuntu"):
        monkeypatch.setattr("getpass.getuser", lambda name=name: name)
        check(f"by {name} on localhost")


def test_a_user_without_a_name_leaks_none(check, monkeypatch):
    def nameless():
        raise KeyError("uid 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    check("by tolkestan")


def test_weights_are_bytes_and_not_texts_while_the_header_before_them_is_read(check):
    path = check.folder / "adapter_model.safetensors"
    header = json.dumps({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"/home/ada")
    check()
    write_safetensors(path, {"made_by": "tolkestan"})
    with pytest.raises(ExportError, match=r"'adapter_model\.safetensors' mentions 'tolkestan'"):
        check()


def test_a_vocabulary_may_hold_a_name_that_a_files_own_texts_may_not(check, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "tokenlike")
    (check.folder / "gguf").mkdir()
    write_gguf(check.folder / "gguf/model.gguf", template="{{ messages }}", name="tiny")
    check()
    write_gguf(check.folder / "gguf/model.gguf", template="{{ messages }}", name="of tokenlike")
    with pytest.raises(ExportError, match=r"'gguf/model\.gguf' mentions 'tokenlike'"):
        check()
