"""`kivnun decide`: prompt, examples, retrieval or tuning, measured on the same rows; which one is worth its cost?"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.decide.results import Strategies
    from kivnun.recipe.load import LoadedRecipe


def decide(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where it goes; default: runs/ and the recipe's name with -decide.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe and rows, say which arms would be measured.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON on standard output.")] = False,
) -> None:
    """Measure prompt, examples, retrieval and tuning on the same test rows, and say which one to take.

    The same words go on after an interruption. Ends with status 2 where no measured way keeps the recipe's limits.
    """
    from kivnun.cli.decide_table import print_strategies
    from kivnun.cli.output import to_json
    from kivnun.decide.compare import plan_strategies
    from kivnun.decide.report import write_strategies
    from kivnun.recipe.load import load_recipe, require_data_files
    from kivnun.runs import default_run_dir

    loaded = load_recipe(recipe, overrides or [])
    require_data_files(loaded)
    default = default_run_dir(recipe)
    folder = out or default.with_name(f"{default.name}-decide")
    plan = plan_strategies(loaded, folder)
    if dry_run:
        sys.stdout.write(to_json(plan.to_json()) if as_json else _visible(plan.lines))
        return
    tell("\n".join(plan.lines))
    strategies = _run(loaded, folder)
    files = write_strategies(strategies, folder)
    if as_json:
        sys.stdout.write(to_json(strategies.to_json()))
    else:
        print_strategies(strategies)
        sys.stdout.write(_visible([f"page: {files[0]}", f"figures: {files[1]}"]))
    _require_a_choice(strategies)


def _run(loaded: "LoadedRecipe", folder: Path) -> "Strategies":
    from kivnun.decide.compare import compare_strategies

    try:
        with DecideProgress() as progress:
            return compare_strategies(loaded, folder, log=progress.show)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        tell(f"interrupted; the same command goes on from here ({folder}), and what was answered is not asked again")
        raise


def _require_a_choice(strategies: "Strategies") -> None:
    from kivnun.errors import UserError

    if not strategies.decision.chosen:
        raise UserError(
            "limits-unmet",
            strategies.decision.sentence.rstrip("."),
            hint="set other limits in `decide`, or add arms; what was measured is kept and is not measured again",
        )


def _visible(lines: "tuple[str, ...] | list[str]") -> str:
    from kivnun.data.visible import make_visible

    return "".join(f"{make_visible(line)}\n" for line in lines)


class DecideProgress:
    """Says on standard error which arm is measured, how far it is, and how much time is left."""

    def __init__(self) -> None:
        from kivnun.cli.asking_progress import AskingProgress
        from kivnun.cli.progress import Progress

        self._asking, self._training = AskingProgress(sys.stderr), Progress(sys.stderr)
        self._arm = ""

    def __enter__(self) -> Self:
        """The display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._asking.__exit__(kind, error, trace)
        self._training.__exit__(kind, error, trace)

    def show(self, event: str, fields: Mapping[str, Any]) -> None:
        """Show one event."""
        if event == "asked":
            name = f"{fields['model']} ({self._arm})" if self._arm else str(fields["model"])
            self._asking.show(name, int(fields["done"]), int(fields["num_requests"]))
        elif event in SAYERS:
            if event == "arm_started":
                self.__exit__(None, None, None)
                self._arm = str(fields["arm"])
            tell(SAYERS[event](fields))
        else:
            self._training.show(event, fields)


def _say_finished(fields: Mapping[str, Any]) -> str:
    score = "" if fields.get("score") is None else f" {100 * fields['score']:.1f} %"
    reason = f": {fields['reason']}" if fields.get("reason") else ""
    return f"  {fields['state']}{score}{reason}"


def _say_started(fields: Mapping[str, Any]) -> str:
    return f"[{fields['arm']}] {fields['number']} of {fields['num_arms']}"


SAYERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "frozen": "{num_test_rows} test rows are frozen; {num_pilot_rows} validation rows try the arms first".format_map,
    "arm_started": _say_started,
    "arm_finished": _say_finished,
    "arm_kept": "  measured earlier".format_map,
    "training": "  training {arm} ...".format_map,
    "forgetting": "  other texts: {arm} {before:.3f} to {after:.3f} bits per byte".format_map,
    "retrying": "  {model}: {problem}; again in {seconds:g} s".format_map,
}
"""Events of a comparison in words."""
