"""Documents that a newer version replaces are left out, and no others."""

import itertools

import pytest

from factory.rows import Chunk
from factory.text import versions
from tests.made import make_chunks

NEW = ("IT-02 Passphrases", "Version 2, valid from 12 January 2026. It replaces version 1.", "it/new.md")
OLD = ("IT-02 Passphrases", "Version 1, valid from 2023. Change it every 30 days.", "it/old.md")


def _chunks(*documents: tuple[str, str, str]) -> list[Chunk]:
    return [chunk for title, text, path in documents for chunk in make_chunks(text, title=title, path=path)]


def test_a_document_that_another_replaces_is_left_out_in_whatever_order() -> None:
    for order in itertools.permutations((NEW, OLD)):
        current, superseded = versions.split(_chunks(*order))
        assert superseded == ["it/old.md"]
        assert {chunk.document for chunk in current} == {"it/new.md"}


def test_in_a_chain_only_the_last_version_stays() -> None:
    third = ("IT-02 Passphrases", "Version 3. Supersedes version 2.", "it/third.md")
    assert versions.split(_chunks(OLD, NEW, third))[1] == ["it/new.md", "it/old.md"]


@pytest.mark.parametrize(
    "other",
    [
        ("HR-07 Leave policy", "Version 1. You have 25 days.", "hr/leave.md"),
        ("IT-02 Passphrases", "No version is given here.", "it/old.md"),
        ("IT-02 Passphrases", "Version 3 is a draft.", "it/old.md"),
        ("Passphrases", "Version 1, one word is not enough to know it by.", "it/old.md"),
    ],
)
def test_other_documents_stay(other: tuple[str, str, str]) -> None:
    current, superseded = versions.split(_chunks(NEW, other))
    assert superseded == []
    assert len({chunk.document for chunk in current}) == 2


def test_titles_without_a_code_must_share_their_words() -> None:
    new = ("Leave policy, version 5", "This replaces version 4 of the policy.", "leave-v5.md")
    old = ("Leave policy", "Edition 4.", "leave-v4.md")
    assert versions.split(_chunks(new, old))[1] == ["leave-v4.md"]
    assert versions.split(_chunks(new, ("Travel policy", "Edition 4.", "travel.md")))[1] == []


def test_what_stands_far_below_the_head_counts_for_nothing() -> None:
    filler = "Some words about nothing in particular. " * 20
    new = ("IT-02 Passphrases", filler + "Version 2 replaces version 1.", "it/new.md")
    assert versions.split(_chunks(new, OLD))[1] == []


def test_nothing_in_means_nothing_out() -> None:
    assert versions.split([]) == ([], [])
