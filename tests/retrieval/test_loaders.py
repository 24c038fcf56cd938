import io
import zipfile

import pytest
from pdf_files import make_pdf

from kivnun.retrieval.loaders.docx import load_docx
from kivnun.retrieval.loaders.html import load_html
from kivnun.retrieval.loaders.markdown import load_markdown
from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed
from kivnun.retrieval.loaders.pdf import load_pdf
from kivnun.retrieval.loaders.text import load_text
from kivnun.retrieval.loaders.visual_order import is_right_to_left, order_line

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def show(parsed: Parsed) -> list[tuple[str, str]]:
    return [(block.heading, parsed.text[block.start : block.end]) for block in parsed.blocks]


def make_docx(body: str, **parts: str) -> bytes:
    content = f'<?xml version="1.0"?><w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr("word/document.xml", content)
        for name, part in parts.items():
            archive.writestr(name.replace("__", "/") + ".xml", part)
    return file.getvalue()


def paragraph(text: str, style: str = "") -> str:
    named = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{named}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_text_in_every_form_of_unicode_is_read(encoding):
    text = "שלום עולם, this is text.\nשורה שנייה"
    assert load_text(text.replace("\n", "\r\n").encode(encoding)).text == text


def test_hebrew_of_old_windows_is_read_and_the_guess_is_said():
    text = "שלום עולם, זהו קובץ ישן"
    parsed = load_text(text.encode("cp1255"))
    assert parsed.text == text
    assert parsed.notes == ("read as cp1255, which is a guess",)


def test_one_broken_place_does_not_make_a_file_another_encoding():
    parsed = load_text("שלום ".encode() * 20 + b"\xff" + " עולם".encode())
    assert parsed.text == "שלום " * 20 + "\ufffd עולם"
    assert parsed.notes == ("1 places are not UTF-8 and stand as \ufffd",)


def test_paragraphs_end_at_empty_lines():
    assert show(load_text(b"one\ntwo\n \n\n three\n")) == [("", "one\ntwo"), ("", "three\n")]


def test_markdown_has_its_heading_path_tables_and_whole_fences():
    text = (
        "intro\n\n# A *b*\n\n## B\n\npara\n\n```py\n# no heading\n\nx\n```\n\n| h | i |\n|---|---|\n| 1 | 2 |\n\n"
        "C\n=\n\n- x\n- y\n"
    )
    parsed = load_markdown(text.encode())
    assert parsed.text == text
    assert parsed.title == "A b"
    assert [(heading, block.strip()) for heading, block in show(parsed)] == [
        ("", "intro"),
        ("A b > B", "# A *b*\n\n## B\n\npara"),
        ("A b > B", "```py\n# no heading\n\nx\n```"),
        ("A b > B", "| h | i |\n|---|---|\n| 1 | 2 |"),
        ("C", "C\n=\n\n- x\n- y"),
    ]


def test_a_heading_with_nothing_below_it_is_kept():
    assert show(load_markdown(b"# A\n\n# B\n\ntext\n\n## C\n")) == [
        ("A", "# A\n\n"),
        ("B", "# B\n\ntext\n"),
        ("B > C", "## C\n"),
    ]


def test_front_matter_becomes_metadata():
    parsed = load_markdown(
        "---\ntitle: כותרת\nyear: 2024\nday: 2024-05-01\ntags: [a, b]\nmore: {x: 1}\n---\ntext\n".encode()
    )
    assert (parsed.text, parsed.title) == ("text\n", "כותרת")
    assert parsed.metadata == {"year": 2024, "day": "2024-05-01", "tags": "a, b"}
    assert parsed.notes == ("values of its front matter that cannot be filtered by: more",)


@pytest.mark.parametrize("text", ["---\na: [\n---\ntext", "---\njust text\n---\nmore", "---\n---\nmore", "--- no"])
def test_what_is_no_front_matter_stays_text(text):
    assert load_markdown(text.encode()).text == text


def test_a_page_is_read_block_by_block_without_scripts_and_navigation():
    page = """<!doctype html><title>A  page</title><style>p{}</style><nav>Home</nav><h1>One <b>two</b></h1>loose
    <p>first<br>second &lt;x&gt;</p><script>no()</script><h2>Lists</h2><ul><li>a<li>b<ol><li>deep</ol></ul>
    <h3>Rows</h3><table><tr><th>h<th>i<tr><td><p>1</p><td>2<br>3<tr><td><td>x</table><pre>
def f():
    pass</pre><img alt="a picture"><div>שלום <i>עולם</i></div>"""
    parsed = load_html(page.encode())
    assert parsed.title == "A page"
    assert parsed.notes == ("4 characters of navigation are left out",)
    assert show(parsed) == [
        ("One two", "One two\n\nloose"),
        ("One two", "first\nsecond <x>"),
        ("One two > Lists", "Lists\n\n- a\n- b\n  1. deep"),
        ("One two > Lists > Rows", "Rows\n\nh | i\n1 | 2 3\n | x"),
        ("One two > Lists > Rows", "def f():\n    pass"),
        ("One two > Lists > Rows", "a picture"),
        ("One two > Lists > Rows", "שלום עולם"),
    ]


