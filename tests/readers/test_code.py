import pytest

PYTHON = '''"""Poll the clocks."""

import json

EVERY = 12
"""Twelve, not ten."""


def read(host):
    """Fetch it."""

    # Port 7911 answers JSON.
    return json.loads(host)


def main():
    read("x")
'''


def test_pieces_are_top_level_and_nothing_is_lost(read_one):
    document = read_one("bin/poll.py", PYTHON)
    assert document.title == "poll.py"
    assert [item.kind for item in document.elements] == ["heading", *["code"] * (len(document.elements) - 1)]
    pieces = [item.text for item in document.elements[1:]]
    assert "\n".join(pieces).split() == PYTHON.split()
    assert any(piece.startswith("def read") and piece.endswith("json.loads(host)") for piece in pieces)


@pytest.mark.parametrize("name", ["a.sql", "b.yaml", "c.toml", "d.go", "e.rs", "Dockerfile", "f.ini", "g.sh"])
def test_many_languages_are_code(read_one, name):
    document = read_one(name, "first: line\n  # a comment\n")
    assert (document.format, document.elements[1].text) == ("code", "first: line\n  # a comment")


def test_long_pieces_are_cut(read_one):
    document = read_one("a.py", "\n".join(f"x{n} = {n}" for n in range(200)))
    assert max(item.text.count("\n") + 1 for item in document.elements) <= 80
