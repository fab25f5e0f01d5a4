"""Files that a reader of documents must survive: locked, scanned, damaged, hostile.

Each function makes one of them as bytes; `broken_files` names them all. None holds anything harmful.
"""

import io
import random
import struct

from company_formats import write_zip
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

PASSWORD = "ten-past-ten"
SCAN_SIZE = (640, 320)
SCAN_LINES = (
    "DELIVERY NOTE 7731",
    "Brightwell Castings, Orrin Bridge",
    "6 dial frames 900 mm",
    "received: W. Trask",
)
WORD_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
MACRO_TYPE = "application/vnd.ms-word.document.macroEnabled.main+xml"
BOMB_BYTES = 4_000_000
SECTOR = 512


def broken_files() -> dict[str, bytes]:
    """Make every broken file, by name."""
    return {
        "bomb.zip": write_zip({"drawings.txt": b"0" * BOMB_BYTES}),
        "corrupt-drawing.pdf": corrupt_pdf(),
        "deep.html": deep_html(5_000),
        "empty-minutes.docx": word_file(WORD_TYPE, {}),
        "encrypted-payroll.pdf": encrypted_pdf(),
        "locked-prices.xlsx": locked_workbook(),
        "macro-stock.docm": word_file(
            MACRO_TYPE, {"word/vbaProject.bin": b"\xd0\xcf\x11\xe0 not a real macro"}
        ),
        "scanned-note.pdf": scanned_pdf(),
        "script.txt": executable(),
        "traversal.zip": write_zip(
            {"notes/fine.txt": b"A fine note.\n", "../../outside.txt": b"I should not be here.\n"}
        ),
    }


def encrypted_pdf() -> bytes:
    """Make a PDF that asks for a password."""
    buffer = io.BytesIO()
    lock = StandardEncryption(PASSWORD, ownerPassword=PASSWORD, strength=128)
    canvas = Canvas(buffer, invariant=1, pageCompression=0, encrypt=lock)
    canvas.drawString(72, 720, "Payroll, February 2026")
    canvas.save()
    return buffer.getvalue()


def corrupt_pdf() -> bytes:
    """Make a file that begins as a PDF and goes on as noise."""
    return b"%PDF-1.4\n" + random.Random(1911).randbytes(3_000)


def scanned_pdf() -> bytes:
    """Make a PDF whose only page is a picture of a delivery note."""
    width, height = SCAN_SIZE
    pixels = scan().tobytes()
    drawing = b"q 480 0 0 240 57 500 cm /Scan Do Q"
    picture = b"<< /Type /XObject /Subtype /Image /BitsPerComponent 1 /ColorSpace /DeviceGray"
    picture += b" /Width %d /Height %d /Length %d >>" % (width, height, len(pixels))
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
    page += b" /Resources << /XObject << /Scan 5 0 R >> >> >>"
    return join_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            page,
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
            picture + b"\nstream\n" + pixels + b"\nendstream",
        ]
    )


def scan() -> Image.Image:
    """Draw the delivery note in a bitmap font, black on white."""
    small = Image.new("1", (SCAN_SIZE[0] // 2, SCAN_SIZE[1] // 2), 1)
    for row, line in enumerate(SCAN_LINES):
        ImageDraw.Draw(small).text((12, 14 + 24 * row), line, fill=0, font=ImageFont.load_default_imagefont())
    return small.resize(SCAN_SIZE, Image.Resampling.NEAREST)


def join_pdf(objects: list[bytes]) -> bytes:
    """Number the objects, the catalogue first, and add the cross-reference table."""
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer


def word_file(content_type: str, extra: dict[str, bytes]) -> bytes:
    """Make the smallest Word file there is: one empty paragraph."""
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    office = "http://schemas.openxmlformats.org"
    types = (
        f'{head}<Types xmlns="{office}/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="bin" ContentType="application/vnd.ms-office.vbaProject"/>'
        f'<Override PartName="/word/document.xml" ContentType="{content_type}"/></Types>'
    )
    links = (
        f'{head}<Relationships xmlns="{office}/package/2006/relationships"><Relationship Id="rId1" '
        f'Type="{office}/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>'
    )
    body = "<w:body><w:p/></w:body>"
    words = f'{head}<w:document xmlns:w="{office}/wordprocessingml/2006/main">{body}</w:document>'
    parts = {"[Content_Types].xml": types, "_rels/.rels": links, "word/document.xml": words}
    return write_zip({name: part.encode() for name, part in parts.items()} | extra)


def locked_workbook() -> bytes:
    """Make the outer shell of a workbook with a password: an OLE file whose `EncryptedPackage` is noise."""
    noise = random.Random(7).randbytes(8 * SECTOR)
    free, end, special = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
    chain = [special, end, *range(3, 10), end, *range(11, 18), end]
    fat = struct.pack("<128I", *chain, *[free] * (128 - len(chain)))
    counts = struct.pack("<5H6x9I", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, 1, 0, 4096, end, 0, end, 0)
    header = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + counts + struct.pack("<109I", 0, *[free] * 108)
    folder = ole_entry("Root Entry", 5, end, 0, links=(-1, -1, 1))
    folder += ole_entry("EncryptionInfo", 2, 2, len(noise), links=(-1, 2, -1))
    folder += ole_entry("EncryptedPackage", 2, 10, len(noise)) + bytes(128)
    return header + fat + folder + noise + noise


def ole_entry(
    name: str, kind: int, start: int, size: int, links: tuple[int, int, int] = (-1, -1, -1)
) -> bytes:
    """Pack one directory entry of an OLE file; `links` are its left and right neighbour and its child."""
    wide = name.encode("utf-16-le") + b"\0\0"
    place = struct.pack("<IQ", start, size)
    return wide.ljust(64, b"\0") + struct.pack("<HBB3i", len(wide), kind, 1, *links) + bytes(36) + place


def executable() -> bytes:
    """Make an ELF header with nothing behind it, to be named as if it were text."""
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHI", 2, 62, 1) + bytes(104)


def deep_html(depth: int) -> bytes:
    """Make a page whose one sentence lies at the bottom of many divisions."""
    return (
        b"<html><body>"
        + b"<div>" * depth
        + b"The hive is behind the Stump."
        + b"</div>" * depth
        + b"</body></html>\n"
    )
