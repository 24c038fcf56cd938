"""`kivnun repair`: data mended in explicit steps, each with a log of every row that it touched."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kivnun.cli.row_progress import RowProgress
    from kivnun.data.repair.rewrite import Repair, Target
    from kivnun.data.repair.source import Source

app = typer.Typer(
    help="Mend data in explicit steps: each writes a new file, and a log of every row that it touched beside it.",
    no_args_is_help=True,
)

MAX_NOTES = 20

In = Annotated[str, typer.Argument(metavar="IN", help="A file; it stays as it is.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The new file, of the same layout; the log is OUT.log.jsonl.")]
From = Annotated[str | None, typer.Option("--from", help="The format of the rows; else found out.", show_default=False)]
Prompt = Annotated[str | None, typer.Option(help="The column that is read.", show_default=False)]
Answer = Annotated[str | None, typer.Option(help="The column that is learnt.", show_default=False)]
Header = Annotated[bool | None, typer.Option("--header/--no-header", help="Whether tables begin with column names.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="Only this: email, phone, card, israeli-id or secret; repeatable.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT and its log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.command("deduplicate")
def deduplicate(
    source: In,
    out: Out,
    near: Annotated[bool, typer.Option("--near", help="Drop rows that are nearly the same too.")] = False,
    keep: Annotated[Literal["first", "last"], typer.Option(help="Which of several rows stays.")] = "first",
    against: Annotated[
        list[str] | None,
        typer.Option(help="Drop rows whose input stands in this file too; repeatable.", show_default=False),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Share of 4-character pieces that near rows have in common.", min=0.5, max=1.0)
    ] = 0.85,
    wanted: From = None,
    prompt: Prompt = None,
    answer: Answer = None,
    header: Header = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Drop rows that repeat another one, or (--against) that stand in the test rows."""
    from kivnun.data.repair.duplicates import DuplicateOptions
    from kivnun.data.repair.duplicates import deduplicate as repair

    rows = _open(source, header, (wanted, prompt, answer))
    others = [_open(name, header, (wanted, prompt, answer)) for name in against or []]
    options = DuplicateOptions(near=near, keep=keep, threshold=threshold)
    with _progress() as progress:
        done = repair(rows, _target(out, force, dry_run), options, against=others, show=progress.show)
    _say(done, dry_run=dry_run, as_json=as_json)


