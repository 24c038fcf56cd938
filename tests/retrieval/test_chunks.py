import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kivnun.retrieval.chunks import LONGEST_TOKEN, count_words, cut
from kivnun.retrieval.loaders.markdown import load_markdown
from kivnun.retrieval.loaders.parsed import cut_paragraphs
from kivnun.retrieval.passages import Block, Document

WORDS = ["word ", "Sentence ends. ", "שלום ", "עולם. ", "東京。", "😀👩‍👩‍👧 ", "a" * 70, "e\u0301 ", "...", "(", ") "]
MARKS = ["\n", "\n\n", "  ", "\t", "- item\n", "| a | b |\n", "```\ncode\n```\n"]
PIECES = st.sampled_from([*WORDS, *MARKS])
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200))


def make_document(text: str, blocks: tuple[Block, ...] | None = None) -> Document:
    return Document("d", text, "", {"kind": "txt"}, "0", cut_paragraphs(text) if blocks is None else blocks)


def cut_text(text: str, max_tokens: int, overlap: int = 0, count=count_words):
    return cut(make_document(text), count_tokens=count, max_tokens=max_tokens, overlap=overlap)


@settings(deadline=None)
@given(TEXTS, st.integers(2, 12), st.integers(0, 4), st.sampled_from([count_words, len]))
def test_chunks_cover_the_document_exactly_in_order_and_within_the_limit(text, max_tokens, overlap, count):
    overlap = min(overlap, max_tokens - 1)
    chunks = cut_text(text, max_tokens, overlap, count)
    seen = set()
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert count(chunk.text) <= max_tokens
        assert len(chunk.text) <= max_tokens * LONGEST_TOKEN
        seen |= set(range(chunk.start, chunk.end))
    assert all(place in seen or letter.isspace() for place, letter in enumerate(text))
    assert all(before.end < after.end and before.start < after.start for before, after in pairwise(chunks))
    if not overlap:
        assert all(before.end <= after.start for before, after in pairwise(chunks))


@settings(deadline=None)
@given(TEXTS, st.integers(3, 12))
def test_no_more_is_repeated_than_the_overlap(text, max_tokens):
    overlap = max_tokens // 2
    chunks = cut_text(text, max_tokens, overlap)
    for before, after in pairwise(chunks):
        assert count_words(text[after.start : before.end]) <= overlap


def test_the_overlap_repeats_the_last_words_of_the_chunk_before():
    words = [f"w{number}" for number in range(40)]
    chunks = cut_text(" ".join(words), 10, 3)
    for before, after in pairwise(chunks):
        assert before.text.split()[-3:] == after.text.split()[:3]
    assert cut_text("東" * 40, 10, 3)[1].text == "東" * 10


def test_short_neighbours_below_one_heading_stand_together_and_headings_part_them():
    document = make_document("one\n\ntwo\n\nthree", (Block(0, 3, "A"), Block(5, 8, "A"), Block(10, 15, "A > B")))
    chunks = cut(document, count_tokens=count_words, max_tokens=50)
    assert [(chunk.text, chunk.heading) for chunk in chunks] == [("one\n\ntwo", "A"), ("three", "A > B")]
    assert chunks[0].metadata == {"kind": "txt"}
    assert chunks[1].id == "d@1"


def test_what_stands_between_two_blocks_counts_as_well():
    document = make_document("aaa bbb", (Block(0, 3), Block(4, 7)))
    assert [chunk.text for chunk in cut(document, count_tokens=len, max_tokens=6)] == ["aaa", "bbb"]


def test_text_between_blocks_is_not_lost():
    chunks = cut(make_document("one two three", (Block(4, 7),)), count_tokens=count_words, max_tokens=1)
    assert [chunk.text for chunk in chunks] == ["one", "two", "three"]


def test_long_paragraphs_are_cut_behind_sentences():
    sentences = [f"Sentence number {number} has just eight words." for number in range(20)]
    for chunk in cut_text(" ".join(sentences), 20):
        assert all(sentence in sentences for sentence in re.split(r"(?<=\.) ", chunk.text))
        assert count_words(chunk.text) > 10


def test_hebrew_and_chinese_sentences_are_cut_behind_their_ends():
    assert [chunk.text for chunk in cut_text("זה משפט ראשון. זה משפט שני.", 4)] == ["זה משפט ראשון.", "זה משפט שני."]
    assert [chunk.text for chunk in cut_text("今日は晴れ。明日は雨。", 5)] == ["今日は晴れ。", "明日は雨。"]


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_code_and_tables_are_cut_between_their_lines(fence):
    code = "\n".join([fence, *(f"call_{number}(a, b). Then = {number}" for number in range(30)), fence])
    table = "\n".join(f"| row {number} | A. B | text of it |" for number in range(30))
    for text in (code, table):
        lines = text.split("\n")
        chunks = cut_text(text, 20)
        assert len(chunks) > 3
        assert all(line in lines for chunk in chunks for line in chunk.text.split("\n"))


def test_a_list_is_cut_between_its_items():
    items = [f"- item {number} without a full stop" for number in range(30)]
    chunks = cut_text("\n".join(items), 16)
    assert all(line in items for chunk in chunks for line in chunk.text.split("\n"))


def test_lines_of_a_pdf_do_not_end_sentences():
    text = "First sentence goes on\nover the line end. Second one\ngoes on as well."
    assert [chunk.text for chunk in cut_text(text, 9)] == [text[:41], text[42:]]


def test_a_counter_of_words_does_not_let_a_wall_of_letters_pass():
    chunks = cut_text("a" * 10_000, 16)
    assert max(len(chunk.text) for chunk in chunks) <= 16 * LONGEST_TOKEN
    assert sum(len(chunk.text) for chunk in chunks) == 10_000


def test_letters_of_more_tokens_than_a_chunk_may_have_stand_alone():
    chunks = cut_text("abc", 2, count=lambda text: 3 * len(text))
    assert [chunk.text for chunk in chunks] == ["a", "b", "c"]


def test_white_space_of_very_many_lengths_is_cut_as_well():
    text = "".join("x" + " " * number for number in range(1, 600))
    chunks = cut_text(text, 300)
    assert sum(chunk.text.count("x") for chunk in chunks) == 599


def test_an_overlap_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="an overlap of 16 tokens does not fit into chunks of 16"):
        cut_text("text", 16, 16)


def test_a_document_of_many_sections_keeps_the_heading_line_with_its_text():
    parsed = load_markdown(b"# A\n\n## B\n\ntext b\n\n## C\n\ntext c\n")
    document = make_document(parsed.text, parsed.blocks)
    chunks = cut(document, count_tokens=count_words, max_tokens=50)
    assert [(chunk.text, chunk.heading) for chunk in chunks] == [
        ("# A\n\n## B\n\ntext b", "A > B"),
        ("## C\n\ntext c", "A > C"),
    ]


def test_words_are_counted_with_each_chinese_letter_for_one():
    assert count_words("two words, שתי מילים 東京 3.5") == 8
