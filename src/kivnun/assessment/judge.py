"""A model as judge of pairs of answers: asked in both orders, so that what it likes about a place does not count.

A verdict counts where both orders give the same; where they do not, the judge chose the place and not the answer, and
the pair is a tie. How often that happens is its position bias, and is shown.

Reference: Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena", section 3.4.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kivnun.asking.kept import KeptAnswers, ask_all
from kivnun.asking.request import AskedModel, Log, Reply, Request
from kivnun.assessment.judge_prompts import (
    CRITERIA,
    PROMPT_VERSION,
    SCORES,
    Position,
    pair_request,
    read_score,
    read_verdict,
    score_request,
)
from kivnun.assessment.pairs import AnsweredRow, AnswerPair, PairedAnswers, Side, chosen_rows
from kivnun.data.visible import make_visible
from kivnun.errors import UserError
from kivnun.evaluation.intervals import mean_estimate
from kivnun.evaluation.results import Estimate
from kivnun.runs.atomic import write_atomic

ANSWERS_FILE = "judge-answers.sqlite"
PREFIX = "judge-"
MAX_NEW_TOKENS = 400
# Asked first: a model that cannot judge shows it here, before much is spent.
TRIAL_REQUESTS = 20
MAX_UNREAD_AT_FIRST, MAX_UNREAD_SHARE = 0.5, 0.2
SHOWN_CHARACTERS = 80

POSITION_KINDS = ("same", "first", "second", "one_tie")

Outcome = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is asked.

    Attributes:
        criteria: What better means.
        max_rows: Rows that are judged; None for all.
        max_new_tokens: Longest answer of the judge.
        seed: Chooses the rows, in the order in which people rate them.
    """

    criteria: str = CRITERIA
    max_rows: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0


@dataclass(frozen=True)
class JudgedRow:
    """What a judge said about one pair.

    Attributes:
        row_id: The row.
        digest: Of the pair.
        first: What it chose with the first model's answer in front; None where it could not be read.
        second: What it chose with the second model's answer in front; None where it could not be read.
    """

    row_id: str
    digest: str
    first: Outcome | None
    second: Outcome | None

    @property
    def outcome(self) -> Outcome | None:
        """The verdict: what both orders say, else a tie; None where one of them could not be read."""
        if self.first is None or self.second is None:
            return None
        return self.first if self.first == self.second else "tie"


