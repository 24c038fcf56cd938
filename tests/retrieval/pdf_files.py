"""PDF files by hand: letters placed one by one, as they are seen."""

from collections.abc import Sequence

ADVANCE = 6
SIZE = 12


def make_pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """A PDF whose lines show the given letters from left to right; a space is a gap, as many programs leave it."""
    letters = sorted({letter for page in pages for line in page for letter in line if letter != " "})
    codes = {letter: number for number, letter in enumerate(letters, start=1)}
    mapping = "\n".join(f"<{codes[letter]:04x}> <{letter.encode('utf-16-be').hex()}>" for letter in letters)
    unicode_map = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def\n"
        f"1 begincodespacerange <0000> <ffff> endcodespacerange {len(letters)} beginbfchar\n{mapping}\nendbfchar\n"
        "endcmap end end"
    )
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{7 + 2 * n} 0 R' for n in range(len(pages)))}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /Plain /Encoding /Identity-H /DescendantFonts [4 0 R] "
        "/ToUnicode 6 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Plain /CIDSystemInfo << /Registry (Adobe) "
        "/Ordering (Identity) /Supplement 0 >> /FontDescriptor 5 0 R /DW 500 >>",
        "<< /Type /FontDescriptor /FontName /Plain /Flags 4 /FontBBox [0 -200 1000 800] /Ascent 800 /Descent -200 "
        "/ItalicAngle 0 /CapHeight 700 /StemV 80 >>",
        _make_stream(unicode_map),
    ]
    for number, page in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {8 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(_make_stream(_draw(page, codes)))
    return _join(objects)


def _draw(page: Sequence[str], codes: dict[str, int]) -> str:
    shown = []
    for row, line in enumerate(page):
        for column, letter in enumerate(line):
            if letter != " ":
                shown.append(f"1 0 0 1 {40 + column * ADVANCE} {740 - row * 20} Tm <{codes[letter]:04x}> Tj")
    return "\n".join([f"BT /F1 {SIZE} Tf", *shown, "ET"])


def _make_stream(text: str) -> str:
    return f"<< /Length {len(text.encode())} >>\nstream\n{text}\nendstream"


def _join(objects: Sequence[str]) -> bytes:
    data = b"%PDF-1.7\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    start = len(data)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    data += f"xref\n0 {count}\n0000000000 65535 f \n{table}".encode()
    return data + f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
