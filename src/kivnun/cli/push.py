"""`kivnun push`: one form of a run, with its card, to the Hugging Face hub; the one verb that sends anything out."""

from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.cli.output import tell, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from kivnun.publishing import Pushed, PushPlan


def push(
    run: Annotated[str, typer.Argument(help="The run: its name or its folder.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The repository, as owner/name.", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(help="merged, adapter, gguf, or a folder such as onnx-int4; default: merged.", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Hide a new repository from others.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Put a new commit on a repository that exists.")] = False,
    with_golden: Annotated[
        bool, typer.Option("--with-golden", help="Send the test prompts and the answers to them too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Send a model to the hub, whole or not at all; the token comes from HF_TOKEN or the hub's own login."""
    from kivnun.publishing import find_form, plan_push, require_repo_id
    from kivnun.publishing import push as push_form
    from kivnun.runs import find_run

    require_repo_id(to)
    run_dir = find_run(run)
    _write_missing_card(run_dir, find_form(run_dir, form)[1], dry_run=dry_run)
    plan = plan_push(run_dir, form, with_golden=with_golden)
    if not as_json:
        _say_plan(plan, to, dry_run=dry_run)
    for note in plan.notes:
        tell(note)
    pushed = None if dry_run else push_form(plan, to, private=private, update=update)
    if as_json:
        typer.echo(to_json(_to_values(plan, to, pushed)), nl=False)
    elif pushed is not None:
        typer.echo(f"sent to {pushed.url}, commit {pushed.commit}")


def _write_missing_card(run_dir: "Path", folder: "Path", *, dry_run: bool) -> None:
    """A run of before there were cards gets its cards now; a dry run writes nothing."""
    from kivnun.runs.manifest import CARD_NAME

    if (folder / CARD_NAME).is_file():
        return
    if dry_run:
        tell(f"{folder} has no {CARD_NAME}: one would be written from the run folder, and sent")
        return
    from pydantic import ValidationError

    from kivnun.errors import UserError
    from kivnun.model_card.write import write_cards
    from kivnun.recipe.schema import Recipe
    from kivnun.runs import read_lock

    tell(f"{folder} has no {CARD_NAME}; writing it from the run folder")
    try:
        recipe = Recipe.model_validate(read_lock(run_dir).recipe)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"{run_dir} has no card, and none can be written: its recipe is of an older form ({where})"
        raise UserError("run-missing", problem, hint="run the recipe again, or write README.md yourself") from error
    write_cards(run_dir, recipe)


def _say_plan(plan: "PushPlan", to: str, *, dry_run: bool) -> None:
    from kivnun.data.visible import make_visible

    verb = "would send" if dry_run else "sending"
    typer.echo(f"{verb} {plan.form} to {to}: {len(plan.files)} files, {plan.size_bytes:,} bytes")
    for name, size in plan.files.items():
        typer.echo(f"  {make_visible(name)}  {size:,}")
    for name, why in plan.left_out.items():
        typer.echo(f"  not sent: {make_visible(name)} ({why})")


def _to_values(plan: "PushPlan", to: str, pushed: "Pushed | None") -> dict[str, object]:
    return {
        "to": to,
        "form": plan.form,
        "files": dict(plan.files),
        "size_bytes": plan.size_bytes,
        "left_out": dict(plan.left_out),
        "notes": list(plan.notes),
        "sent": pushed is not None,
        "url": None if pushed is None else pushed.url,
        "commit": None if pushed is None else pushed.commit,
    }
