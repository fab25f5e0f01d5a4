from email.message import EmailMessage


def test_headers_are_fields_and_attachments_documents(read, make):
    mail, sheet = read("in/mail.eml", make.mail()).documents
    assert [item.text for item in mail.elements if item.kind == "field"] == [
        "From: Ada <ada@works.example>",
        "To: Bo <bo@works.example>",
        "Date: Tue, 03 Mar 2026 10:12:00 +0000",
        "Subject: Oil",
    ]
    assert mail.text.endswith("Old words of yours.")
    assert (mail.title, mail.metadata["date"]) == ("Oil", "2026-03-03T10:12:00+00:00")
    assert (sheet.path, sheet.elements[0].cells) == (
        "in/mail.eml!/list.csv",
        (("part", "kg"), ("crate", "64")),
    )


def test_attachment_names_cannot_climb_and_programs_are_refused(read, make):
    reading = read(
        "m.eml", make.mail([("../../x.txt", b"words"), ("run.txt", b"\x7fELF\0\0"), ("../../x.txt", b"more")])
    )
    assert [row.path for row in reading.documents[1:]] == ["m.eml!/.._.._x.txt", "m.eml!/3-.._.._x.txt"]
    assert [(row.path, row.reason) for row in reading.quarantined] == [("m.eml!/run.txt", "executable")]


def test_an_html_body_is_read_without_its_markup(read_one):
    message = EmailMessage()
    message["From"], message["Subject"] = "a@b.example", "Hi"
    message.set_content(
        "<h1>News</h1><p>Oil is <b>dear</b>.</p><img src='http://x/track.gif'>", subtype="html"
    )
    assert read_one("m.eml", message.as_bytes()).text.endswith("News\n\nOil is dear.")


def test_mails_in_mails_are_read_to_the_depth_limit(read):
    data = b""
    for level in range(4):
        message = EmailMessage()
        message["From"], message["Subject"] = "a@b.example", f"Level {level}"
        message.set_content(f"body {level}")
        if data:
            message.add_attachment(data, maintype="application", subtype="octet-stream", filename="in.eml")
        data = message.as_bytes()
    reading = read("m.eml", data)
    assert [row.title for row in reading.documents] == ["Level 3", "Level 2", "Level 1"]
    assert [(row.path, row.reason) for row in reading.quarantined] == [
        ("m.eml!/in.eml!/in.eml!/in.eml", "nested_too_deep")
    ]


def test_a_file_without_headers_is_no_mail(refusal):
    assert refusal("m.eml", "just words\n") == "corrupt"
