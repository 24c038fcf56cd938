"""Enrich a data set: plan the questions, ask them, judge what comes back, and write rows with their origins."""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from kivnun.data.conversation import Conversation
from kivnun.data.files.write import open_writer
from kivnun.enrichment.answers import AnswerFile, question_key
from kivnun.enrichment.asking import (
    Candidate,
    Kind,
    Question,
    ask_examples,
    ask_paraphrases,
    can_be_asked,
    read_answer,
)
from kivnun.enrichment.judge import Judge
from kivnun.enrichment.rows import EnrichRows
from kivnun.enrichment.writers import Writer
from kivnun.errors import UserError
from kivnun.runs import write_atomic

SHOTS = 5
GRACE_SECONDS = 10.0
Show = Callable[[int, int, int], None]
"""Progress: questions done, all questions, rows kept so far."""


@dataclass(frozen=True)
class EnrichOptions:
    """What is made.

    Attributes:
        kind: `paraphrase`: each row said in other ways; `example`: new rows of the same task.
        number: New rows asked for in one question.
        questions: Questions of kind `example`; at most this many rows are paraphrased, or all where None.
        labels: The only answers that are allowed; empty for any.
        wishes: A sentence of one's own that is added to every question.
        temperature: Of the sampling; part of what identifies a question.
        seed: Chooses the examples that are shown, and goes to the model.
        only_new: Whether the rows that were there are left out of the output.
    """

    kind: Kind = "paraphrase"
    number: int = 2
    questions: int | None = None
    labels: tuple[str, ...] = ()
    wishes: str = ""
    temperature: float = 0.8
    seed: int = 0
    only_new: bool = False


@dataclass(frozen=True)
class EnrichResult:
    """What came of it.

    Attributes:
        rows: Rows that were there.
        unfit: Rows that no question can be made from: tools, pictures, no user turn, or no answer.
        questions: Questions that were planned.
        remembered: Those of them that an earlier try had answered.
        offered: New rows that came back.
        kept: New rows that were written.
        refused: Offered rows that were not kept, by reason.
    """

    rows: int
    unfit: int
    questions: int
    remembered: int
    offered: int
    kept: int
    refused: Mapping[str, int] = field(default_factory=dict[str, int])


def plan_questions(rows: Sequence[Conversation], options: EnrichOptions) -> list[Question]:
    """The questions, the same for the same rows and options on every machine.

    Raises:
        UserError: `enrich-nothing` where no row can be asked about.
    """
    fit = [row for row in rows if can_be_asked(row)]
    if not fit:
        raise UserError(
            "enrich-nothing",
            f"none of {len(rows)} row(s) has a user turn before a trained answer, in words alone",
            hint="enrich rows of questions and answers; rows with tools or pictures are not made up",
        )
    shuffled = sorted(fit, key=lambda row: _order(row, options.seed))
    if options.kind == "paraphrase":
        chosen = {id(row) for row in shuffled[: options.questions]}
        return [ask_paraphrases(row, options.number, options.wishes) for row in fit if id(row) in chosen]
    num_questions = options.questions or 1
    shown = min(SHOTS, len(shuffled))
    starts = [(index * shown) % len(shuffled) for index in range(num_questions)]
    twice = shuffled + shuffled
    return [
        ask_examples(twice[start : start + shown], options.number, options.labels, options.wishes) for start in starts
    ]


