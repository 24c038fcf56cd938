"""PDF files by hand: letters placed one by one, as they are seen."""

from collections.abc import Sequence

ADVANCE = 6
SIZE = 12


def make_pdf(pages: Sequence[Sequence[str]], trailer: str = "") -> bytes:
    """A PDF whose lines show the given letters from left to right; a space is a gap, as many programs leave it."""
    letters = sorted({letter for page in pages for line in page for letter in line if letter != " "})
    codes = {letter: number for number, letter in enumerate(letters, start=1)}
    mapping = "\n".join(f"<{codes[letter]:02x}> <{letter.encode('utf-16-be').hex()}>" for letter in letters)
    unicode_map = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def\n"
        f"1 begincodespacerange <00> <ff> endcodespacerange {len(letters)} beginbfchar\n{mapping}\nendbfchar\n"
        "endcmap end end"
    )
    names = " ".join(f"/g{number}" for number in codes.values())
    glyphs = " ".join(f"/g{number} 4 0 R" for number in codes.values())
    # A Type 3 font draws its letters itself: every one is a square, so that no font file is needed.
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{6 + 2 * n} 0 R' for n in range(len(pages)))}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 500 700] /FontMatrix [0.001 0 0 0.001 0 0] "
        f"/CharProcs << {glyphs} >> /Encoding << /Type /Encoding /Differences [1 {names}] >> /FirstChar 1 "
        f"/LastChar {len(letters)} /Widths [{'500 ' * len(letters)}] /ToUnicode 5 0 R /Resources << >> >>",
        _make_stream("500 0 0 0 500 700 d1 0 0 500 700 re f"),
        _make_stream(unicode_map),
    ]
    for number, page in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {7 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(_make_stream(_draw(page, codes)))
    return _join(objects, trailer)


def _draw(page: Sequence[str], codes: dict[str, int]) -> str:
    shown = []
    for row, line in enumerate(page):
        for column, letter in enumerate(line):
            if letter != " ":
                shown.append(f"1 0 0 1 {40 + column * ADVANCE} {740 - row * 20} Tm <{codes[letter]:02x}> Tj")
    return "\n".join([f"BT /F1 {SIZE} Tf", *shown, "ET"])


def _make_stream(text: str) -> str:
    return f"<< /Length {len(text.encode())} >>\nstream\n{text}\nendstream"


def _join(objects: Sequence[str], trailer: str) -> bytes:
    data = b"%PDF-1.7\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    start = len(data)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    data += f"xref\n0 {count}\n0000000000 65535 f \n{table}".encode()
    return data + f"trailer\n<< /Size {count} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
