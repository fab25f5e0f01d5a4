"""Personal data and secrets: what is found, what is left alone, and that names are stable.

The keys below are put together from parts, so that a scanner for secrets finds none here; they open nothing.
"""

import re
import socket
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.redact import DEFAULT_POLICIES, PSEUDONYM, find_personal, pseudonym, redact

KEY = b"a key of the tests"
AWS_ID, AWS_SECRET = "AKIA" + "TOLVANE23EXAMPLE", "tEnPaStTeN/" + "sTuMp7HoNeY+4HiVes" + "/EXAMPLEKEY"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
TOKEN = "tdp_" + "live_" + "9f3kQ7wZ2mX8" + "EXAMPLE" + "b5Tn"
PEM = (
    "-----BEGIN RSA "
    + "PRIVATE KEY-----\n"
    + "MIIEow" * 20
    + "\n"
    + "IBAAKC" * 9
    + "\n-----END RSA "
    + "PRIVATE KEY-----"
)

# Every case: the text, with the value to be found between « and ».
FOUND = {
    "secret": [
        f"aws_access_key_id = «{AWS_ID}»",
        f"aws_secret_access_key = «{AWS_SECRET}»",
        f"pendulum_token = «{TOKEN}»",
        f"The token «{TOKEN}» opens the door.",
        f"«{PEM}»",
        "DB_PASSWORD=«" + "tr0ub4" + "dor&3»",
        "password: «" + "Winter" + "2024!»",
        "Wi-Fi password is «" + "Copper-Kettle" + "-41», ask twice.",
        '"passwd": "«' + "s3same" + 'Open»",',
        "| Password | «" + "gorilla" + "#77» |",
        "**Password:** `«" + "n1ght" + "Watch»`",
        "postgres://clock:«" + "dial" + "Face»@db.tolvane.example/clocks",
        "export API_KEY='«" + "k3f9Zq81LmP0" + "xYt7Rb2W»'",
        "api key: «" + "9a8b7c6d5e4f" + "3a2b1c0d9e8f7a6b»",
        "client_secret = «" + "0f8fad5b-d9cb-469f" + "-a165-70867728950e»",
        "GITHUB: «ghp_" + "a1B2c3D4e5" * 3 + "F6g7H8»",
        "slack «xoxb-" + "123456789012-" + "abcdefGHIJ1234»",
        "«glpat-" + "aB3dE6gH9jK2" + "mN5pQ8sT»",
        "Authorization: Bearer «" + "b7Kx92mQ" * 4 + "»",
        f"cookie {'«' + JWT + '»'} was sent",
        "«sk-" + "proj-" + "Ab12Cd34Ef56Gh78Ij90Kl»",
        "AccountKey=«" + "Zm9vYmFy" * 11 + "»;",
        "«AIza" + "SyA1b2C3d4E5" * 2 + "f6G7h8I9J0k»",
        "https://x.example/f?sv=1&sig=«" + "aZ09%2B" * 6 + "bcdQ»&se=2026",
        "key,secret: «"
        + "AKIA"
        + "IOSFODNN7EXAMPL2» «"
        + "wJalrXUtnFEMI/"
        + "K7MDENG/bPxRfiCY"
        + "EXAMPLEKE2»",
    ],
    "card": [
        "card over the phone, «5555 5555 5555 4444», exp 09/27",
        "Visa «4111-1111-1111-1111»",
        "«4012888888881881»",
        "amex «3782 822463 10005» or",
        "pan=«6011111111111117»",
        "JCB «3530111333300000».",
        "Diners: «30569309025904»",
        "new Mastercard range «2223 0031 2200 3222»",
    ],
    "iban": [
        "| Account for wages (IBAN) | «GB10 SKBK 0901 2731 9268 14» |",
        "IBAN «GB29 NWBK 6016 1331 9268 19» BIC NWBKGB2L",
        "«DE89370400440532013000»",
        "pay to «FR14 2004 1010 0505 0001 3M02 606», please",
        "«NL91ABNA0417164300»/«NO9386011117947»",
        "«CH93 0076 2011 6238 5295 7»",
        "iban: «de89 3704 0044 0532 0130 00»",
    ],
    "national_id": [
        "SSN «536-90-4399» on file",
        "social security number «536904399»",
        "ITIN «912-90-3456»",
        "NI number: «JG103759A»",
        "«AB 12 34 56 C»",
        "NHS «943 476 5919»",
        "SIN «123-456-782»",
        "«2 95 10 99 126 111 93»",
        "CF «RCCMNL83S18D969H»",
        "DNI «54362315K»",
        "BSN «111222333»",
        "Steuer-ID «36 574 261 809»",
        "personnummer «880320-0016»",
    ],
    "private_email": [
        "write to «anneli.sorrow06@gmail.com».",
        "«j.o'neill@outlook.co.uk»",
        "mailto:«tom+clocks@proton.me»",
        "«a_b@web.de», «x@gmx.net»",
        "«Old.Bell@Yahoo.Fr»",
        "«bee@icloud.com»",
        "| Private e-mail | «anneli.sorrow06@willowmail.example» |",
        "Personal email: «p@greaveley.example»",
    ],
    "email": [
        "Petra Lindqvarn <«p.lindqvarn@tolvane.example»>",
        "«people@tolvane.example», «clerk@stmungo-tarrow.example»;",
        "ask «o'brien@mail.tolvane.co.uk».",
        "«sales@gmail-consulting.com»",
    ],
    "ip": [
        "the gateway is «10.0.0.1»",
        "«192.168.100.20»/24",
        "http://«172.16.4.9»:8080/x",
        "ping «8.8.8.8»",
        "«2001:db8:85a3::8a2e:370:7334»",
        "from «203.0.113.77», port 22",
    ],
    "phone": [
        "ring «01632 960477» now",
        "home «01632 960812», mobile «07700 900614»",
        "«+44 20 7946 0958»",
        "in English: «+44 1632 960477».",
        "(«(212) 555-0142»)",
        "«212-555-0142»",
        "or «415.555.2671»",
        "«020 7946 0958 ext. 21»",
        "call «4155552671»",
        "«+33 1 42 68 53 00» Paris",
        "free: «0800 123 4567»",
        "tel «01632960477»",
        "«1-800-222-0364»",
    ],
}
NUM_FOUND = {
    "secret": 26, "card": 8, "iban": 8, "national_id": 13, "private_email": 9, "email": 5,
    "ip": 6, "phone": 14,
}  # fmt: skip

