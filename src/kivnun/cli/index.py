"""`kivnun index`: documents become passages that are found by words and by vectors; what did not change stays."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kivnun.recipe.retrieval import RetrievalSection
    from kivnun.retrieval.index import IndexPlan, IndexReport
    from kivnun.retrieval.passages import Unreadable

RECIPE_ENDINGS = (".yaml", ".yml")
MAX_LINES = 10


@dataclass(frozen=True)
class _Wanted:
    """What is indexed, and where to."""

    settings: "RetrievalSection"
    out: Path
    locate: "Callable[[str], Path]"


def index(
    documents: Annotated[
        list[str], typer.Argument(metavar="DOCUMENTS...|RECIPE", help="Files and folders, or one recipe.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The index's folder; of a recipe, runs/, its name and -index if not given.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(help="none (the default), builtin, hf:NAME, dir:FOLDER or openai:MODEL?base_url=ADDRESS."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="sqlite (the default), lancedb, or an address postgresql://...")
    ] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Longest passage; default 200 tokens.", min=16)] = None,
    chunk_overlap_tokens: Annotated[int | None, typer.Option(help="Tokens that passages repeat.", min=0)] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Of a recipe: override a field: section.field=value; repeatable.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it anew, in another way if need be.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Index documents: txt, md, html, pdf, docx, and JSONL with id and text. What did not change is not read again.

    What cannot be read is listed, and the rest is indexed. The same command goes on after an interruption.
    """
    options = {
        "embedder": embedder,
        "store": store,
        "chunk_tokens": chunk_tokens,
        "chunk_overlap_tokens": chunk_overlap_tokens,
    }
    given = {name: value for name, value in options.items() if value is not None}
    is_recipe = len(documents) == 1 and documents[0].endswith(RECIPE_ENDINGS)
    wanted = (
        _from_recipe(documents[0], out, given, overrides)
        if is_recipe
        else _from_words(documents, out, given, overrides)
    )
    if dry_run:
        _show_plan(wanted, rebuild=rebuild, as_json=as_json)
        return
    report = _build(wanted, rebuild=rebuild)
    if as_json:
        from kivnun.cli.output import to_json

        sys.stdout.write(to_json(report.to_json()))
    else:
        _print(report)


def _from_recipe(name: str, out: Path | None, given: Mapping[str, object], overrides: list[str] | None) -> _Wanted:
    from kivnun.errors import UserError
    from kivnun.recipe.load import load_recipe
    from kivnun.runs import default_run_dir

    if given:
        options = " and ".join(f"--{option.replace('_', '-')}" for option in given)
        raise typer.BadParameter(f"{options}: a recipe says this itself; use --set retrieval.{next(iter(given))}=VALUE")
    loaded = load_recipe(Path(name), overrides or [])
    section = loaded.recipe.retrieval
    if section is None:
        hint = "add it, as in `retrieval: {documents: docs}`, or name documents in place of the recipe"
        raise UserError("recipe-invalid", f"{name} has no section retrieval", hint=hint)
    default = default_run_dir(Path(name))
    return _Wanted(section, out or default.with_name(f"{default.name}-index"), loaded.locate)


def _from_words(
    documents: list[str], out: Path | None, given: Mapping[str, object], overrides: list[str] | None
) -> _Wanted:
    from pydantic import ValidationError

    from kivnun.recipe.retrieval import RetrievalSection

    if overrides:
        raise typer.BadParameter("--set belongs to a recipe; documents take options such as --chunk-tokens")
    if out is None:
        raise typer.BadParameter("say where the index goes: --out FOLDER")
    try:
        settings = RetrievalSection.model_validate({"documents": documents, **given})
    except ValidationError as error:
        raise typer.BadParameter("; ".join(str(each["msg"]) for each in error.errors())) from error
    return _Wanted(settings, out, lambda name: Path(name).expanduser())


def _build(wanted: _Wanted, *, rebuild: bool) -> "IndexReport":
    from kivnun.cli.output import tell
    from kivnun.cli.row_progress import RowProgress
    from kivnun.retrieval.index import build_index

    with RowProgress(sys.stderr, "indexing", unit="documents") as progress:

        def log(_event: str, fields: Mapping[str, object]) -> None:
            done, total = int(str(fields["done"])), int(str(fields["total"]))
            progress.show(done, done / max(total, 1))

        try:
            return build_index(wanted.settings, wanted.out, log=log, rebuild=rebuild, locate=wanted.locate)
        except KeyboardInterrupt:
            tell(f"interrupted; what was indexed is kept, and the same command goes on from there ({wanted.out})")
            raise


def _show_plan(wanted: _Wanted, *, rebuild: bool, as_json: bool) -> None:
    from kivnun.cli.output import to_json
    from kivnun.retrieval.index import plan_index

    plan = plan_index(wanted.settings, wanted.out, rebuild=rebuild, locate=wanted.locate)
    if as_json:
        sys.stdout.write(to_json(plan.to_json()))
        return
    typer.echo(f"{wanted.out}: nothing is changed")
    typer.echo(f"  {_say_changes(plan)}; {plan.characters:,} characters would be read")
    _print_unreadable(plan.unreadable)


def _print(report: "IndexReport") -> None:
    from kivnun.cli.progress import say_seconds

    changes = _say_changes(report) if report.has_changed else f"nothing changed, {report.unchanged:,} unchanged"
    _say(f"{report.folder}: {report.documents:,} documents, {report.chunks:,} passages ({changes})")
    embedded = f", {report.embedded:,} passages embedded" if report.embedded else ""
    typer.echo(f"  {say_seconds(report.seconds)}{embedded}")
    for note in report.notes[:MAX_LINES]:
        _say(f"  note: {note}")
    if len(report.notes) > MAX_LINES:
        typer.echo(f"  and {len(report.notes) - MAX_LINES} more notes (--json has them all)")
    _print_unreadable(report.unreadable)
    _say(f'search it: kivnun search {report.folder} "..."')


def _say_changes(counts: "IndexReport | IndexPlan") -> str:
    return (
        f"{counts.added:,} new, {counts.changed:,} changed, {counts.removed:,} removed, {counts.unchanged:,} unchanged"
    )


def _print_unreadable(unreadable: "tuple[Unreadable, ...]") -> None:
    if not unreadable:
        return
    typer.echo(f"  {len(unreadable):,} files or records cannot be read and are left out:")
    for each in unreadable[:MAX_LINES]:
        _say(f"    {each.path}: {each.problem}")
    if len(unreadable) > MAX_LINES:
        typer.echo(f"    and {len(unreadable) - MAX_LINES} more (index.json and --json have them all)")


def _say(text: str) -> None:
    from kivnun.data.visible import make_visible

    typer.echo(make_visible(text))
