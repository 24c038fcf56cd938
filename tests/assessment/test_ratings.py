"""Rating by keys, the files that ratings are kept in, and what is counted from them."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rated_answers import write_evaluation, write_two

from kivnun.assessment.pairs import (
    PairedAnswers,
    chosen_rows,
    comparison_folder,
    names_of,
    read_pairs,
    require_different,
)
from kivnun.assessment.rating_terminal import KEYS, rate_by_keys
from kivnun.assessment.ratings import (
    PRESSED,
    RatingSession,
    ratings_file,
    read_all_ratings,
    read_ratings,
    require_current_ratings,
    side_on_the_left,
)
from kivnun.assessment.verdict_words import say_verdicts, verdict_columns, verdict_rows
from kivnun.assessment.verdicts import Tally, Verdicts, keep_names, read_verdicts
from kivnun.data.visible import FIRST_STRONG_ISOLATE, POP_ISOLATE
from kivnun.errors import UserError


@pytest.fixture
def answers(tmp_path: Path) -> PairedAnswers:
    return read_pairs(*write_two(tmp_path))


def rate_all(folder: Path, answers: PairedAnswers, rater: str, keys: str, *, seed: int = 0) -> list[str]:
    """Everything that a rater sees, key after key."""
    lines: list[str] = []
    with RatingSession(folder, rater, chosen_rows(answers.different, None, seed=seed), seed=seed) as session:
        rate_by_keys(session, iter(keys), lines.append)
    return lines


def prefer(folder: Path, answers: PairedAnswers, rater: str, choices: str) -> None:
    """Ratings that say, row after row as they are asked, whose answer is better: a, b, = both good, - both bad."""
    with RatingSession(folder, rater, chosen_rows(answers.different, None, seed=0), seed=0) as session:
        for choice in choices:
            pair = session.next_pair()
            assert pair is not None
            is_a = side_on_the_left(pair.row_id, rater, seed=0) == "a"
            pressed = {"a": "left" if is_a else "right", "b": "right" if is_a else "left", "=": "both_good",
                       "-": "both_bad", "s": "skip"}[choice]  # fmt: skip
            assert pressed in PRESSED
            assert session.rate(pair.row_id, pressed)


def verdicts_of(folder: Path, answers: PairedAnswers) -> Verdicts:
    verdicts = read_verdicts(folder, answers)
    assert verdicts is not None
    return verdicts


# Pairs


def test_rows_answered_alike_are_counted_and_not_asked(answers: PairedAnswers) -> None:
    assert (len(answers.different), answers.num_same, answers.names) == (16, 4, ("plain", "tuned"))


def test_the_folder_of_a_comparison_is_named_after_both(tmp_path: Path) -> None:
    assert comparison_folder(tmp_path / "a", Path("b")) == Path("comparisons/a-vs-b")
    assert names_of(tmp_path / "x" / "evaluation", tmp_path / "y" / "evaluation") == ("x-evaluation", "y-evaluation")
    with pytest.raises(UserError, match="the same folder"):
        comparison_folder(tmp_path / "a", tmp_path / "b" / ".." / "a")


def test_evaluations_of_other_rows_are_refused(tmp_path: Path) -> None:
    first, second = write_evaluation(tmp_path / "a", ["x", "y"]), write_evaluation(tmp_path / "b", ["x", "y", "z"])
    with pytest.raises(UserError, match="not asked the same rows") as caught:
        read_pairs(first, second)
    assert (caught.value.code, caught.value.details) == ("rows-differ", ("only in b: row r2",))
    other = write_evaluation(tmp_path / "c", ["x", "y"], references=False)
    with pytest.raises(UserError) as caught:
        read_pairs(first, other)
    assert caught.value.details[0] == "row r0: prompt or references differ"


@pytest.mark.parametrize(
    "content", [None, "", "{", '{"row_id": "1"}', "[]", '{"row_id":"1","prompt":"","answer":""}\n' * 2]
)
def test_a_folder_without_a_whole_evaluation_is_refused(tmp_path: Path, content: str | None) -> None:
    first, second = write_two(tmp_path)
    path = second / "rows.jsonl"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_pairs(first, second)
    assert caught.value.code == "evaluation-invalid"


def test_two_models_that_answer_alike_leave_nothing_to_choose(tmp_path: Path) -> None:
    pairs = read_pairs(write_evaluation(tmp_path / "a", ["x"]), write_evaluation(tmp_path / "b", ["x"]))
    with pytest.raises(UserError, match="the same answer to each of 1 rows"):
        require_different(pairs)


def test_more_rows_only_add_to_fewer(answers: PairedAnswers) -> None:
    rows = [pair.row_id for pair in chosen_rows(answers.different, None, seed=3)]
    assert sorted(rows) == sorted(pair.row_id for pair in answers.different)
    assert rows != [pair.row_id for pair in answers.different]
    assert [pair.row_id for pair in chosen_rows(answers.different, 5, seed=3)] == rows[:5]
    assert rows != [pair.row_id for pair in chosen_rows(answers.different, None, seed=4)]


# Blindness


def test_sides_are_drawn_for_each_row_and_rater() -> None:
    for rater in ("dana", "יוסי"):
        sides = Counter(side_on_the_left(str(row), rater, seed=0) for row in range(2000))
        assert 900 < sides["a"] < 1100
    same = sum(
        side_on_the_left(str(row), "dana", seed=0) == side_on_the_left(str(row), "noa", seed=0) for row in range(2000)
    )
    assert 900 < same < 1100
    assert [side_on_the_left(str(row), "dana", seed=1) for row in range(64)] != [
        side_on_the_left(str(row), "dana", seed=0) for row in range(64)
    ]


def test_what_is_chosen_is_the_answer_that_stood_there(tmp_path: Path, answers: PairedAnswers) -> None:
    """Whoever always takes the tuned answer must be counted for it, wherever it stood."""
    rows = {pair.row_id: pair for pair in answers.different}
    with RatingSession(tmp_path / "c", "dana", answers.different, seed=7) as session:
        while (pair := session.next_pair()) is not None:
            assert {pair.left, pair.right} == {rows[pair.row_id].a, rows[pair.row_id].b}
            session.rate(pair.row_id, "left" if "tuned" in pair.left else "right")
        ratings = session.ratings()
    assert {rating.choice for rating in ratings} == {"b"}
    assert {rating.left for rating in ratings} == {"a", "b"}
    assert all(rating.is_left == (rating.left == "b") for rating in ratings)


def test_no_name_is_shown(tmp_path: Path, answers: PairedAnswers) -> None:
    hidden = PairedAnswers(("secret-one", "secret-two"), answers.different, answers.same)
    lines = rate_all(tmp_path / "c", hidden, "dana", "1234")
    assert "secret" not in "".join(lines)


# Keys


def test_each_key_is_a_rating_and_undo_takes_the_last_one_back(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "dana", "1234u55")
    ratings = read_ratings(ratings_file(tmp_path, "dana"))
    pressed = ["left" if each.is_left else "right" if each.choice in "ab" else each.choice for each in ratings]
    assert pressed == ["left", "right", "both_good", "skip", "skip"]


def test_keys_of_the_hebrew_keyboard_are_those_of_the_latin_one(tmp_path: Path, answers: PairedAnswers) -> None:
    assert {KEYS[latin] == KEYS[hebrew] for latin, hebrew in zip("lrgbs", "ךרענד", strict=True)} == {True}
    rate_all(tmp_path, answers, "dana", "LRוךq1")
    assert len(read_ratings(ratings_file(tmp_path, "dana"))) == 2


def test_an_unknown_key_is_no_rating(tmp_path: Path, answers: PairedAnswers) -> None:
    with RatingSession(tmp_path, "dana", answers.different, seed=0) as session:
        lines: list[str] = []
        rate_by_keys(session, iter(["x", "\x1b[B", "\x1b[D"]), lines.append)
        assert session.progress == (0, 16)
    assert sum("not a key" in line for line in lines) == 3
    assert not read_ratings(ratings_file(tmp_path, "dana"))


def test_undo_reaches_back_to_the_first_row_and_no_further(tmp_path: Path, answers: PairedAnswers) -> None:
    lines = rate_all(tmp_path, answers, "dana", "11uuu")
    assert lines.count("there is nothing to take back") == 1
    assert read_all_ratings(tmp_path) == {}
    assert read_verdicts(tmp_path) is None


def test_the_last_row_can_still_be_taken_back(tmp_path: Path, answers: PairedAnswers) -> None:
    lines = rate_all(tmp_path, answers, "dana", "1" * 16 + "u2" + "x" + "1")
    assert any("all 16 rows are rated" in line for line in lines)
    ratings = read_ratings(ratings_file(tmp_path, "dana"))
    assert [each.is_left for each in ratings] == [True] * 15 + [False]


def test_lines_of_each_text_read_in_their_own_direction_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", ["שלום world\nsecond \x1b[2J line", "x"])
    second = write_evaluation(tmp_path / "b", ["\u202eevil", ""])
    lines = rate_all(tmp_path, read_pairs(first, second), "dana", "11")
    assert f"  {FIRST_STRONG_ISOLATE}שלום world{POP_ISOLATE}" in lines
    assert "  (empty)" in lines
    assert not any(sign in "".join(lines) for sign in ("\x1b", "\u202e"))


# Files


def test_a_session_goes_on_where_the_last_one_ended(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "dana", "123")
    lines = rate_all(tmp_path, answers, "dana", "45u")
    assert "row 4 of 16" in lines
    assert "row 3 of 16" not in lines
    assert len(read_ratings(ratings_file(tmp_path, "dana"))) == 4


def test_an_undo_after_a_restart_takes_back_the_latest(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "dana", "12u3")
    before = read_ratings(ratings_file(tmp_path, "dana"))
    rate_all(tmp_path, answers, "dana", "u")
    assert read_ratings(ratings_file(tmp_path, "dana")) == before[:1]


def test_a_rating_is_on_the_disk_before_the_next_row_is_shown(tmp_path: Path, answers: PairedAnswers) -> None:
    path = ratings_file(tmp_path, "dana")
    seen: list[int] = []

    def keys() -> Iterator[str]:
        for key in "1234":
            yield key
            seen.append(len(read_ratings(path)))

    with RatingSession(tmp_path, "dana", answers.different, seed=0) as session:
        rate_by_keys(session, keys(), lambda _line: None)
    assert seen == [1, 2, 3, 4]


def test_a_line_cut_off_by_a_crash_is_asked_again(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "dana", "123")
    path = ratings_file(tmp_path, "dana")
    whole = path.read_bytes()
    for cut in (1, 30):
        path.write_bytes(whole[:-cut])
        assert len(read_ratings(path)) == 2
        rate_all(tmp_path, answers, "dana", "4")
        assert [each.choice for each in read_ratings(path)][2] == "both_bad"


def test_a_damaged_line_is_named(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "dana", "12")
    path = ratings_file(tmp_path, "dana")
    lines = path.read_text().splitlines()
    for damaged in ("nonsense", '{"row_id": "r1"}', lines[0].replace('"left": "', '"left": "x'), "[1]", "1"):
        path.write_text("\n".join([lines[0], damaged, lines[1]]) + "\n")
        with pytest.raises(UserError, match=r"ratings-dana\.jsonl:2 is no rating") as caught:
            read_verdicts(tmp_path, answers)
        assert caught.value.code == "ratings-invalid"


def test_ratings_of_other_answers_are_refused(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path / "c", answers, "dana", "1234")
    write_evaluation(tmp_path / "tuned", [f"new {row}" for row in range(20)])
    now = read_pairs(tmp_path / "plain", tmp_path / "tuned")
    with pytest.raises(UserError, match=r"4 of 4 judgements in .*ratings-dana") as caught:
        require_current_ratings(tmp_path / "c", now)
    assert caught.value.code == "ratings-invalid"
    with pytest.raises(UserError, match="of other answers"):
        read_verdicts(tmp_path / "c", now)


def test_raters_who_saw_different_answers_are_refused(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path / "c", answers, "dana", "1")
    write_evaluation(tmp_path / "tuned", [f"new {row}" for row in range(20)])
    rate_all(tmp_path / "c", read_pairs(tmp_path / "plain", tmp_path / "tuned"), "noa", "1")
    keep_names(tmp_path / "c", answers)
    with pytest.raises(UserError, match="different answers to 1 rows"):
        read_verdicts(tmp_path / "c")


def test_two_processes_of_one_rater_are_refused(tmp_path: Path, answers: PairedAnswers) -> None:
    with (
        RatingSession(tmp_path, "dana", answers.different, seed=0),
        pytest.raises(UserError, match="in another process"),
    ):
        RatingSession(tmp_path, "dana", answers.different, seed=0)
    RatingSession(tmp_path, "dana", answers.different, seed=0).close()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 41, "a\nb", "\u202ex"])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, answers: PairedAnswers, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a rater's name"):
        RatingSession(tmp_path / "c", name, answers.different, seed=0)
    assert not (tmp_path / "c").exists()


def test_a_full_disk_keeps_whole_lines(tmp_path: Path, answers: PairedAnswers) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with RatingSession(tmp_path, "dana", answers.different, seed=0) as session:
        session.rate(session.next_pair().row_id, "left")  # pyright: ignore[reportOptionalMemberAccess]
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, session._file.fileno())
        os.close(full)
        with pytest.raises(UserError) as caught:
            session.rate(session.next_pair().row_id, "left")  # pyright: ignore[reportOptionalMemberAccess]
        assert caught.value.code == "disk-full"
        assert session.progress == (1, 16)
    assert len(read_ratings(ratings_file(tmp_path, "dana"))) == 1


# Verdicts


def test_verdicts_count_each_rater_and_the_majority(tmp_path: Path, answers: PairedAnswers) -> None:
    prefer(tmp_path, answers, "dana", "aaab=-s")
    prefer(tmp_path, answers, "noa", "aabb=-s")
    prefer(tmp_path, answers, "יוסי", "ab=b--a")
    verdicts = verdicts_of(tmp_path, answers)
    counts = {tally.who: (tally.a, tally.tie, tally.b, tally.both_bad, tally.skipped) for tally in verdicts.tallies}
    assert counts == {
        # Row by row: aaa, aab, ab=, bbb, ==-, ---, ss a.
        "people": (3, 3, 1, 1, 0),
        "dana": (3, 2, 1, 1, 1),
        "noa": (2, 2, 2, 1, 1),
        "יוסי": (2, 3, 2, 2, 0),
    }
    assert verdicts.num_same == 4


def test_ten_wins_to_none_are_no_chance(tmp_path: Path, answers: PairedAnswers) -> None:
    prefer(tmp_path, answers, "dana", "bbbbbbbbbb==")
    (together, _) = verdicts_of(tmp_path, answers).tallies
    assert together.p_value == pytest.approx(2 / 2**10)
    assert together.better == "b"
    assert any(
        "people: tuned is better, 0 to 10 with 2 ties on 12" in line
        for line in say_verdicts(verdicts_of(tmp_path, answers))
    )
    assert Tally("x", "people", 5, 0, 0).better is None
    assert Tally("x", "people", 6, 100, 0).better == "a"


def test_agreement_among_raters_is_that_of_the_rows_that_several_decided(
    tmp_path: Path, answers: PairedAnswers
) -> None:
    prefer(tmp_path, answers, "dana", "aabbabab=s")
    prefer(tmp_path, answers, "noa", "aabbbaab")
    agreement = verdicts_of(tmp_path, answers).agreement
    assert agreement is not None
    (pair,) = agreement.pairs
    assert (agreement.num_rows, pair.num_rows, pair.share.value) == (8, 8, 6 / 8)
    assert pair.kappa is not None
    # Both say a on half of the rows, so that chance agrees on half.
    assert pair.kappa.value == pytest.approx((6 / 8 - 1 / 2) / (1 / 2))
    assert pair.confusion == ((3, 0, 1), (0, 0, 0), (1, 0, 3))
    assert agreement.nominal is not None
    # Observed disagreement 4 of 16 values; expected 2 * 8 * 8 / (16 * 15).
    assert agreement.nominal.value == pytest.approx(1 - (4 / 16) / (128 / 240))


def test_opposite_verdicts_weigh_more_than_a_tie(tmp_path: Path, answers: PairedAnswers) -> None:
    prefer(tmp_path / "1", answers, "dana", "abab=abab=a")
    prefer(tmp_path / "1", answers, "noa", "abab=abab==")
    prefer(tmp_path / "2", answers, "dana", "abab=abab=a")
    prefer(tmp_path / "2", answers, "noa", "abab=abab=b")
    near, far = (verdicts_of(tmp_path / name, answers).agreement for name in "12")
    assert near is not None
    assert far is not None
    assert near.ordinal is not None
    assert far.ordinal is not None
    assert near.ordinal.value > far.ordinal.value


def test_a_rater_who_takes_one_side_is_told_of(tmp_path: Path, answers: PairedAnswers) -> None:
    rate_all(tmp_path, answers, "lazy", "1" * 12)
    rate_all(tmp_path, answers, "fair", "12" * 6)
    said = [line for line in say_verdicts(verdicts_of(tmp_path, answers)) if "left answer" in line]
    assert said == [
        "lazy chose the left answer 12 of 12 times, more one-sidedly than chance makes likely (p\u00a0<\u00a00.001)"
    ]


def test_everything_is_said_in_json_and_in_cells(tmp_path: Path, answers: PairedAnswers) -> None:
    prefer(tmp_path, answers, "dana", "aab=")
    keep_names(tmp_path, answers)
    verdicts = read_verdicts(tmp_path)
    assert verdicts is not None
    value = json.loads(json.dumps(verdicts.to_json()))
    assert value["names"] == {"a": "plain", "b": "tuned"}
    assert value["together"]["shares"]["a"]["value"] == 0.5
    assert (value["agreement"], value["judges"]) == (None, [])
    assert {len(row) for row in verdict_rows(verdicts)} == {len(verdict_columns(verdicts))}
    assert "agreement among raters: not measured, since no row was rated by two" in say_verdicts(verdicts)


def test_a_folder_of_ratings_without_names_is_refused(tmp_path: Path, answers: PairedAnswers) -> None:
    prefer(tmp_path, answers, "dana", "a")
    with pytest.raises(UserError, match=r"pairs\.json cannot be read"):
        read_verdicts(tmp_path)


def test_separators_of_lines_inside_an_answer_end_no_row(tmp_path: Path) -> None:
    odd = "one\u2028two\u0085three\u2029four"
    first, second = write_two(tmp_path)
    path = first / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    rows[0]["answer"] = odd
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    pairs = read_pairs(first, second)
    assert odd in [pair.a for pair in pairs.different]
    assert len(pairs.different) + pairs.num_same == len(rows)
