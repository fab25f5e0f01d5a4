import pytest

from factory.readers.sniff import decode_text


@pytest.mark.parametrize("magic", [b"\x7fELF\2\1", b"MZ\x90\0\3\0", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"])
@pytest.mark.parametrize("name", ["script.txt", "a.md", "b.docx", "noname", "c.pdf"])
def test_programs_are_refused_whatever_their_name(refusal, magic, name):
    assert refusal(name, magic + b"\0" * 60) == "executable"


def test_words_that_begin_like_a_program_are_words(read_one):
    assert read_one("a.txt", "MZ is a province code.").text == "MZ is a province code."


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t\n", "no_text"),
        ("a.docx", b"words", "corrupt"),
        ("a.docm", b"PK\x03\x04", "macros"),
        ("a.xlsm", b"whatever", "macros"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "unsupported"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "unsupported"),
        ("a.txt", b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "unsupported"),
        ("a.bin", bytes(range(256)), "unsupported"),
        ("a.md", b"words\0\0\0\1\2\3" * 20, "unsupported"),
        ("a.rtf", b"{\\rtf1 words}", "unsupported"),
        ("a.gz", b"\x1f\x8b\x08" + b"x" * 40, "unsupported"),
    ],
)
def test_files_that_cannot_be_read_have_their_reason(refusal, name, data, reason):
    assert refusal(name, data) == reason


@pytest.mark.parametrize(
    "name", [".env", "env", "prod.env", "Deploy.ENV", ".env.local", "env.production", "conf/.env.test.local"]
)
def test_files_made_for_keys_are_not_read_since_redaction_might_miss_one(refusal, name):
    assert refusal(name, b"DB_PASSWORD=summer\n") == "secrets"


@pytest.mark.parametrize("name", [".env.example", "env.md", "environment.txt", "env.py", "prod.environment"])
def test_names_that_only_look_alike_are_read(read_one, name):
    assert "PASSWORD" in read_one(name, "DB_PASSWORD=changeme").text


def test_office_files_are_known_by_their_parts(read_one, refusal, make):
    assert read_one("noname", make.docx()).format == "docx"
    assert read_one("pack.zip", make.xlsx()).format == "xlsx"
    assert refusal("a.xlsx", make.docx()) == "corrupt"
    assert refusal("a.docx", make.zip({"word/document.xml": b"", "word/vbaProject.bin": b"x"})) == "macros"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_common_encodings_are_decoded(encoding):
    text = "Café crème, naïve façade: 50 € für Müller, señor Peña."
    assert decode_text(text.encode(encoding)) == text


def test_files_without_a_suffix_are_text_or_html(read_one):
    assert read_one("notes", "words").format == "text"
    assert read_one("saved", "<!DOCTYPE html><p>words").format == "html"