LEFT_ALONE = """
Part S-2041-B fits the Osprey hand set.
S-3307-A, S-1180-C and S-2077-A are in bay 14.
Ticket SV-4471 was closed on 2026-02-11.
Order TO-20391 of 24 Feb 2026, 11:20
Ring extension 614 or ext. 702.
Serial no. 0123456789
Serial 4155552671
part number 212-555-0142
invoice 20260211-0042
Invoice no. 4012888888881881 was paid.
tracking number 5555555555554444
1Z999AA10123456784
ISBN 978-3-16-148410-0
ISBN 0-306-40615-2
EAN 4006381333931
IMEI 490154203237518
VAT GB 123 4567 82
VAT no. GB 980 7806 84
sort code 20-00-00, account 55779911
Company number 01234567
PO 4500012345
Card 4111 1111 1111 1112 has a typing error.
1234 5678 9012 3456
0000 0000 0000 0000
1707660000000000
3.14159265358979323846
GB10 SKBK 0901 2731 9268 15
GB82 WEST 1234 5698 7654 33
XX10 SKBK 0901 2731 9268 14
DE12 3456
Postcode SB3 7QT, hall MQ1 2DL
078-05-1120
666-12-3456
000-12-3456
order 123-45-6789
123-45-67890
AB123456C
part QQ 12 34 56 C
GB 12 34 56 A
Dial 12 34 56
sin(123 456 789)
536904399
943 476 5919 of 1,000,000,000
Firmware 7.3.2 is current.
version 10.4.22.118
Firmware 7.3.2.1
v1.22.33.44
see section 3.2.1.4
Clause 4.25.1.2 applies.
mask 255.255.255.0
127.0.0.1 and 0.0.0.0
300.1.2.3
1.2.3.4.5
192.168.1
07:30-14:45
22:30:15
std::vector<int> a::b
at 10:40:00::
00:1A:2B:3C:4D:5E
2026-02-11
2026-02-11T14:30:00Z
11/02/2026 14:30
01.02.2026
from 1 February 2026 to 31 January 2027
1911-1961
4000-4999
£1,150,000,000
$ 4,155,552,671
Price: 770.00 + 19.00 = 789.00, VAT 157.80, total 946.80
1,312 clocks under contract
480 x 240 x 5750 mm
2024 10 11 12
10 000 000 000 cycles
12 24 36 48 60 72 84 96
900 mm, IP65, 31 kg
24 V, 11 W per metre, 82 °C
5 x 4.6 kg
Clause 252.227-7013
job 0800 123 4567
0044-120-3381-7
E04, E11, E17, E23, E31, E42, E58
CR2477
icon@2x.png
git@github.com:tolvane/clocks.git
user@localhost
@app.route
a@b
npm install left-pad@1.3.0
Message-ID: <depot-backup-keys@tolvane.example>
name at gmail dot com
meet me @ 10.30.am
A password has at least 12 characters, with a capital, a digit and a sign.
Passwords are never sent by e-mail. Ring extension 614.
The password is changed every 90 days.
Password: see IT-02
password: 12-character minimum
password: passphrases-v2.md
Password = required
"password": "string"
password: ${DB_PASSWORD_1}
password: {{ vault.db_pass_1 }}
password = getpass("Password 1: ")
password=<your-password-1>
password: ********
Password reset: ring the desk, 2 minutes
token = os.environ["API_TOKEN_2"]
token = settings.API_TOKEN_2_PRIMARY
max_tokens: 4096
A token is about 4 characters.
token_expires: 2026-02-11T14:30:00Z
token: https://idp.tolvane.example/oauth2/v2/token
secret: /run/secrets/db_password_2
secret: the-2026-founders-saturday-cake
The secret: "Never stop a clock at twelve."
api_key: your-api-key-goes-here-1234
api key: EXAMPLE
The key is under the mat at Unit 4.
primary key: 0f8fad5b-d9cb-469f-a165-70867728950e
UUID 0f8fad5b-d9cb-469f-a165-70867728950e
sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"d41d8cd98f00b204e9800998ecf8427e"
commit fffb3f5a1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f
integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC"
12345678:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b
https://tolvane.example:8080/a/b?page=2
s3://access_key_id:secret_access_key@bucket
It begins with -----BEGIN PRIVATE KEY----- and ends likewise.
sk-learn-pipelines-for-beginners
Bearer of the key to the tower, internationalisation
<EMAIL_3F2A91> and <SECRET_00FFAA>
""".strip().splitlines()


