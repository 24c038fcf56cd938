"""`kivnun run`: a recipe, or an Olive file, from its data to a verified model."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.errors import EXIT_STATUS, UserError

if TYPE_CHECKING:
    from kivnun.olive.translation import Translation
    from kivnun.recipe.load import LoadedRecipe
    from kivnun.recipe.where import AzureMlSection
    from kivnun.training.joined import Joined


@dataclass(frozen=True)
class _Asked:
    """What is run, and where."""

    loaded: "LoadedRecipe"
    folder: Path
    translation: "Translation | None"

    def extra(self) -> dict[str, object]:
        """What JSON says of an Olive file beside the results."""
        if self.translation is None:
            return {}
        from kivnun.cli.olive_table import translation_rows

        return {"translation": translation_rows(self.translation)}


def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, or an Olive file.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "--run-config", help="The same, as Olive spells it.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", help="Where results go; default: the Olive file's output_dir, or runs/ and its name."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check recipe and data, say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
    setup: Annotated[bool, typer.Option("--setup", hidden=True)] = False,
) -> None:
    """Run a recipe; the same words go on after an interruption, and finished stages are not repeated."""
    asked = _read(_one_file(recipe, config, setup=setup), overrides or [], run_dir)
    where = asked.loaded.recipe.where
    if dry_run:
        _say_plan(asked, as_json=as_json)
    elif where is not None:
        _send(asked, where, as_json=as_json)
    else:
        _run_here(asked, as_json=as_json)


def _one_file(recipe: Path | None, config: Path | None, *, setup: bool) -> Path:
    """The file that is run, named in one of two ways."""
    if setup:
        raise UserError(
            "olive-invalid",
            "--setup: there is nothing to set up; what a file needs is installed with Kivnun, and checked at once",
            hint="leave --setup out; --dry-run shows what would be done",
        )
    files = [file for file in (recipe, config) if file is not None]
    if len(files) != 1:
        raise typer.BadParameter("name one file: kivnun run FILE, or kivnun run --config FILE")
    return files[0]


def _read(path: Path, overrides: list[str], run_dir: Path | None) -> _Asked:
    from kivnun.runs import default_run_dir

    try:
        asked = _load(path, overrides)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        # The first process of the machine, to which torchrun gave the same words, says it.
        raise typer.Exit(EXIT_STATUS) from error
    loaded, translation = asked
    if _leads():
        _say_provenance(loaded.provenance, path, translation)
    named = translation.output_dir if translation is not None else None
    return _Asked(loaded, run_dir or (Path(named) if named else default_run_dir(path)), translation)


def _load(path: Path, overrides: list[str]) -> "tuple[LoadedRecipe, Translation | None]":
    from kivnun.olive.load import load_olive
    from kivnun.recipe.load import load_recipe, require_data_files

    olive = load_olive(path, overrides)
    loaded = load_recipe(path, overrides) if olive is None else olive.loaded
    if olive is not None and loaded.recipe.search is not None:
        raise UserError(
            "olive-invalid",
            f"{path}: search_space asks for a search, which `run` does not do",
            hint=f"`kivnun recipe import {path} -o recipe.yaml`, and then `kivnun search recipe.yaml`",
        )
    if loaded.recipe.where is None:
        require_data_files(loaded)
    return loaded, None if olive is None else olive.translation


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_plan(asked: _Asked, *, as_json: bool) -> None:
    from kivnun.data.visible import make_visible
    from kivnun.plan import describe_plan

    lines = (_describe_job(asked) or describe_plan(asked.loaded)) if _leads() else []
    if as_json and _leads():
        typer.echo(json.dumps({"plan": lines, **asked.extra()}, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(make_visible(line))


def _describe_job(asked: _Asked) -> list[str]:
    """What would be sent, of a run that is computed elsewhere; its rows may lie there alone."""
    where = asked.loaded.recipe.where
    if where is None:
        return []
    return [
        f"job: on {where.compute} in the workspace {where.workspace_name}, written to {asked.folder / 'job'}",
        *(f"input: {path}: {address}" for path, address in where.inputs.items()),
    ]


def _run_here(asked: _Asked, *, as_json: bool) -> None:
    from kivnun.cli.progress import Progress
    from kivnun.cli.summary import print_summary
    from kivnun.pipeline import follow_recipe, run_recipe
    from kivnun.runs import open_run

    loaded, folder = asked.loaded, asked.folder
    try:
        with _join(loaded.recipe.training.parallel) as joined:
            if not joined.parallel.leads:
                follow_recipe(loaded, folder, joined)
                return
            with open_run(folder) as opened, Progress(sys.stderr) as progress:
                results = run_recipe(loaded, opened, show=progress.show, joined=joined)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        sys.stderr.write("interrupted; the same command goes on from here\n")
        raise
    if as_json:
        typer.echo(json.dumps({**results.to_json(), **asked.extra()}, ensure_ascii=False))
    else:
        print_summary(results)


def _send(asked: _Asked, where: "AzureMlSection", *, as_json: bool) -> None:
    """Write the job of a run that is computed elsewhere, and send it."""
    from dataclasses import asdict

    from kivnun.azure.job import write_job
    from kivnun.azure.submit import submit
    from kivnun.cli.output import tell

    job = write_job(asked.loaded, asked.folder / "job")
    tell(f"wrote {job.folder}: the job that is sent, with {len(job.sent)} file(s)")
    sent = submit(job, where)
    if as_json:
        typer.echo(json.dumps({"job": asdict(sent), "folder": str(job.folder), **asked.extra()}, ensure_ascii=False))
    else:
        typer.echo(f"job: {sent.name}, {sent.status}{f'; watch it at {sent.studio_url}' if sent.studio_url else ''}")


def _join(kind: str) -> "AbstractContextManager[Joined]":
    """The processes that torchrun started, or this one by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from kivnun.training.processes import join_processes

        return join_processes(kind)
    from kivnun.training.joined import BY_ITSELF

    return nullcontext(BY_ITSELF)


def _say_provenance(provenance: Mapping[str, str], path: Path, translation: "Translation | None") -> None:
    """Say once which values the user chose; everything else is a default, listed by `kivnun recipe check`."""
    chosen = [name for name, source in provenance.items() if source == "--set"]
    note = f", --set {', '.join(chosen)}" if chosen else ""
    num_default = sum(source == "default" for source in provenance.values())
    if translation is None:
        listed = f"`kivnun recipe check {path}` lists every value"
        sys.stderr.write(f"recipe {path}{note}; {num_default} defaults ({listed})\n")
        return
    from kivnun.cli.olive_table import say_translation

    say_translation(translation, str(path))
    sys.stderr.write(f"{path}{note}; {num_default} further defaults (`kivnun recipe import {path}` writes a recipe)\n")