def test_a_table_that_places_a_page_is_no_table_of_rows():
    parsed = load_html(b"<table><tr><td><h2>Left</h2>one</td><td><p>two</p></td></tr></table>")
    assert show(parsed) == [("Left", "Left\n\none"), ("Left", "two")]


@pytest.mark.parametrize(
    "head", ['<meta charset="windows-1255">', '<meta http-equiv=x content="text/html; charset=cp1255">']
)
def test_a_page_names_its_own_encoding(head):
    parsed = load_html(f"{head}<p>אב</p>".encode("cp1255"))
    assert parsed.text == "אב"
    assert parsed.notes[0].endswith("as the file says")


def test_a_page_that_nests_without_end_is_refused_at_once():
    with pytest.raises(CannotReadError, match="nests over 5,000 elements"):
        load_html(b"<div>" * 100_000)


def test_a_word_document_keeps_headings_lists_tables_and_hebrew_in_order():
    row = "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in ("שם", "34"))
    body = paragraph("כותרת", "Heading1") + paragraph("שלום GPT-4 (RAG) עולם") + f"<w:tbl><w:tr>{row}</w:tr></w:tbl>"
    parsed = load_docx(make_docx(body, word__header1=f'<w:hdr xmlns:w="{WORD}">{paragraph("page")}</w:hdr>'))
    assert show(parsed) == [("כותרת", "כותרת\n\nשלום GPT-4 (RAG) עולם"), ("כותרת", "שם | 34")]
    assert parsed.title == "כותרת"
    assert parsed.notes == ("headers and footers of its pages are left out",)


def test_word_documents_that_would_grow_without_bound_are_refused():
    small = make_docx("", word__big="x")
    # The size in the last record of the directory: nothing needs to be unpacked to know it.
    size = small.rfind(b"PK\1\2") + 24
    bomb = small[:size] + (300 << 20).to_bytes(4, "little") + small[size + 4 :]
    with pytest.raises(CannotReadError, match="unpacks to 300 MiB"):
        load_docx(bomb)
    with pytest.raises(CannotReadError, match="declares XML entities"):
        load_docx(make_docx("", word__x='<!DOCTYPE x [<!ENTITY a "b">]>'))
    with pytest.raises(CannotReadError, match="broken Word document"):
        load_docx(make_docx("<w:p>"))
    with pytest.raises(CannotReadError, match=r"encrypted, or an old \.doc"):
        load_docx(b"\xd0\xcf\x11\xe0" + bytes(600))


SEEN = [
    ("םלוע םולש", "שלום עולם"),
    (".הפי איה RAG (retrieval augmented) תכרעמ", "מערכת RAG (retrieval augmented) היא יפה."),
    ("12.5% םילוע Llama 3-ו GPT-4 לדומ", "מודל GPT-4 ו-Llama 3 עולים 12.5%"),
    ("?ףוס Hello, world! How are you :תילגנא", "אנגלית: Hello, world! How are you סוף?"),
    (".(םיירגוסב) אוה", "הוא (בסוגריים)."),
    ("7 = 4 + 3-ו 10-20 חווט", "טווח 10-20 ו-3 + 4 = 7"),
]


@pytest.mark.parametrize(("seen", "read"), SEEN)
def test_a_line_of_a_pdf_is_read_in_its_order(seen, read):
    assert load_pdf(make_pdf([[seen]])).text == read


def test_an_english_line_turns_only_its_hebrew_words():
    line = "The word םלוע םולש means peace."
    assert not is_right_to_left(list(line), page_is=False)
    assert order_line(list(line), right_to_left=False) == "The word שלום עולם means peace."


@pytest.mark.parametrize("signs", ["()", ")("])
def test_brackets_open_before_words_whatever_shape_the_file_names(signs):
    line = f"ףוס {signs[0]}הלמ{signs[1]} הלחתה"
    assert order_line(list(line), right_to_left=True) == "התחלה (מלה) סוף"


def test_points_stay_upon_their_letters():
    assert order_line(["ם", "ו\u05b9", "ל", "ש\u05c1\u05b8"], right_to_left=True) == "ש\u05c1\u05b8לו\u05b9ם"


def test_pages_follow_each_other_and_english_hyphens_are_joined():
    parsed = load_pdf(make_pdf([["A para-", "graph of 1990-", "2000"], [], ["the end"]]))
    assert parsed.text == "A paragraph of 1990-\n2000\n\nthe end"
    assert parsed.metadata == {"pages": 3}
    assert parsed.notes == ("pages without text (scanned?): 2",)


def test_an_encrypted_pdf_is_told():
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >> /ID [<00> <00>]"
    with pytest.raises(CannotReadError, match="is encrypted"):
        load_pdf(make_pdf([["secret"]], lock))


def test_a_pdf_of_pictures_is_told_and_so_is_a_broken_one():
    with pytest.raises(CannotReadError, match=r"has no text \(scanned\?\)"):
        load_pdf(make_pdf([[]]))
    with pytest.raises(CannotReadError, match="is no PDF that can be opened"):
        load_pdf(b"%PDF-1.7 nothing")