def _unmarked(case: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a case's text without its marks, and where the values between them stand."""
    text, spans = "", []
    for number, part in enumerate(re.split("[«»]", case)):
        if number % 2:
            spans.append((len(text), len(text) + len(part)))
        text += part
    return text, spans


CASES = [(kind, *_unmarked(case)) for kind, cases in FOUND.items() for case in cases]


def test_every_planted_value_is_found_and_nothing_beside_it():
    found, wrong = Counter(), []
    for kind, text, spans in CASES:
        findings = find_personal(text)
        found[kind] += sum(
            (finding.kind, (finding.start, finding.end)) in [(kind, s) for s in spans] for finding in findings
        )
        if [(f.kind, (f.start, f.end)) for f in findings] != [(kind, span) for span in spans]:
            wrong.append((kind, text, [(f.kind, text[f.start : f.end]) for f in findings]))
    assert wrong == []
    assert found == NUM_FOUND
    assert len(CASES) >= 60


def test_ordinary_text_is_left_alone():
    wrong = {text: findings for text in LEFT_ALONE if (findings := find_personal(text))}
    assert wrong == {}
    assert len(LEFT_ALONE) >= 100


@pytest.mark.parametrize("kind", DEFAULT_POLICIES)
def test_a_redacted_kind_leaves_its_name_only(kind):
    policies = dict.fromkeys(DEFAULT_POLICIES, "allow") | {kind: "redact"}
    for text, spans in [(text, spans) for of, text, spans in CASES if of == kind]:
        result = redact(text, policies, KEY)
        assert not any(text[start:end] in result.text for start, end in spans)
        assert len(PSEUDONYM.findall(result.text)) >= len(spans)
        assert result.counts[kind] >= len(spans)
        assert not result.drop


def test_what_is_allowed_stays_and_is_counted():
    text = "Ring 01632 960477 or write to people@tolvane.example."
    result = redact(text, DEFAULT_POLICIES, KEY)
    assert result.text == text
    assert result.counts == {"email": 1, "phone": 1}


def test_a_kind_to_be_dropped_says_so_and_is_masked():
    result = redact("card 5555 5555 5555 4444", {"card": "drop"}, KEY)
    assert result.drop
    assert "5555" not in result.text
    assert not redact("card 5555 5555 5555 4445", {"card": "drop"}, KEY).drop


def test_a_kind_without_a_policy_has_its_default():
    assert redact(f"token {TOKEN}", {}, KEY).text.startswith("token <SECRET_")


def test_spellings_of_one_value_share_a_name():
    for kind, one, other in [
        ("iban", "GB10 SKBK 0901 2731 9268 14", "gb10skbk09012731926814"),
        ("card", "5555 5555 5555 4444", "5555-5555-5555-4444"),
        ("phone", "01632 960477", "+44 1632 960477"),
        ("phone", "(212) 555-0142", "+1 212-555-0142"),
        ("email", "People@Tolvane.example", "people@tolvane.example"),
    ]:
        assert pseudonym(kind, one, KEY) == pseudonym(kind, other, KEY)
    assert pseudonym("card", "5555555555554444", KEY) != pseudonym("card", "5555555555554444", b"another key")
    assert pseudonym("phone", "01632 960477", KEY) != pseudonym("phone", "01632 960478", KEY)


def test_names_of_a_thousand_values_hardly_collide():
    assert len({pseudonym("email", f"person{n}@tolvane.example", KEY) for n in range(1000)}) >= 999


def test_a_secret_is_masked_wherever_it_stands_again():
    value = "Copper-Kettle" + "-41"
    assert (
        value not in redact(f"The password is {value}.\nAfterwards: say {value} at the door.", {}, KEY).text
    )


def test_an_address_called_private_once_is_private_throughout():
    text = "Private e-mail: a@willow.example\nSent by a@willow.example and b@willow.example"
    assert [finding.kind for finding in find_personal(text)] == ["private_email", "private_email", "email"]


def test_other_regions_can_be_named():
    text = "Paris 01 42 68 53 00"
    assert not find_personal(text, regions=())
    assert [text[f.start : f.end] for f in find_personal(text, regions=("FR",))] == ["01 42 68 53 00"]


def test_nothing_goes_to_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert sum(len(find_personal(text)) for _, text, _ in CASES) >= sum(NUM_FOUND.values())


PIECES = (
    [text for _, text, _ in CASES]
    + LEFT_ALONE
    + [" ", "\n", "-", ".", "<", ">", "@", "+", "0", "x", "=", '"', "password: "]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join), st.data())
def test_redacting_twice_is_redacting_once(text, data):
    policies = {kind: data.draw(st.sampled_from(["redact", "drop", "allow"])) for kind in DEFAULT_POLICIES}
    once = redact(text, policies, KEY)
    again = redact(once.text, policies, KEY)
    assert again.text == once.text
    assert not again.drop
    assert all(policies[kind] == "allow" for kind in again.counts)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join))
def test_findings_are_in_order_and_apart(text):
    findings = find_personal(text)
    assert findings == find_personal(text)
    assert all(0 <= finding.start < finding.end <= len(text) for finding in findings)
    assert all(one.end <= other.start for one, other in pairwise(findings))
