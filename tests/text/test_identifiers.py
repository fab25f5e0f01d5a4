"""Check digits, prefixes and the words before a number decide what points at a person."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text import identifiers

IBAN = "GB29NWBK60161331926819"


def _words(spans, text: str) -> list[str]:
    return sorted({text[start:end] for start, end in spans})


@settings(max_examples=50)
@given(st.text("0123456789", min_size=14, max_size=14))
def test_one_last_digit_in_ten_makes_a_card_number(digits: str) -> None:
    texts = [f"4{digits}{last}" for last in range(10)]
    assert sum(list(identifiers.card_spans(text)) == [(0, 16)] for text in texts) == 1


@settings(max_examples=50)
@given(st.sampled_from([i for i, char in enumerate(IBAN) if char.isdigit()]), st.integers(1, 9))
def test_an_iban_with_one_wrong_digit_is_none(place: int, shift: int) -> None:
    wrong = IBAN[:place] + str((int(IBAN[place]) + shift) % 10) + IBAN[place + 1 :]
    assert list(identifiers.iban_spans(f"to {IBAN}.")) == [(3, 25)]
    assert list(identifiers.iban_spans(f"to {wrong}.")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SSN 536904399", ["536904399"]),
        ("SSN\n536904399", []),  # called so in another line
        ("NI number: JG103759A", ["JG103759A"]),
        ("NI number: BG103759A", []),  # a prefix never given
        ("NI number: JO103759A", []),  # O is no second letter
        ("NI number: JG103759E", []),  # suffixes are A to D
        ("NHS 943 476 5919", ["943 476 5919"]),
        ("NHS 943 476 5918", []),  # check digit
    ],
)
def test_a_national_id_is_called_one_in_its_line_and_keeps_its_rules(text: str, found: list[str]) -> None:
    assert _words(identifiers.national_id_spans(text), text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see 1.2.3.20", []),
        ("see 1.2.3.21", ["1.2.3.21"]),
        ("server 1.2.3.4", ["1.2.3.4"]),
        ("10.1.2.3", []),  # as well a section
        ("10.0.2.3", ["10.0.2.3"]),
        ("10.0.2.256", []),
        ("10.0.2.03", []),
        ("fe80::1a", ["fe80::1a"]),
        ("fe80::zz", []),
    ],
)
def test_an_ip_address_is_told_from_a_version_by_its_numbers_or_the_word_before(text, found) -> None:
    assert _words(identifiers.ip_spans(text), text) == found


@pytest.mark.parametrize(
    ("text", "regions", "found"),
    [
        ("020 7946 0958", ("GB",), ["020 7946 0958"]),
        ("020 7946 0958", ("US",), []),
        ("212-555-0142", ("US",), ["212-555-0142"]),
        ("212-555-0142", ("GB",), []),
        ("+44 20 7946 0958", (), ["+44 20 7946 0958"]),
        ("serial 020 7946 0958", ("GB",), []),
        ("serial +44 20 7946 0958", (), ["+44 20 7946 0958"]),  # only telephones begin with a plus
        ("0207 9460", ("GB",), []),  # eight digits
    ],
)
def test_a_national_telephone_number_counts_in_its_region_only(text, regions, found) -> None:
    assert _words(identifiers.phone_spans(text, regions), text) == found


def test_an_address_is_private_by_its_provider_or_once_called_so_in_any_case() -> None:
    text = "Home e-mail: Bee@willow.example\nbee@WILLOW.example, cat@willow.example, cat@GMail.com"
    assert [(text[start:end], private) for (start, end), private in identifiers.email_spans(text)] == [
        ("Bee@willow.example", True),
        ("bee@WILLOW.example", True),
        ("cat@willow.example", False),
        ("cat@GMail.com", True),
    ]


@pytest.mark.parametrize(
    "text",
    ["logo@2x.svg", "git@depot.example", "ssh://ada@depot.example/x", "References: <a1@depot.example>"],
)
def test_files_repositories_and_message_ids_are_no_addresses(text: str) -> None:
    assert list(identifiers.email_spans(text)) == []
    assert len(list(identifiers.email_spans(f"{text}\nada@depot.example"))) == 1
