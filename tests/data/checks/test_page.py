"""The page: whole by itself, escaped, readable in both directions, and with everything that the report has."""

from html.parser import HTMLParser

import pytest

from kivnun.data.checks.page import LONG_TEXT, draw_lengths, make_shares, render_page, say_size, show_text
from kivnun.data.checks.report import CheckedFile, CheckReport, NotRun, list_found
from kivnun.data.checks.statistics import Statistics
from kivnun.data.checks.tally import Tally
from kivnun.data.conversation import Conversation, Message
from kivnun.data.findings import Finding

VOID = {"meta", "link", "br", "img", "input", "rect"}
NASTY = "<script>alert(1)</script> & \u202eevil\x1b[31m"


class Outline(HTMLParser):
    """Elements as they open and close, and every attribute's value."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


def make_report(*findings: Finding, ignored: tuple[Finding, ...] = ()) -> CheckReport:
    tally, left_out = Tally(), Tally()
    tally.add(findings)
    left_out.add(ignored)
    statistics = Statistics()
    row = (Message("user", "איפה זה?", trained=False), Message("assistant", "There.", trained=True))
    statistics.add([Conversation(row, {}, "a:1")] * 40)
    figures = {
        **statistics.summary(),
        "bars": {"rows": statistics.rows.bars()},
        "labels": {"שמחה": 30, NASTY: 10},
        "tokens": {"trained_tokens": 120},
    }
    file = CheckedFile("data/שורות.jsonl", "jsonl", "openai-chat", "ends in .jsonl", "train", 40, 12_345)
    not_run = (NotRun("tokens", "no --model was given"),)
    found = list_found(tally), list_found(left_out)
    return CheckReport("data/שורות.jsonl", (file,), *found, not_run, {"train": figures}, 40, 0.25)


def test_the_page_holds_everything_of_the_report() -> None:
    found = (
        Finding("json-syntax", "data/שורות.jsonl", 7, "unexpected character"),
        Finding("rows-few", "a", 0, "40 rows"),
    )
    text = outline(render_page(make_report(*found, ignored=(Finding("text-nul", "a", 3, "NUL"),)))).text
    for words in (
        "The data cannot be used like this.",
        "data/שורות.jsonl:7",
        "unexpected character",
        "mend the line",
        "openai-chat",
        "12.3 kB",
        "שמחה",
        "no --model was given",
        "text-nul",
        "160 a second",
        "trained tokens 120",
        "Hebrew",
    ):
        assert words in text, words


def test_what_stands_in_the_data_is_text_and_nothing_else() -> None:
    page = render_page(make_report(Finding("html-text", f"{NASTY}.jsonl", 7, NASTY)))
    parsed = outline(page)
    assert "script" not in parsed.tags
    assert not [value for value in parsed.values if "script" in value]
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<U+202E>evil␛[31m" in parsed.text


def test_the_page_needs_no_network_and_no_script() -> None:
    parsed = outline(render_page(make_report()))
    assert {"script", "link", "img", "iframe"}.isdisjoint(parsed.tags)
    assert [value for value in parsed.values if value.startswith(("http:", "https:", "//"))] == []
    assert "Nothing is wrong." in parsed.text


def test_texts_of_the_data_take_their_own_direction() -> None:
    page = render_page(make_report(Finding("text-nul", "a.jsonl", 7, "שלום")))
    assert '<bdi dir="auto">שלום</bdi>' in page
    assert '<bdi class="where" dir="ltr">a.jsonl:7</bdi>' in page


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = outline(render_page(make_report(Finding("json-syntax", "a", 7, "b"), Finding("rows-few", "a", 0, "c"))))
    links = {value[1:] for value in page.values if value.startswith("#")}
    assert {"files", "errors", "warnings", "figures", "not-run"} <= links
    assert links <= set(page.values)


@pytest.mark.parametrize("findings", [(), (Finding("rows-few", "a", 0, "c"),)])
def test_a_report_without_rows_is_still_a_page(findings: tuple[Finding, ...]) -> None:
    tally = Tally()
    tally.add(findings)
    outline(render_page(CheckReport("data", (), list_found(tally))))


def test_a_picture_has_a_bar_for_every_step_with_its_words() -> None:
    picture = str(draw_lengths([(0, 10, 5), (10, 20, 10), (20, 31, 0)], what="rows"))
    assert picture.count("<rect") == 3
    assert "10 to 19 characters: 10 rows" in picture
    heights = [float(part.split('"')[0]) for part in picture.split('height="')[1:]]
    assert heights == [144.0 / 2, 144.0, 0.0]
    assert draw_lengths([], what="rows") is None


def test_the_largest_labels_come_first_and_the_rest_is_counted() -> None:
    shares, more = make_shares({"a": 1, "b": 6, "c": 3}, 2)
    assert [(share.name, share.count, share.part, share.width) for share in shares] == [
        ("b", 6, 0.6, 1.0),
        ("c", 3, 0.3, 0.5),
    ]
    assert more == 1
    assert make_shares({}, 2) == ([], 0)


def test_long_texts_are_cut_and_say_so() -> None:
    assert show_text("א" * LONG_TEXT) == "א" * LONG_TEXT
    assert show_text("א" * (LONG_TEXT + 5)) == "א" * LONG_TEXT + "… (5 more characters)"


@pytest.mark.parametrize(("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (12_345, "12.3 kB"), (2e9, "2.0 GB")])
def test_sizes_read_well(size: int, words: str) -> None:
    assert say_size(int(size)) == words
