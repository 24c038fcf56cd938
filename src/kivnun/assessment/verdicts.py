"""What people and judges said about two models, counted: wins, ties, losses, and how far they agree with each other."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from kivnun.assessment.agreement import agreement_share, alpha_estimate, kappa_estimate
from kivnun.assessment.judge import JudgedPairs, Outcome, read_judged
from kivnun.assessment.pairs import PairedAnswers, require_same_answers
from kivnun.assessment.ratings import Choice, Rating, read_all_ratings, require_current_ratings
from kivnun.errors import UserError
from kivnun.evaluation.intervals import mcnemar_exact, share
from kivnun.evaluation.results import SIGNIFICANCE, Estimate
from kivnun.runs.atomic import disk_full_as_user_error, write_atomic

NAMES_FILE = "pairs.json"
OUTCOMES: tuple[Outcome, ...] = ("a", "tie", "b")
OUTCOME_OF: dict[Choice, Outcome] = {"a": "a", "b": "b", "both_good": "tie", "both_bad": "tie"}
SCALE: dict[Outcome, float] = {"b": -1.0, "tie": 0.0, "a": 1.0}
"""The three outcomes as an ordinal scale: a tie lies between the two."""

TallyKind = Literal["rater", "people", "judge"]


@dataclass(frozen=True)
class Tally:
    """How often each side was better.

    Attributes:
        who: A rater, all people together, or a judge.
        kind: Which of these.
        a: Rows on which the first model's answer is better.
        tie: Rows on which neither is.
        b: Rows on which the second model's answer is better.
        both_bad: Ties because both are bad.
        skipped: Rows that nobody decided; not counted above.
        left: Rows on which the answer on the left was chosen, of `a` and `b` together; None where there is no left.
    """

    who: str
    kind: TallyKind
    a: int
    tie: int
    b: int
    both_bad: int = 0
    skipped: int = 0
    left: int | None = None

    @property
    def num_rows(self) -> int:
        """Rows that were decided."""
        return self.a + self.tie + self.b

    @property
    def shares(self) -> dict[Outcome, Estimate] | None:
        """Share of each outcome with Wilson's interval; None without rows."""
        counts: dict[Outcome, int] = {"a": self.a, "tie": self.tie, "b": self.b}
        return {name: share(count, self.num_rows) for name, count in counts.items()} if self.num_rows else None

    @property
    def p_value(self) -> float:
        """The two-sided exact p that wins fall evenly to both: the sign test, in which ties say nothing."""
        return mcnemar_exact(self.a, self.b)

    @property
    def better(self) -> Outcome | None:
        """Which model is better beyond chance; None where none is shown to be."""
        if self.p_value >= SIGNIFICANCE:
            return None
        return "a" if self.a > self.b else "b"

    def to_json(self) -> dict[str, object]:
        """The counts, shares and the sign test as JSON values."""
        shares = self.shares
        return {
            "who": self.who,
            "kind": self.kind,
            "num_rows": self.num_rows,
            "a": self.a,
            "tie": self.tie,
            "b": self.b,
            "both_bad": self.both_bad,
            "skipped": self.skipped,
            "left": self.left,
            "shares": None if shares is None else {name: each.to_json() for name, each in shares.items()},
            "p_value": self.p_value,
            "better": self.better,
        }


@dataclass(frozen=True)
class Agreement:
    """How far two raters, or people and a judge, agree on the same rows.

    Attributes:
        who: The two.
        num_rows: Rows that both decided.
        share: Share of them that both decided alike.
        kappa: Cohen's kappa; None where all are decided alike by both, so that chance explains it.
        confusion: Rows by the first one's outcome, then the second's, each in the order of `OUTCOMES`.
    """

    who: tuple[str, str]
    num_rows: int
    share: Estimate
    kappa: Estimate | None
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "who": list(self.who),
            "num_rows": self.num_rows,
            "share": self.share.to_json(),
            "kappa": None if self.kappa is None else self.kappa.to_json(),
            "outcomes": list(OUTCOMES),
            "confusion": [list(row) for row in self.confusion],
        }


@dataclass(frozen=True)
class RaterAgreement:
    """How far all raters agree.

    Attributes:
        num_rows: Rows that two or more decided.
        nominal: Krippendorff's alpha of the three outcomes; None where all are the same.
        ordinal: The same with a tie between the two others, so that opposite verdicts weigh more.
        pairs: Each two raters who decided some of the same rows.
    """

    num_rows: int
    nominal: Estimate | None
    ordinal: Estimate | None
    pairs: tuple[Agreement, ...]

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "num_rows": self.num_rows,
            "alpha_nominal": None if self.nominal is None else self.nominal.to_json(),
            "alpha_ordinal": None if self.ordinal is None else self.ordinal.to_json(),
            "pairs": [pair.to_json() for pair in self.pairs],
        }


