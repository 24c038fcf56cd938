"""`kivnun recipe`: write, check, import, explain and compare recipes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kivnun.cli.files import write_named

app = typer.Typer(no_args_is_help=True, help="Write, check, import, explain and compare recipes.")

OVERWRITE_HINT = "name another file, or add --force to overwrite it"

RecipePath = Annotated[Path, typer.Argument(help="The recipe file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write; - prints it.")] = Path("recipe.yaml"),
    method: Annotated[str, typer.Option(help="The method, such as lora, qlora or full.")] = "lora",
    force: Force = False,
) -> None:
    """Write a recipe to start from, with the meaning of every field."""
    from kivnun.recipe.starter import annotated_recipe, starter_recipe

    text = annotated_recipe(starter_recipe(method))
    if str(path) == "-":
        sys.stdout.write(text)
        return
    write_named(path, text, may_replace=force, hint=OVERWRITE_HINT)
    _say(f"wrote {path}; `kivnun recipe check {path}` checks it")


@app.command()
def check(
    path: RecipePath,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a recipe and show every value with where it comes from."""
    from kivnun.olive.files import read_olive_file
    from kivnun.recipe.dump import dump_value, plain_values
    from kivnun.recipe.fields import walk_fields
    from kivnun.recipe.load import load_recipe, require_data_files

    # What it says of files of other programs is worth more than that they are no recipes.
    _ = read_olive_file(path)
    loaded = load_recipe(path, overrides or [])
    require_data_files(loaded)
    if loaded.recipe.training.objective.kind == "custom":
        from kivnun.training.objectives.custom import load_custom

        load_custom(loaded.recipe.training.objective)
    if as_json:
        _print_json({"recipe": plain_values(loaded.recipe), "provenance": dict(loaded.provenance)})
    else:
        values = {".".join(field): value for field, value in walk_fields(loaded.recipe)}
        rows = [(name, dump_value(values[name]), source) for name, source in loaded.provenance.items()]
        _print_table(("field", "value", "from"), rows)
    _say(f"{path} is valid")


@app.command("import")
def import_olive(
    path: Annotated[Path, typer.Argument(help="An Olive file, JSON or YAML.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The recipe to write; printed if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Translate an Olive file into a recipe, and say what becomes of every key."""
    from kivnun.cli.olive_table import say_translation, translation_rows
    from kivnun.errors import UserError
    from kivnun.olive.load import load_olive

    if not path.is_file():
        raise UserError("recipe-missing", f"there is no file {path}", hint="name an Olive file")
    found = load_olive(path)
    if found is None:
        raise UserError(
            "olive-invalid",
            f"{path} is no Olive file",
            hint="an Olive file is JSON or YAML with input_model, data_configs and passes; docs/reference/olive.md",
        )
    if output is not None:
        write_named(output, found.loaded.text, may_replace=False, hint="name another file")
    if as_json:
        recipe = found.translation.recipe
        _print_json({"recipe": recipe, "translation": translation_rows(found.translation)})
    else:
        say_translation(found.translation, str(path))
    if output is not None:
        _say(f"wrote {output}; `kivnun run {output}` runs it")
    elif not as_json:
        sys.stdout.write(found.loaded.text)


@app.command()
def explain(
    field: Annotated[str, typer.Argument(help="A field or section, such as training.learning_rate.")] = "",
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page.")] = False,
) -> None:
    """List the fields of a recipe: type, default and meaning."""
    from dataclasses import asdict

    from kivnun.recipe.explain import describe_fields, reference_page

    docs = describe_fields(field)
    if as_json:
        _print_json([asdict(doc) for doc in docs])
    elif markdown:
        sys.stdout.write(reference_page(docs))
    else:
        rows = [
            (
                doc.path,
                doc.type.replace("`", ""),
                "required" if doc.required else doc.default or "",
                f"(kind: {' or '.join(doc.kinds)}) {doc.meaning}" if doc.kinds else doc.meaning,
            )
            for doc in docs
        ]
        _print_table(("field", "type", "default", "meaning"), rows)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write instead.")] = None,
    force: Force = False,
) -> None:
    """Print the JSON Schema by which an editor completes recipes."""
    from kivnun.recipe.explain import recipe_json_schema

    text = json.dumps(recipe_json_schema(), ensure_ascii=False, indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    write_named(output, text, may_replace=force, hint=OVERWRITE_HINT)
    _say(f"wrote {output}; `# yaml-language-server: $schema={output}` atop a recipe makes an editor use it")


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(help="A recipe file.", show_default=False)],
    right: Annotated[Path, typer.Argument(help="Another recipe file.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show the fields that two recipes set differently, defaults included."""
    from dataclasses import asdict

    from kivnun.recipe.dump import dump_value, plain_value
    from kivnun.recipe.fields import diff_recipes
    from kivnun.recipe.load import load_recipe

    differences = diff_recipes(load_recipe(left).recipe, load_recipe(right).recipe)
    if as_json:
        rows = [{name: plain_value(value) for name, value in asdict(item).items()} for item in differences]
        _print_json(rows)
    elif differences:
        cells = [(item.path, dump_value(item.left), dump_value(item.right)) for item in differences]
        _print_table(("field", str(left), str(right)), cells)
    if not differences:
        _say(f"{left} and {right} describe the same run")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: nothing is folded there.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table, soft_wrap=not sys.stdout.isatty())


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
