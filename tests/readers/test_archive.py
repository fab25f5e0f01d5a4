import io
import zipfile

import pytest


def test_members_are_documents_and_bad_ones_refused(read, make):
    reading = read(
        "p.zip",
        make.zip({"b/x.md": b"# X\n\nwords\n", "../up.txt": b"a", "/abs.txt": b"a", "c:\\w.txt": b"a"}),
    )
    assert [row.path for row in reading.documents] == ["p.zip!/b/x.md"]
    assert {row.reason for row in reading.quarantined} == {"path_traversal"}
    assert len(reading.quarantined) == 3


def test_symbolic_links_inside_are_refused(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert [row.reason for row in read("p.zip", file.getvalue()).quarantined] == ["link"]


def test_names_used_twice_are_refused(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.txt", "two")
    reading = read("p.zip", file.getvalue())
    assert not reading.documents
    assert [row.reason for row in reading.quarantined] == ["corrupt"]


@pytest.mark.parametrize(
    ("members", "limits"),
    [
        ({"zeros": b"0" * (10 << 20)}, {}),
        ({"a": b"words", "b": b"words", "c": b"words"}, {"max_archive_files": 2}),
        ({"a": b"words" * 500_000}, {"max_archive_bytes": 1 << 20}),
    ],
)
def test_bombs_are_seen_before_unpacking(refusal, make, members, limits):
    assert refusal("bomb.zip", make.zip(members), **limits) == "zip_bomb"


def test_bombs_spread_over_nested_archives_are_seen(read, make):
    inner = make.zip({f"{n}.txt": bytes(f"words {n}", "ascii") for n in range(5)})
    reading = read("p.zip", make.zip({"a.zip": inner, "b.zip": inner}), max_archive_files=8)
    assert {row.reason for row in reading.quarantined} == {"zip_bomb"}
    assert 0 < len(reading.documents) < 10


def test_depth_is_capped(read, make):
    data = make.zip({"deep.txt": b"words"})
    for _ in range(2):
        data = make.zip({"in.zip": data})
    (row,) = read("p.zip", data).quarantined
    assert (row.path, row.reason) == ("p.zip!/in.zip!/in.zip!/deep.txt", "nested_too_deep")
    assert len(read("p.zip", data, max_archive_depth=3).documents) == 1


def test_a_member_that_lies_about_its_size_is_corrupt(read, make):
    data = bytearray(make.zip({"a.txt": b"words and more words"}))
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (5).to_bytes(4, "little")
    assert [row.reason for row in read("p.zip", bytes(data)).quarantined] == ["corrupt"]


def test_an_empty_archive_and_damage_have_reasons(refusal, make):
    assert refusal("p.zip", make.zip({})) == "no_text"
    assert refusal("p.zip", make.zip({"a.txt": b"words"})[:-30]) == "corrupt"
    assert refusal("p.zip", b"PK\x03\x04" + b"x" * 50) == "corrupt"
