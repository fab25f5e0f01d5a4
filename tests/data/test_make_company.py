"""The committed company: built from its sources, complete, with personal data that passes its checksums."""

import re
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
sys.path.insert(0, str(DATA))
make_company = pytest.importorskip("make_company")

QUICKSTART = DATA / "quickstart"
FORMATS = [
    "docx",
    "pptx",
    "xlsx",
    "pdf",
    "eml",
    "zip",
    "html",
    "rst",
    "txt",
    "csv",
    "tsv",
    "json",
    "jsonl",
    "py",
    "md",
]


@pytest.fixture(scope="module")
def built() -> dict[str, bytes]:
    return make_company.build_all()


def test_a_second_build_gives_the_same_bytes(built):
    assert make_company.build_all() == built


def test_what_is_committed_is_what_the_sources_give(built):
    assert make_company.differences(built, make_company.on_disk(DATA)) == []


def test_a_build_into_an_empty_folder_equals_the_committed_files(built, tmp_path):
    assert make_company.main(["--out", str(tmp_path)]) == 0
    assert make_company.on_disk(tmp_path) == built
    assert make_company.differences(make_company.on_disk(DATA), make_company.on_disk(tmp_path)) == []


def test_check_finds_a_change_and_a_build_repairs_it(tmp_path, capsys):
    make_company.main(["--out", str(tmp_path)])
    (tmp_path / "quickstart" / "about" / "welcome.md").write_text("gone")
    (tmp_path / "quickstart" / "stray.md").write_text("left over")
    assert make_company.main(["--out", str(tmp_path), "--check"]) == 1
    assert "differs: quickstart/about/welcome.md" in capsys.readouterr().out
    make_company.main(["--out", str(tmp_path)])
    assert make_company.main(["--out", str(tmp_path), "--check"]) == 0


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_is_there(ending):
    assert [path for path in QUICKSTART.rglob(f"*.{ending}") if "broken" not in path.parts]


def test_the_quickstart_has_about_six_thousand_words():
    sources = [path for path in (DATA / "source" / "quickstart").rglob("*") if path.is_file()]
    words = sum(len(re.findall(r"\w\S*", _without_tags(path))) for path in sources)
    assert 5_000 <= words <= 7_500


def _without_tags(path: Path) -> str:
    return re.sub(r"<[^>]*>", " ", path.read_text(encoding="utf-8"))


def test_the_iban_passes_its_checksum():
    form = (DATA / "source" / "quickstart" / "people" / "new-starter-sorrow.docx.md").read_text(
        encoding="utf-8"
    )
    iban = re.search(r"\bGB\d\d(?: ?[A-Z0-9]){18}", form)[0].replace(" ", "")
    assert int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def test_the_card_passes_its_checksum():
    pad = (QUICKSTART / "sales" / "phone-order-20391.txt").read_text(encoding="utf-8")
    card = [int(digit) for digit in re.search(r"(?:\d{4} ){3}\d{4}", pad)[0].replace(" ", "")]
    doubled = [sum(divmod(2 * digit, 10)) for digit in card[-2::-2]]
    assert (sum(card[-1::-2]) + sum(doubled)) % 10 == 0


def test_the_fake_keys_stand_in_the_built_mail_only(built):
    assert b"AKIA" in built["quickstart/mail/depot-backup-keys.eml"]
    sources = [path for path in (DATA / "source").rglob("*") if path.is_file()] + list(DATA.glob("*.py"))
    assert not [path for path in sources if re.search(rb"AKIA\w{16}", path.read_bytes())]
