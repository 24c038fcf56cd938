"""`kivnun optimize`: the forms of a finished run measured and chosen anew, or a model folder with Olive's flags."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.olive.flags import Given
    from kivnun.recipe.schema import Recipe

ABOUT = "Measure the forms that a run's model can be shipped in, and keep the one that the limits pick."
USAGE = "RUN [FLAGS], or -m MODEL [-a ADAPTER] [FLAGS]"


def optimize(context: typer.Context) -> None:
    """Measure the forms that a run's model, or a model folder, can be shipped in, and keep the best within limits."""
    from kivnun.cli.auto_opt import ship
    from kivnun.cli.olive_words import read_words
    from kivnun.errors import UserError
    from kivnun.olive.ship_commands import OPTIMIZE, SHIP_FLAGS

    given = read_words(OPTIMIZE, context.args, SHIP_FLAGS, about=ABOUT, usage=USAGE, argument="RUN")
    if given.argument is None:
        ship(given)
        return
    if "model_name_or_path" in given.values:
        problem = f"a run ({given.argument}) and a model (-m) are given; keep one of them"
        raise UserError(
            "olive-invalid", problem, hint="`kivnun optimize RUN`, or `kivnun optimize -m MODEL -a ADAPTER`"
        )
    _optimize_run(given)


def _optimize_run(given: "Given") -> None:
    from kivnun.cli.olive_words import tell_translation
    from kivnun.olive.ship_commands import translate_choice
    from kivnun.runs import find_run
    from kivnun.shipping import ask_otherwise, recipe_of

    folder = find_run(str(given.argument))
    translation = translate_choice(given)
    tell_translation(translation, given)
    changes = translation.recipe.get("optimization", {})
    recipe = ask_otherwise(recipe_of(folder), changes if isinstance(changes, dict) else {})
    if given.is_true("dry_run"):
        _say_plan(folder, recipe, as_json=given.is_true("json"))
        return
    results = _run(folder, recipe, given)
    if given.is_true("json"):
        typer.echo(json.dumps(results, ensure_ascii=False))


def _say_plan(folder: Path, recipe: "Recipe", *, as_json: bool) -> None:
    from kivnun.cli.olive_words import say_plan
    from kivnun.shipping import plan_run

    say_plan(plan_run(folder, recipe), as_json=as_json)


def _run(folder: Path, recipe: "Recipe", given: "Given") -> dict[str, object]:
    """Make and measure the forms, print the table unless JSON is asked for, and give the results as JSON values."""
    from dataclasses import asdict

    from kivnun.cli.olive_words import Said
    from kivnun.cli.shipped import print_forms
    from kivnun.optimization.certificate import read_certificate
    from kivnun.optimization.choice import pareto_front
    from kivnun.runs import open_run
    from kivnun.shipping import optimize_run

    try:
        with open_run(folder) as opened, Said(given) as said:
            results = optimize_run(opened, recipe, show=said.show)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        tell("interrupted; what was shipped before is still there")
        raise
    certificate = read_certificate(folder / "optimized")
    measured = [row for row in certificate.rows if row.target != "tuned" and row.name not in ("tuned", "merged")]
    front = pareto_front(measured)
    if not given.is_true("json"):
        print_forms(certificate.rows, front=front, shipped=certificate.shipped)
        typer.echo(f"shipped: {folder / 'optimized' / certificate.shipped} ({certificate.verdict})")
        typer.echo(f"report: {results.report}")
    sys.stdout.flush()
    rows = [asdict(row) for row in certificate.rows]
    shipped = {"shipped": str(folder / "optimized" / certificate.shipped), "verdict": certificate.verdict}
    return {"run": str(folder), **shipped, "front": list(front), "rows": rows}