@dataclass(frozen=True)
class JudgeVerdict:
    """What a judge said, and how far people say the same.

    Attributes:
        judged: What it said.
        tally: The same, counted.
        with_people: Its agreement with people; None where nobody rated what it judged, so that it is not measured.
    """

    judged: JudgedPairs
    tally: Tally
    with_people: Agreement | None

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values, without the rows."""
        return {
            "model": self.judged.model,
            "place": self.judged.place,
            "criteria": self.judged.criteria,
            "own": list(self.judged.own),
            "tally": self.tally.to_json(),
            "num_unread": self.judged.num_unread,
            "position": self.judged.position,
            "with_people": None if self.with_people is None else self.with_people.to_json(),
        }


@dataclass(frozen=True)
class Verdicts:
    """Everything that people and judges said about two models.

    Attributes:
        names: What the two are called.
        num_same: Rows on which both answered alike, about which nobody is asked.
        raters: Each rater's count.
        together: The majority of each row, a tie where there is none; None without ratings.
        agreement: Between the raters; None where no row was decided by two.
        judges: Each judge.
    """

    names: tuple[str, str]
    num_same: int
    raters: tuple[Tally, ...]
    together: Tally | None
    agreement: RaterAgreement | None
    judges: tuple[JudgeVerdict, ...]

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """All counts: people together, each rater, each judge."""
        together = () if self.together is None else (self.together,)
        return (*together, *self.raters, *(judge.tally for judge in self.judges))

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "names": {"a": self.names[0], "b": self.names[1]},
            "num_same": self.num_same,
            "together": None if self.together is None else self.together.to_json(),
            "raters": [tally.to_json() for tally in self.raters],
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "judges": [judge.to_json() for judge in self.judges],
        }


def keep_names(folder: Path, pairs: PairedAnswers) -> None:
    """Write down whose answers a comparison folder is about.

    Args:
        folder: Of the comparison; it is made where it is not there.
        pairs: The answers.

    Raises:
        UserError: `disk-full`; `file-unwritable` where there is no such place.
    """
    value = {"a": pairs.names[0], "b": pairs.names[1], "num_same": pairs.num_same}
    try:
        with disk_full_as_user_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / NAMES_FILE, json.dumps(value) + "\n")
    except OSError as error:
        raise UserError(
            "file-unwritable", f"cannot write in {folder}: {error.strerror}", hint="name another folder with --out"
        ) from error


def read_verdicts(folder: Path, pairs: PairedAnswers | None = None) -> Verdicts | None:
    """Count what stands in a comparison folder.

    Args:
        folder: Of the comparison.
        pairs: The answers as they are now; None where they are not at hand, and then it is not seen whether ratings
            are of other ones.

    Returns:
        The verdicts; None where nobody has said anything.

    Raises:
        UserError: `ratings-invalid` where a file cannot be read, or judgements are of other answers.
    """
    ratings, judged = read_all_ratings(folder), read_judged(folder)
    if not ratings and not judged:
        return None
    if pairs is not None:
        require_current(folder, pairs)
    _require_one_pair(ratings, judged)
    names, num_same = (pairs.names, pairs.num_same) if pairs is not None else _read_names(folder)
    people = majority(ratings)
    together = _tally_people(ratings, people) if ratings else None
    raters = tuple(_tally_rater(rater, given) for rater, given in ratings.items())
    judges = tuple(judge_verdict(each, people) for each in judged)
    return Verdicts(names, num_same, raters, together, rater_agreement(ratings), judges)


def require_current(folder: Path, pairs: PairedAnswers) -> None:
    """Refuse a folder in which people or judges spoke of other answers than those that are there now.

    Args:
        folder: Of the comparison.
        pairs: The answers.

    Raises:
        UserError: `ratings-invalid`.
    """
    require_current_ratings(folder, pairs)
    for judged in read_judged(folder):
        require_same_answers({row.row_id: row.digest for row in judged.rows}, pairs, f"those of judge {judged.model}")


def outcomes_of(ratings: Iterable[Rating]) -> dict[str, Outcome]:
    """What a rater decided by row; skipped rows are left out, and both good or both bad is a tie.

    Args:
        ratings: The rater's.
    """
    return {rating.row_id: OUTCOME_OF[rating.choice] for rating in ratings if rating.choice in OUTCOME_OF}


def majority(ratings: Mapping[str, Sequence[Rating]]) -> dict[str, Outcome]:
    """What more than half of a row's raters decided, a tie where there is no such majority.

    Args:
        ratings: By rater.
    """
    votes: dict[str, Counter[Outcome]] = {}
    for given in ratings.values():
        for row_id, outcome in outcomes_of(given).items():
            votes.setdefault(row_id, Counter())[outcome] += 1
    leading = {row_id: counts.most_common(1)[0] for row_id, counts in votes.items()}
    return {row_id: name if 2 * count > votes[row_id].total() else "tie" for row_id, (name, count) in leading.items()}


def agreement_of(who: tuple[str, str], first: Mapping[str, Outcome], second: Mapping[str, Outcome]) -> Agreement | None:
    """How far two agree on the rows that both decided; None where there are none.

    Args:
        who: The two.
        first: The first one's outcomes by row.
        second: The second one's.
    """
    rows = [(first[row_id], second[row_id]) for row_id in first if row_id in second]
    ones, others = [one for one, _ in rows], [other for _, other in rows]
    equal = agreement_share(ones, others)
    if equal is None:
        return None
    counts = Counter(rows)
    confusion = tuple(tuple(counts[one, other] for other in OUTCOMES) for one in OUTCOMES)
    return Agreement(who, len(rows), equal, kappa_estimate(ones, others), confusion)


def rater_agreement(ratings: Mapping[str, Sequence[Rating]]) -> RaterAgreement | None:
    """How far all raters agree; None where no row was decided by two.

    Args:
        ratings: By rater.
    """
    decided = {rater: outcomes_of(given) for rater, given in ratings.items()}
    row_ids = dict.fromkeys(row_id for outcomes in decided.values() for row_id in outcomes)
    units = [
        [SCALE[outcomes[row_id]] if row_id in outcomes else None for outcomes in decided.values()] for row_id in row_ids
    ]
    shared = [unit for unit in units if sum(value is not None for value in unit) > 1]
    if not shared:
        return None
    pairs = (agreement_of(who, decided[who[0]], decided[who[1]]) for who in combinations(decided, 2))
    nominal, ordinal = alpha_estimate(shared, "nominal"), alpha_estimate(shared, "ordinal")
    return RaterAgreement(len(shared), nominal, ordinal, tuple(pair for pair in pairs if pair is not None))


def judge_verdict(judged: JudgedPairs, people: Mapping[str, Outcome]) -> JudgeVerdict:
    """Count what a judge said, beside what people say of the same rows.

    Args:
        judged: What it said.
        people: The people's outcome by row; may be empty.
    """
    outcomes = judged.outcomes
    counts = Counter(outcomes.values())
    tally = Tally(judged.model, "judge", counts["a"], counts["tie"], counts["b"], skipped=judged.num_unread)
    return JudgeVerdict(judged, tally, agreement_of(("people", judged.model), people, outcomes))


def _tally_rater(rater: str, ratings: Sequence[Rating]) -> Tally:
    counts = Counter(rating.choice for rating in ratings)
    tie = counts["both_good"] + counts["both_bad"]
    left = sum(rating.is_left for rating in ratings)
    return Tally(rater, "rater", counts["a"], tie, counts["b"], counts["both_bad"], counts["skip"], left)


def _tally_people(ratings: Mapping[str, Sequence[Rating]], people: Mapping[str, Outcome]) -> Tally:
    counts = Counter(people.values())
    seen = {rating.row_id for given in ratings.values() for rating in given}
    given = [rating for each in ratings.values() for rating in each]
    bad = Counter(rating.row_id for rating in given if rating.choice == "both_bad")
    votes = Counter(rating.row_id for rating in given if rating.choice in OUTCOME_OF)
    both_bad = sum(2 * count > votes[row_id] for row_id, count in bad.items())
    return Tally("people", "people", counts["a"], counts["tie"], counts["b"], both_bad, len(seen) - len(people))


def _require_one_pair(ratings: Mapping[str, Sequence[Rating]], judged: Sequence[JudgedPairs]) -> None:
    """Refuse a folder in which one row stands for different answers."""
    found = [(each.row_id, each.digest) for given in ratings.values() for each in given]
    found += [(row.row_id, row.digest) for each in judged for row in each.rows]
    digests = dict(found)
    mixed = sorted({row_id for row_id, digest in found if digests[row_id] != digest})
    if mixed:
        raise UserError(
            "ratings-invalid",
            f"raters and judges saw different answers to {len(mixed):,} rows, such as row {mixed[0]}",
            hint="keep what was said about other answers in another folder, with --out",
        )


def _read_names(folder: Path) -> tuple[tuple[str, str], int]:
    path = folder / NAMES_FILE
    try:
        value = json.loads(path.read_bytes())
        return (str(value["a"]), str(value["b"])), int(value["num_same"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "ratings-invalid",
            f"{path} cannot be read: {error}",
            hint="give `kivnun rate` with the same two evaluations again, which writes it",
        ) from error
