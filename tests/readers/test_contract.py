"""What readers take and return: limits that survive a pipe, blocks that stay as they are, refusals with two parts."""

import json
from dataclasses import FrozenInstanceError, asdict

import pytest

from factory.readers.contract import Block, Limits, Member, Parsed, ReadError


def test_limits_are_those_that_are_documented_and_survive_a_pipe_as_json() -> None:
    assert asdict(Limits()) == {
        "max_file_bytes": 52_428_800,
        "max_pages": 2000,
        "max_archive_depth": 2,
        "max_archive_files": 10_000,
        "max_archive_ratio": 100,
        "max_archive_bytes": 524_288_000,
        "drop_instructions": False,
    }
    limits = Limits(max_pages=3, drop_instructions=True)
    assert Limits(**json.loads(json.dumps(asdict(limits)))) == limits != Limits()


def test_a_refusal_keeps_its_reason_and_detail_apart_and_says_both() -> None:
    error = ReadError("too_large", "It has 3 pages: split it.")
    assert (error.reason, error.detail) == ("too_large", "It has 3 pages: split it.")
    assert str(error) == "too_large: It has 3 pages: split it."


@pytest.mark.parametrize("thing", [Block("paragraph"), Limits(), Member("a.txt"), Parsed()])
def test_what_was_read_cannot_be_changed(thing) -> None:
    name = next(iter(asdict(thing)))
    with pytest.raises(FrozenInstanceError):
        setattr(thing, name, "other")


def test_two_files_without_metadata_do_not_share_it() -> None:
    one, two = Parsed(), Parsed()
    one.metadata["author"] = "Ada"
    assert two.metadata == {}
    assert (two.title, *map(len, (two.blocks, two.members))) == ("", 0, 0)
