"""Figures of rows: exact where they say so, the same however the rows are cut into blocks, and bounded."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kivnun.data.checks.scripts import count_scripts
from kivnun.data.checks.statistics import EXACT_BELOW, LengthCounts, Statistics, count_letters
from kivnun.data.checks.tally import MAX_EXAMPLES, Tally
from kivnun.data.conversation import Conversation, Message
from kivnun.data.findings import Finding

LENGTHS = st.lists(st.integers(0, 10**6), min_size=1, max_size=60)
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("שלוםabcЖ中"), max_size=30)


def counted(lengths: Sequence[int]) -> LengthCounts:
    counts = LengthCounts()
    counts.add(lengths)
    return counts


def row(*texts: str, rejected: str | None = None) -> Conversation:
    roles = ("user", "assistant")
    turns = tuple(Message(roles[n % 2], text, trained=bool(n % 2)) for n, text in enumerate(texts))
    other = None if rejected is None else Message("assistant", rejected, trained=False)
    return Conversation(turns, {}, "a.jsonl:1", rejected=other)


@given(lengths=LENGTHS, share=st.floats(0.001, 1))
def test_a_quantile_is_the_length_at_its_rank_within_one_percent(lengths: list[int], share: float) -> None:
    true = sorted(lengths)[math.ceil(share * len(lengths)) - 1]
    found = counted(lengths).quantile(share)
    assert found == true if true < EXACT_BELOW else true / 1.011 <= found <= true + 1


@given(lengths=LENGTHS)
def test_sum_number_and_greatest_length_are_exact(lengths: list[int]) -> None:
    counts = counted(lengths)
    assert (counts.total, counts.longest, counts.num_texts) == (sum(lengths), max(lengths), len(lengths))


@given(lengths=LENGTHS, cut=st.integers(0, 60))
def test_lengths_that_are_counted_in_parts_are_those_of_the_whole(lengths: list[int], cut: int) -> None:
    parts = counted(lengths[:cut])
    parts.merge(counted(lengths[cut:]))
    whole = counted(lengths)
    assert parts.counts.tolist() == whole.counts.tolist()
    assert (parts.total, parts.longest) == (whole.total, whole.longest)


@given(lengths=LENGTHS)
def test_the_bars_of_a_picture_hold_every_text_once_and_follow_each_other(lengths: list[int]) -> None:
    bars = counted(lengths).bars()
    assert sum(count for _, _, count in bars) == len(lengths)
    assert len(bars) <= 25
    assert bars[0][0] == 0
    assert bars[-1][1] > max(lengths)
    assert [high for _, high, _ in bars[:-1]] == [low for low, _, _ in bars[1:]]


def test_no_texts_have_no_quantiles_and_no_bars() -> None:
    assert (LengthCounts().quantile(0.5), LengthCounts().bars()) == (0, [])


@given(lengths=st.lists(st.integers(0, 1023), max_size=40), limit=st.integers(0, 1023))
def test_texts_above_a_length_are_counted(lengths: list[int], limit: int) -> None:
    assert counted(lengths).count_above(limit) == sum(length > limit for length in lengths)


@given(texts=st.lists(TEXTS, max_size=8))
def test_letters_of_many_texts_are_those_of_each(texts: list[str]) -> None:
    expected: dict[str, int] = {}
    for text in texts:
        for script, count in count_scripts(text).items():
            expected[script] = expected.get(script, 0) + count
    assert count_letters(texts) == expected


def test_half_a_surrogate_pair_is_no_letter_and_no_crash() -> None:
    assert count_letters(["a\ud800ש"]) == {"Latin": 1, "Hebrew": 1}


def test_a_row_counts_with_all_its_turns_and_its_last_answer() -> None:
    statistics = Statistics()
    sizes = statistics.add([row("abc", "שלום"), row("", "xx", "y", "zzz", rejected="12345")])
    assert sizes == [7, 11]
    assert statistics.turns == {"user": 3, "assistant": 3}
    assert (statistics.answers.total, statistics.answers.longest) == (7, 4)
    assert statistics.scripts == {"Latin": 9, "Hebrew": 4}


@given(rows=st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=8), cut=st.integers(0, 8))
def test_statistics_of_parts_merge_to_those_of_the_whole(rows: list[list[str]], cut: int) -> None:
    conversations = [row(*texts) for texts in rows]
    parts, whole, rest = Statistics(), Statistics(), Statistics()
    parts.add(conversations[:cut])
    rest.add(conversations[cut:])
    parts.merge(rest)
    whole.add(conversations)
    assert parts.summary() == whole.summary()


@given(codes=st.lists(st.sampled_from(["json-syntax", "text-nul"]), max_size=90), cut=st.integers(0, 90))
@example(codes=["text-nul"] * 60, cut=15)
def test_a_tally_counts_all_and_keeps_the_first_places_however_it_is_cut(codes: list[str], cut: int) -> None:
    findings = [Finding(code, "a.jsonl", line, "wrong") for line, code in enumerate(codes, start=1)]
    parts, later = Tally(), Tally()
    parts.add(findings[:cut])
    later.add(findings[cut:])
    parts.merge(later)
    for code in set(codes):
        mine = [finding for finding in findings if finding.code == code]
        assert parts.counts[code] == len(mine)
        assert parts.examples[code] == mine[:MAX_EXAMPLES]


@pytest.mark.parametrize("number", [0, 3])
def test_findings_without_a_place_only_count(number: int) -> None:
    tally = Tally()
    tally.add_unshown("text-nul", number)
    assert (tally.counts["text-nul"], tally.examples.get("text-nul", [])) == (number, [])