@dataclass(frozen=True)
class JudgedPairs:
    """Everything that one judge said about two models.

    Attributes:
        model: The judge's name.
        place: Where it runs.
        identity: What its answers depend on.
        criteria: What better meant.
        rows: What it said, in the order in which it was asked.
        own: Names of the compared models that are the judge itself, whose answers it may favour.
        num_kept: Answers that were kept from earlier.
    """

    model: str
    place: str
    identity: str
    criteria: str
    rows: tuple[JudgedRow, ...]
    own: tuple[str, ...] = ()
    num_kept: int = 0

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Verdict by row; rows without one are left out."""
        return {row.row_id: row.outcome for row in self.rows if row.outcome is not None}

    @property
    def num_unread(self) -> int:
        """Rows on which an answer of the judge could not be read."""
        return sum(row.outcome is None for row in self.rows)

    @property
    def position(self) -> dict[str, int]:
        """Rows by what both orders gave: the `same`, the `first` place twice, the `second` twice, or a tie in one."""
        kinds = {("a", "b"): "first", ("b", "a"): "second"}
        read = [(row.first, row.second) for row in self.rows if row.outcome is not None]
        counts = Counter(
            "same" if one == other else kinds.get((str(one), str(other)), "one_tie") for one, other in read
        )
        return {name: counts[name] for name in POSITION_KINDS}

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        rows = [
            {"row_id": row.row_id, "digest": row.digest, "first": row.first, "second": row.second} for row in self.rows
        ]
        return {
            "model": self.model,
            "place": self.place,
            "identity": self.identity,
            "criteria": self.criteria,
            "prompt_version": PROMPT_VERSION,
            "own": list(self.own),
            "rows": rows,
        }


def pair_requests(pairs: Sequence[AnswerPair], criteria: str) -> list[Request]:
    """Two requests for each pair: the first model's answer in front, then the second's.

    Args:
        pairs: The pairs.
        criteria: What better means.
    """
    orders = [(pair, answers) for pair in pairs for answers in ((pair.a, pair.b), (pair.b, pair.a))]
    return [pair_request(pair.prompt, pair.references, answers, criteria) for pair, answers in orders]


def judge_pairs(
    model: AskedModel, answers: PairedAnswers, folder: Path, options: JudgeOptions, *, log: Log
) -> JudgedPairs:
    """Ask a judge about pairs in both orders, and keep what it said; what it answered earlier is not asked again.

    Args:
        model: The judge.
        answers: The two models' answers.
        folder: Of the comparison.
        options: How it is asked.
        log: Takes `asked` after each answer.

    Raises:
        UserError: `judge-failed` where too many answers cannot be read; whatever `ask_all` raises.
    """
    pairs = chosen_rows(answers.different, options.max_rows, seed=options.seed)
    replies = _ask(model, pair_requests(pairs, options.criteria), folder, options, log, read_verdict)
    read: list[Position | None] = [read_verdict(reply.text) for reply in replies]
    rows = tuple(
        JudgedRow(pair.row_id, pair.digest, _outcome_of(first, "a"), _outcome_of(second, "b"))
        for pair, first, second in zip(pairs, read[::2], read[1::2], strict=True)
    )
    num_kept = sum(reply.is_kept for reply in replies)
    named = zip(answers.names, answers.identities, strict=True)
    own = tuple(name for name, identity in named if identity == model.identity)
    judged = JudgedPairs(model.name, model.place, model.identity, options.criteria, rows, own, num_kept)
    path = folder / _file_name(model, options)
    whole = replace(judged, rows=(*rows, *_said_earlier(path, answers, {row.row_id for row in rows})))
    write_atomic(path, json.dumps(whole.to_json(), ensure_ascii=True, indent=1) + "\n")
    return judged


def _said_earlier(path: Path, answers: PairedAnswers, asked: Collection[str]) -> list[JudgedRow]:
    """What the same judge said of other rows, so that asking about few of them takes nothing out of the report."""
    if not path.is_file():
        return []
    digests = {pair.row_id: pair.digest for pair in answers.different}
    earlier = [row for row in _read_judged(path).rows if row.row_id not in asked]
    return [row for row in earlier if digests.get(row.row_id) == row.digest]


@dataclass(frozen=True)
class ScoredAnswers:
    """The grades of one judge for one model.

    Attributes:
        model: The judge's name.
        place: Where it runs.
        identity: What its answers depend on.
        criteria: What good meant.
        scores: Grade by row, 1 to 5; None where it could not be read.
        num_kept: Answers that were kept from earlier.
    """

    model: str
    place: str
    identity: str
    criteria: str
    scores: dict[str, int | None]
    num_kept: int = 0

    @property
    def read(self) -> dict[str, int]:
        """The grades that could be read."""
        return {row_id: score for row_id, score in self.scores.items() if score is not None}

    @property
    def counts(self) -> dict[int, int]:
        """How often each grade was given."""
        given = Counter(self.read.values())
        return {score: given[score] for score in SCORES.values()}

    def mean(self, *, seed: int = 0, resamples: int = 1000) -> Estimate | None:
        """The mean grade with its interval, as that of any score; None without grades.

        Args:
            seed: Of the bootstrap.
            resamples: How many.
        """
        if not self.read:
            return None
        # From 0 to 1 and back: grades that are all the same do not tell how far others would be.
        lowest, widest = min(SCORES.values()), max(SCORES.values()) - min(SCORES.values())
        shares = [(grade - lowest) / widest for grade in self.read.values()]
        found = mean_estimate(shares, seed=seed, resamples=resamples)
        value, low, high = (lowest + widest * each for each in (found.value, found.low, found.high))
        return Estimate(value, low, high, found.method)

    def summary(self) -> dict[str, object]:
        """The mean, the counts and what could not be read, as JSON values."""
        mean = self.mean()
        return {
            "mean": None if mean is None else mean.to_json(),
            "counts": {str(score): count for score, count in self.counts.items()},
            "num_unread": len(self.scores) - len(self.read),
        }

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "model": self.model,
            "place": self.place,
            "identity": self.identity,
            "criteria": self.criteria,
            "prompt_version": PROMPT_VERSION,
            "scores": self.scores,
        }


def score_requests(rows: Sequence[AnsweredRow], criteria: str) -> list[Request]:
    """One request for each answer.

    Args:
        rows: The answered rows.
        criteria: What good means.
    """
    return [score_request(row.prompt, row.references, row.answer, criteria) for row in rows]


def score_answers(
    model: AskedModel, rows: Sequence[AnsweredRow], folder: Path, options: JudgeOptions, *, log: Log
) -> ScoredAnswers:
    """Ask a judge to grade answers from 1 to 5, and keep what it said.

    Args:
        model: The judge.
        rows: The answered rows that are graded.
        folder: Of the evaluation.
        options: How it is asked.
        log: Takes `asked` after each answer.

    Raises:
        UserError: `judge-failed` where too many answers cannot be read; whatever `ask_all` raises.
    """
    replies = _ask(model, score_requests(rows, options.criteria), folder, options, log, read_score)
    scores = {row.row_id: read_score(reply.text) for row, reply in zip(rows, replies, strict=True)}
    num_kept = sum(reply.is_kept for reply in replies)
    scored = ScoredAnswers(model.name, model.place, model.identity, options.criteria, scores, num_kept)
    path = folder / _file_name(model, options, kind="scores-")
    write_atomic(path, json.dumps(scored.to_json(), ensure_ascii=True, indent=1) + "\n")
    return scored


def read_judged(folder: Path) -> list[JudgedPairs]:
    """What judges said about two models, by the file that it stands in.

    Args:
        folder: Of the comparison.

    Raises:
        UserError: `ratings-invalid` where a file cannot be read.
    """
    return [_read_judged(path) for path in sorted(folder.glob(f"{PREFIX}pairs-*.json"))]


def _read_judged(path: Path) -> JudgedPairs:
    try:
        value = json.loads(path.read_bytes())
        rows = tuple(
            JudgedRow(str(row["row_id"]), str(row["digest"]), _known(row["first"]), _known(row["second"]))
            for row in value["rows"]
        )
        names = [str(value[name]) for name in ("model", "place", "identity", "criteria")]
        own = tuple(map(str, value["own"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "ratings-invalid",
            f"{path} cannot be read: {error!r}",
            hint="remove it and judge again; answers that are kept are not asked again",
        ) from error
    return JudgedPairs(names[0], names[1], names[2], names[3], rows, own)


def _known(value: object) -> Outcome | None:
    known: dict[object, Outcome | None] = {"a": "a", "b": "b", "tie": "tie", None: None}
    return known[value]


def _file_name(model: AskedModel, options: JudgeOptions, kind: str = "pairs-") -> str:
    """One file for each judge and its words: another judge's verdicts stay beside these."""
    said = json.dumps([model.identity, options.criteria, PROMPT_VERSION])
    return f"{PREFIX}{kind}{hashlib.sha256(said.encode()).hexdigest()[:12]}.json"


