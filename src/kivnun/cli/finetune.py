"""`kivnun finetune`: Olive's command and flags, as a recipe that is printed, kept and run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.olive.flags import Given
    from kivnun.olive.translation import Translation
    from kivnun.recipe.load import LoadedRecipe
    from kivnun.results import RunResults

ABOUT = "Tune a model on rows with LoRA or QLoRA: Olive's flags, and the training arguments of Hugging Face."
USAGE = "-m MODEL -d DATA [FLAGS]"


def finetune(context: typer.Context) -> None:
    """Tune a model with Olive's flags; they are shown as a recipe, which is kept and run."""
    from kivnun.cli.olive_words import read_words, tell_translation
    from kivnun.olive.commands import FINETUNE, FINETUNE_FLAGS, translate_finetune

    given = read_words(FINETUNE, context.args, FINETUNE_FLAGS, about=ABOUT, usage=USAGE)
    translation = translate_finetune(given)
    tell_translation(translation, given)
    out = Path(str(translation.output_dir))
    loaded = _load(translation, out / "recipe.yaml")
    _tell_own_code(loaded)
    if given.is_true("dry_run"):
        _say_plan(loaded, as_json=given.is_true("json"))
        return
    results, folders = _run(loaded, out, given)
    if given.is_true("json"):
        places = {"adapter": str(folders[0]), "model": str(folders[1]), "run": str(out / "run")}
        typer.echo(json.dumps({**places, "results": results.to_json()}, ensure_ascii=False))
        return
    typer.echo(f"adapter: {folders[0]}\nmodel: {folders[1]}\nrun: {out / 'run'}")
    typer.echo(f"next: kivnun auto-opt -m {folders[1]} -a {folders[0]} -o {out}-onnx --precision int4")


def _load(translation: "Translation", path: Path) -> "LoadedRecipe":
    from kivnun.olive.commands import FINETUNE, load_translated
    from kivnun.recipe.load import require_data_files

    loaded = load_translated(translation, f"kivnun {FINETUNE}", path)
    require_data_files(loaded)
    return loaded


def _tell_own_code(loaded: "LoadedRecipe") -> None:
    from kivnun.models.own_code import say_own_code
    from kivnun.models.resolve import resolve_model

    said = say_own_code(resolve_model(str(loaded.recipe.base_model)).folder)
    if said:
        tell(f"  {loaded.recipe.base_model}: {said}")


def _say_plan(loaded: "LoadedRecipe", *, as_json: bool) -> None:
    from kivnun.cli.olive_words import say_plan
    from kivnun.plan import describe_plan

    say_plan(describe_plan(loaded), as_json=as_json)


def _run(loaded: "LoadedRecipe", out: Path, given: "Given") -> "tuple[RunResults, tuple[Path, Path]]":
    """Run the recipe, and lay its adapter and its base model where Olive lays them."""
    from kivnun.cli.olive_words import Said
    from kivnun.models.resolve import resolve_model
    from kivnun.pipeline import run_recipe
    from kivnun.runs import open_run, write_atomic
    from kivnun.shipping import place_folder, require_places

    base = resolve_model(str(loaded.recipe.base_model)).folder
    require_places(out, base)
    try:
        with open_run(out / "run") as opened, Said(given) as said:
            write_atomic(loaded.path, loaded.text)
            _link_logs(given.text("logging_dir"), out / "run")
            results = run_recipe(loaded, opened, show=said.show)
            place_folder(out / "run" / "model", out / "adapter")
            place_folder(base, out / "model")
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        tell("interrupted; the same command goes on from here")
        raise
    return results, (out / "adapter", out / "model")


def _link_logs(named: str | None, run_dir: Path) -> None:
    """The folder that `--logging_dir` names shows TensorBoard's files while they are written."""
    if named is None:
        return
    from kivnun.errors import UserError

    folder, logs = Path(named), (run_dir / "tensorboard").absolute()
    if folder.is_symlink() and folder.readlink() == logs:
        return
    if folder.is_symlink() or folder.exists():
        hint = "name a folder that does not exist"
        raise UserError("file-exists", f"{folder} of --logging_dir exists", hint=hint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(logs, target_is_directory=True)