def enrich(
    read: EnrichRows,
    writer: Writer,
    options: EnrichOptions,
    *,
    out: Path,
    show: Show = lambda _done, _all, _kept: None,
) -> EnrichResult:
    """Write new rows behind the rows that are there, and `OUT.origins.jsonl` with the origin of each.

    Answers are kept in `OUT.answers.jsonl` as they come: after Ctrl-C or a failure the same call asks only the rest.

    Args:
        read: The rows, and those that are held out: nothing like them is kept.
        writer: Who is asked.
        options: What is made.
        out: The file; its ending chooses the layout.
        show: Takes progress.

    Raises:
        UserError: `enrich-nothing`, `endpoint-failed`, or what `open_writer` refuses.
    """
    rows = read.rows
    questions = plan_questions(rows, options)
    judge = Judge(rows, read.held_out, options.labels)
    kept: list[Candidate] = []
    refused: Counter[str] = Counter()
    offered = 0
    with AnswerFile(out.with_name(out.name + ".answers.jsonl")) as answers:
        keys = [_key(writer, question, options) for question in questions]
        remembered = sum(answers.find(key) is not None for key in keys)
        for number, (question, text) in enumerate(_ask_all(writer, questions, keys, answers, options), start=1):
            candidates, num_unfit = read_answer(question, text)
            offered += len(candidates) + num_unfit
            refused["it is not what was asked for"] += num_unfit
            for candidate in candidates:
                reason = judge.refusal(candidate)
                if reason is None:
                    kept.append(candidate)
                else:
                    refused[reason] += 1
            show(number, len(questions), len(kept))
    num_old = 0 if options.only_new else len(rows)
    _write(out, read, [candidate.conversation for candidate in kept], with_old=not options.only_new)
    _write_origins(out, kept, writer, first_row=num_old + 1)
    unfit = sum(not can_be_asked(row) for row in rows)
    counts = {reason: count for reason, count in refused.most_common() if count}
    return EnrichResult(len(rows), unfit, len(questions), remembered, offered, len(kept), counts)


def _order(row: Conversation, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{row.content_hash}".encode()).digest()


def _key(writer: Writer, question: Question, options: EnrichOptions) -> str:
    return question_key(f"{writer.name} at {writer.place}", question.messages, options.temperature, options.seed)


def _ask_all(
    writer: Writer, questions: Sequence[Question], keys: Sequence[str], answers: AnswerFile, options: EnrichOptions
) -> Iterator[tuple[Question, str]]:
    """Every question with its answer, in order; several are asked at once where the writer allows it."""
    wanted = {key: question for key, question in zip(keys, questions, strict=True) if answers.find(key) is None}
    with _asking(writer, wanted, answers, options.seed) as asked:
        for question, key in zip(questions, keys, strict=True):
            if key in asked:
                asked[key].result()
            yield question, answers.find(key) or ""


@contextmanager
def _asking(
    writer: Writer, wanted: Mapping[str, Question], answers: AnswerFile, seed: int
) -> Generator[Mapping[str, Future[None]]]:
    """Questions under way. Whatever ends it, answers on their way are waited for a little: they are paid for.

    The threads are daemons: an endpoint that hangs must not keep the program from ending.
    """
    asked = {key: Future[None]() for key in wanted}
    waiting = deque(wanted.items())
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                key, question = waiting.popleft()
            try:
                answer = writer.ask(question.messages, seed)
                with lock:
                    answers.add(key, answer)
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
                asked[key].set_exception(error)
                return
            asked[key].set_result(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(writer.parallel, len(wanted)))]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        with lock:
            waiting.clear()
        last = time.monotonic() + GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, last - time.monotonic()))


def _write(out: Path, read: EnrichRows, new: Sequence[Conversation], *, with_old: bool) -> None:
    write = read.format.write
    if write is None:
        raise AssertionError(f"format {read.format.name} is only read")
    with open_writer(out) as writer:
        if with_old:
            for fields in read.fields or map(write, read.rows):
                writer.write(fields)
        for row in new:
            writer.write(write(row))


def _write_origins(out: Path, kept: Sequence[Candidate], writer: Writer, *, first_row: int) -> None:
    lines = [
        orjson.dumps(
            {
                "row": row,
                "kind": candidate.question.kind,
                "from": [source.where for source in candidate.question.sources],
                "model": writer.name,
                "at": writer.place,
                "content_hash": candidate.conversation.content_hash,
            }
        )
        for row, candidate in enumerate(kept, start=first_row)
    ]
    write_atomic(out.with_name(out.name + ".origins.jsonl"), b"".join(line + b"\n" for line in lines))