def _outcome_of(position: Position | None, in_front: Side) -> Outcome | None:
    """Whose answer was chosen, from the place that was chosen and whose answer stood in front."""
    if position is None or position == "tie":
        return position
    behind: Side = "b" if in_front == "a" else "a"
    return in_front if position == "1" else behind


def _ask(
    model: AskedModel,
    requests: Sequence[Request],
    folder: Path,
    options: JudgeOptions,
    log: Log,
    read: Callable[[str], object],
) -> list[Reply]:
    """All replies; the first few are looked at before the rest is asked."""
    replies: list[Reply] = []

    def log_all(event: str, fields: Mapping[str, object]) -> None:
        # The first few are a part of the whole, not a round of their own.
        whole = {"done": before + int(str(fields["done"])), "num_requests": len(requests)} if event == "asked" else {}
        log(event, {**fields, **whole})

    with KeptAnswers(folder / ANSWERS_FILE) as kept:
        for part, most in (
            (requests[:TRIAL_REQUESTS], MAX_UNREAD_AT_FIRST),
            (requests[TRIAL_REQUESTS:], MAX_UNREAD_SHARE),
        ):
            before = len(replies)
            replies += ask_all(model, part, max_new_tokens=options.max_new_tokens, kept=kept, log=log_all)
            require_readable(model.name, replies, read, options.max_new_tokens, most)
    return replies


def require_readable(
    name: str, replies: Sequence[Reply], read: Callable[[str], object], max_new_tokens: int, most: float
) -> None:
    """Refuse a judge too many of whose answers hold no verdict.

    Args:
        name: The judge's.
        replies: Its answers.
        read: Finds the verdict in a text; gives None where there is none.
        max_new_tokens: Longest answer that it was allowed.
        most: Share of the answers that may be unreadable.

    Raises:
        UserError: `judge-failed`.
    """
    bad = [reply for reply in replies if read(reply.text) is None]
    if len(bad) <= most * len(replies):
        return
    cut = sum(reply.finished == "length" for reply in bad)
    refused = sum(reply.finished == "refused" for reply in bad)
    shown = next((make_visible(reply.text.strip()[:SHOWN_CHARACTERS]) for reply in bad if reply.text.strip()), "")
    details = [f"{cut:,} of them were cut off at {max_new_tokens} tokens"] if cut else []
    details += [f"{refused:,} of them the service refused to answer"] if refused else []
    details += [f"the first one begins: {shown}"] if shown else ["the first one is empty"]
    raise UserError(
        "judge-failed",
        f"{len(bad):,} of {len(replies):,} answers of {name} hold no verdict that can be read",
        hint="raise --max-new-tokens" if cut > len(bad) / 2 else "take a larger model as judge",
        details=details,
    )
