"""An exported entry is a whole archive that is made while it is read, and a label is all that can be asked for."""

import io
import os
import tarfile
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from factory.errors import ArtifactError
from factory.web.export import PATH, PIECE_BYTES, archive_bytes, download_link, make_export, members, pieces
from factory.web.shelf import find_entries
from tests.web.shelf_inputs import BAD, HELPDESK, ONE, TWO, write_bundle, write_root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


@pytest.fixture
def client(root):
    with TestClient(Starlette(routes=[Route(PATH, make_export(root))])) as client:
        yield client


def unpacked(body, folder):
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        archive.extractall(folder, filter="data")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_bundle_comes_whole_under_its_name_with_its_length_said_before(root, client, tmp_path):
    reply = client.get(PATH, params={"entry": ONE})
    assert reply.status_code == 200
    assert reply.headers["content-disposition"] == "attachment; filename*=utf-8''one.tar"
    assert int(reply.headers["content-length"]) == len(reply.content)
    bundle = root / "build/one/bundle"
    expected = {
        f"one/{path.relative_to(bundle)}": path.read_bytes() for path in bundle.rglob("*") if path.is_file()
    }
    assert len(expected) >= 4
    assert unpacked(reply.content, tmp_path / "out") == expected


def test_an_adapter_comes_too_and_what_is_damaged_does_not(client, root):
    assert client.get(PATH, params={"entry": HELPDESK}).status_code == 200
    assert client.get(PATH, params={"entry": BAD}).status_code == 404
    assert download_link(find_entries(root)[BAD]) == download_link(None) == ""


@pytest.mark.parametrize(
    "entry", ["", "/etc", "../..", "build/one/bundle", "one", "one (../../etc)", "one\0", "a" * 5000, None]
)
def test_what_is_no_label_of_the_list_is_not_there(client, entry):
    reply = client.get(PATH, params={} if entry is None else {"entry": entry})
    assert (reply.status_code, reply.text.split(":")[0]) == (404, "There is no such entry in the library")


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_another_sites_page_cannot_have_it_read(client, site, status):
    assert client.get(PATH, params={"entry": ONE}, headers={"sec-fetch-site": site}).status_code == status


def test_a_link_leads_out_of_no_bundle(root, client, tmp_path):
    (root / "secret").mkdir()
    (root / "secret/key").write_text("4711")
    (root / "build/one/bundle/key").symlink_to(root / "secret/key")
    (root / "build/one/bundle/more").symlink_to(root / "secret", target_is_directory=True)
    names = unpacked(client.get(PATH, params={"entry": ONE}).content, tmp_path / "out")
    assert "one/manifest.json" in names
    assert not [name for name in names if "key" in name]


def test_a_name_that_leads_elsewhere_is_made_harmless(root, client, tmp_path):
    write_bundle(root / "build/evil/bundle", name="../../x/é'; y")
    reply = client.get(PATH, params={"entry": "../../x/é'; y (build/evil/bundle)"})
    assert reply.headers["content-disposition"] == "attachment; filename*=utf-8''_.._x_%C3%A9_y.tar"
    assert {name.split("/")[0] for name in unpacked(reply.content, tmp_path / "out")} == {"_.._x_é_y"}


def test_long_and_foreign_names_and_every_length_are_kept(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    for size in (0, 1, 511, 512, 513):
        (folder / f"{'n' * 150}-é-{size}").write_bytes(os.urandom(size))
    files = members(folder, "f")
    body = b"".join(pieces(files))
    assert len(body) == archive_bytes(files)
    assert unpacked(body, tmp_path / "out") == {
        f"f/{path.name}": path.read_bytes() for path in folder.iterdir()
    }


def test_a_large_file_is_read_a_piece_at_a_time_and_leaves_no_copy(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    with (folder / "model.gguf").open("wb") as file:
        file.truncate(50 * PIECE_BYTES + 7)
    before = sorted(tmp_path.rglob("*"))
    total = 0
    for piece in pieces(members(folder, "f")):
        assert len(piece) <= PIECE_BYTES
        total += len(piece)
    assert total == archive_bytes(members(folder, "f"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", ["shorter", "gone", "a link"])
def test_a_file_that_changes_on_the_way_ends_the_archive_and_is_named(tmp_path, change):
    folder = tmp_path / "f"
    folder.mkdir()
    path = folder / "model.gguf"
    path.write_bytes(b"x" * 100)
    (tmp_path / "secret").write_bytes(b"s" * 100)
    files = members(folder, "f")
    path.unlink()
    if change == "shorter":
        path.write_bytes(b"x" * 99)
    elif change == "a link":
        path.symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match=r"model\.gguf .*: export again"):
        list(pieces(files))


def test_the_page_links_to_an_entry_and_says_how_large_it_is(root, client):
    link = download_link(find_entries(root)[TWO])
    address = link.split('href="')[1].split('"')[0]
    assert parse_qs(urlsplit(address).query) == {"entry": [TWO]}
    assert client.get(address).status_code == 200
    assert "Download as one file (0.1 MB, .tar)" in link
    assert int(client.head(address).headers["content-length"]) == len(client.get(address).content)