@app.command("mask-personal-data")
def mask_personal_data(
    source: In,
    out: Out,
    kind: Kinds = None,
    header: Header = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write [EMAIL], [PHONE], [CARD], [ID] or [SECRET] in the place of personal data; the log does not hold it."""
    from kivnun.data.repair.personal import mask_personal_data as repair

    _repair_personal(repair, _open(source, header), _target(out, force, dry_run), kind, as_json)


@app.command("drop-personal-data")
def drop_personal_data(
    source: In,
    out: Out,
    kind: Kinds = None,
    header: Header = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Drop rows that hold personal data: e-mail addresses, phone, card and Israeli ID numbers, keys of services."""
    from kivnun.data.repair.personal import drop_personal_data as repair

    _repair_personal(repair, _open(source, header), _target(out, force, dry_run), kind, as_json)


@app.command("fix-encoding")
def fix_encoding(
    source: In,
    out: Out,
    encoding: Annotated[
        str | None,
        typer.Option(help="What the bytes that are not UTF-8 are, such as cp1255; else guessed.", show_default=False),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a file as UTF-8 without a byte-order mark, and say what its bytes were taken for and why."""
    from kivnun.data.repair.encoding import fix_encoding as repair
    from kivnun.data.repair.source import Source, find_source

    done = repair(Source(find_source(source, as_text=True)), _target(out, force, dry_run), encoding=encoding)
    _say(done, dry_run=dry_run, as_json=as_json, unit="line")


@app.command("close-brackets")
def close_brackets(
    source: In, out: Out, force: Force = False, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Write the brackets that lines of JSON lack at their ends; lines that are broken otherwise stay, and are named."""
    from kivnun.data.repair.closing import close_brackets as repair
    from kivnun.data.repair.source import Source, find_source

    done = repair(Source(find_source(source)), _target(out, force, dry_run))
    _say(done, dry_run=dry_run, as_json=as_json, unit="line")


@app.command("balance")
def balance(
    source: In,
    out: Out,
    by: Annotated[
        Literal["down", "up"], typer.Option(help="Leave out rows of frequent labels, or repeat rows of rare ones.")
    ] = "down",
    rows: Annotated[
        int | None,
        typer.Option(help="Rows of a label; else those of the rarest, or most frequent.", min=1, show_default=False),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The column of the labels; else the answers.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed chooses other rows.", min=0)] = 0,
    wanted: From = None,
    prompt: Prompt = None,
    answer: Answer = None,
    header: Header = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make labels equal in number. The same rows are chosen on every machine, and their order is kept."""
    from kivnun.data.repair.balance import BalanceOptions
    from kivnun.data.repair.balance import balance as repair

    options = BalanceOptions(by=by, rows=rows, column=column, seed=seed)
    with _progress() as progress:
        rows_in = _open(source, header, (wanted, prompt, answer))
        done = repair(rows_in, _target(out, force, dry_run), options, show=progress.show)
    _say(done, dry_run=dry_run, as_json=as_json)


def _repair_personal(
    repair: "Callable[..., Repair]", source: "Source", target: "Target", kinds: list[str] | None, as_json: bool
) -> None:
    from kivnun.data.repair.personal import choose_kinds

    chosen = choose_kinds(kinds or [])
    with _progress() as progress:
        done = repair(source, target, kinds=chosen, show=progress.show)
    _say(done, dry_run=target.dry_run, as_json=as_json)


def _open(
    name: str, header: bool | None, wishes: tuple[str | None, str | None, str | None] = (None, None, None)
) -> "Source":
    from kivnun.data.files.dataset import ReadOptions
    from kivnun.data.repair.source import Source, find_source

    wanted, prompt, answer = wishes
    return Source(find_source(name), ReadOptions(header=header), wanted, prompt, answer)


def _target(out: Path, force: bool, dry_run: bool) -> "Target":
    from kivnun.data.repair.rewrite import Target

    return Target(out, force=force, dry_run=dry_run)


def _progress() -> "RowProgress":
    from kivnun.cli.row_progress import RowProgress

    return RowProgress(sys.stderr, "repairing")


def _say(done: "Repair", *, dry_run: bool, as_json: bool, unit: str = "row") -> None:
    if as_json:
        _print_json(done, dry_run=dry_run)
        return
    from kivnun.data.visible import isolate

    width = max(map(len, done.counts), default=0)
    for what, count in done.counts.items():
        sys.stdout.write(f"{what:<{width}}  {count:>9,}\n")
    for note in done.notes[:MAX_NOTES]:
        sys.stdout.write(f"{isolate(note)}\n")
    if len(done.notes) > MAX_NOTES:
        sys.stdout.write(f"... and {len(done.notes) - MAX_NOTES:,} more\n")
    if not done.counts:
        sys.stdout.write("nothing to do\n")
    verb = "would write" if dry_run else "wrote"
    head = f"read {done.num_rows:,} {unit}(s) of {isolate(done.source)}"
    sys.stdout.write(f"{head}, {verb} {done.num_written:,} to {isolate(done.out)}; log: {isolate(done.log)}\n")


def _print_json(done: "Repair", *, dry_run: bool) -> None:
    from kivnun.cli.output import to_json

    value = {
        "in": done.source,
        "out": done.out,
        "log": done.log,
        "dry_run": dry_run,
        "read": done.num_rows,
        "written": done.num_written,
        "counts": dict(done.counts),
        "notes": list(done.notes),
    }
    sys.stdout.write(to_json(value))
