"""`kivnun judge`: a model says which of two others answers better, or how good answers are, beside what people say."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from kivnun.asking.request import AskedModel, Log, Request
    from kivnun.assessment.judge import JudgeOptions, ScoredAnswers
    from kivnun.assessment.labels import ScoreAgreement

Result = TypeVar("Result")


def judge(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.", show_default=False)],
    second: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Folder of another one, of the same rows.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The judge: a run, folder, id or endpoint.")] = None,
    score: Annotated[bool, typer.Option("--score", help="Grade the answers of A from 1 to 5; no B.")] = False,
    criteria: Annotated[str | None, typer.Option(help="What better means; default: helpful and right.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Human labels to measure the judge with; default: ratings of kivnun rate.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows that are judged; all if not given.", min=1)] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer of the judge; default: 400.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the rows, in the order of kivnun rate.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Where verdicts are kept; default: comparisons/A-vs-B.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing; show the first question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Ask a model which answers are better, each pair in both orders; answers are kept, so that it can go on."""
    if score == (second is not None):
        raise typer.BadParameter("name two evaluations to compare, or one with --score to grade")
    if model is None and not dry_run:
        raise typer.BadParameter("--model says who judges")
    from kivnun.assessment.judge import MAX_NEW_TOKENS, JudgeOptions
    from kivnun.assessment.judge_prompts import CRITERIA

    longest = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
    options = JudgeOptions(CRITERIA if criteria is None else criteria, max_rows, longest, seed)
    if second is None:
        _score(first, model, labels, options, (out, dry_run, as_json))
    else:
        _compare(first, second, model, labels, options, (out, dry_run, as_json))


def _compare(
    first: Path,
    second: Path,
    model: str | None,
    labels: Path | None,
    options: "JudgeOptions",
    wishes: tuple[Path | None, bool, bool],
) -> None:
    from kivnun.assessment.judge import judge_pairs, pair_requests
    from kivnun.assessment.labels import read_choices
    from kivnun.assessment.pairs import chosen_rows, comparison_folder, read_pairs, require_different
    from kivnun.assessment.ratings import read_all_ratings
    from kivnun.assessment.verdicts import Verdicts, judge_verdict, keep_names, majority, require_current
    from kivnun.cli.output import tell, to_json
    from kivnun.cli.rate import print_verdicts, tell_rows

    out, dry_run, as_json = wishes
    folder = out or comparison_folder(first, second)
    answers = read_pairs(first, second)
    require_different(answers)
    require_current(folder, answers)
    people = majority(read_all_ratings(folder)) if labels is None else read_choices(labels, answers)
    chosen = chosen_rows(answers.different, options.max_rows, seed=options.seed)
    if dry_run or model is None:
        _show_plan(pair_requests(chosen, options.criteria), as_json=as_json)
        return
    keep_names(folder, answers)
    tell_rows(len(chosen), answers.num_same, options.max_rows)
    judged = _ask(model, lambda asked, log: judge_pairs(asked, answers, folder, options, log=log))
    verdict = judge_verdict(judged, people)
    if as_json:
        names = {"a": answers.names[0], "b": answers.names[1]}
        sys.stdout.write(to_json({"names": names, "num_same": answers.num_same, **verdict.to_json()}))
    else:
        print_verdicts(Verdicts(answers.names, answers.num_same, (), None, None, (verdict,)))
    kept = f"; {judged.num_kept:,} answers were kept from earlier" if judged.num_kept else ""
    tell(f"kept in {folder}{kept}")


def _score(
    folder: Path,
    model: str | None,
    labels: Path | None,
    options: "JudgeOptions",
    wishes: tuple[Path | None, bool, bool],
) -> None:
    from kivnun.assessment.judge import score_answers, score_requests
    from kivnun.assessment.labels import read_scores, score_agreement
    from kivnun.assessment.pairs import chosen_rows, read_answers
    from kivnun.cli.output import tell, to_json
    from kivnun.cli.rate import tell_rows

    out, dry_run, as_json = wishes
    rows = read_answers(folder)
    people = {} if labels is None else read_scores(labels, {row.row_id for row in rows})
    chosen = chosen_rows(rows, options.max_rows, seed=options.seed)
    if dry_run or model is None:
        _show_plan(score_requests(chosen, options.criteria), as_json=as_json)
        return
    tell_rows(len(chosen), 0, options.max_rows)
    kept_in = out or folder
    scored = _ask(model, lambda asked, log: score_answers(asked, chosen, kept_in, options, log=log))
    agreement = score_agreement(people, scored.read)
    if as_json:
        with_people = None if agreement is None else agreement.to_json()
        sys.stdout.write(to_json({**scored.to_json(), "summary": scored.summary(), "with_people": with_people}))
    else:
        _print_scores(scored, agreement)
    tell(f"kept in {kept_in}")


def _ask(spec: str, work: "Callable[[AskedModel, Log], Result]") -> Result:
    """Open the judge and let it work, with progress, and a word on what is kept where it is interrupted."""
    from kivnun.asking.open import open_model
    from kivnun.cli.asking_progress import AskingProgress
    from kivnun.cli.output import tell

    with AskingProgress(sys.stderr) as progress:

        def log(event: str, fields: Mapping[str, object]) -> None:
            if event == "asked":
                progress.show(str(fields["model"]), int(str(fields["done"])), int(str(fields["num_requests"])))
            else:
                tell(f"{event}: " + ", ".join(f"{name} {value}" for name, value in fields.items()))

        asked = open_model(spec, log=log)
        tell(f"asking {asked.name} on {asked.place}")
        try:
            return work(asked, log)
        except KeyboardInterrupt:
            tell("interrupted; what was answered is kept, and the same command goes on from there")
            raise


def _show_plan(requests: "list[Request]", *, as_json: bool) -> None:
    from kivnun.cli.output import to_json
    from kivnun.data.visible import make_visible

    characters = sum(len(text) for request in requests for _, text in request.messages)
    if as_json:
        value = {"requests": len(requests), "characters": characters, "first": requests[0].messages}
        sys.stdout.write(to_json(value))
        return
    lines = [f"{len(requests):,} requests of {characters:,} characters together, nothing is asked; the first one:"]
    lines += [line for role, text in requests[0].messages for line in f"[{role}] {text}".split("\n")]
    sys.stdout.write("\n".join(map(make_visible, lines)) + "\n")


def _print_scores(scored: "ScoredAnswers", agreement: "ScoreAgreement | None") -> None:
    from kivnun.assessment.verdict_words import say_scores

    sys.stdout.write("\n".join(say_scores(scored, agreement)) + "\n")
