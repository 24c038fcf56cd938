"""The plots of a search as one HTML file that needs no network and no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kivnun.recipe.search import Choice
from kivnun.search.plan import SearchPlan, say_range
from kivnun.search.plots import Axis, Dot, category_axis, draw_dots, number_axis
from kivnun.search.trials import Trial

TEMPLATE = "search.html.jinja"


def render_page(
    plan: SearchPlan, trials: Sequence[Trial], importance: Mapping[str, float], facts: Sequence[str]
) -> str:
    """The whole page as HTML text; every value from outside is escaped.

    Args:
        plan: The search.
        trials: The trials by rank.
        importance: How much of the differences each field explains.
        facts: What is to be said of them, one sentence each.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["show"] = _show
    return environment.get_template(TEMPLATE).render(
        plan=plan,
        trials=trials,
        facts=facts,
        importance=sorted(importance.items(), key=lambda item: -item[1]),
        history=_draw_history(plan, trials),
        fields=[(path, say_range(span), _draw_field(plan, trials, path)) for path, span in plan.space.items()],
    )


def _draw_history(plan: SearchPlan, trials: Sequence[Trial]) -> Markup:
    """The value by trial, and the best so far."""
    measured = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.number)
    better = max if plan.higher_is_better else min
    best: list[tuple[float, float]] = []
    for trial in measured:
        if trial.value is not None and trial.state == "complete":
            best.append((trial.number, trial.value if not best else better(best[-1][1], trial.value)))
    axis = number_axis("trial", [0, *(trial.number for trial in measured)], whole=True)
    dots = [_dot(trial, trial.number) for trial in measured]
    return draw_dots(dots, axis, metric=f"validation {plan.metric}", best_so_far=best)


def _draw_field(plan: SearchPlan, trials: Sequence[Trial], path: str) -> Markup:
    """The value against one field."""
    span = plan.space[path]
    measured = [trial for trial in trials if trial.value is not None]
    if isinstance(span, Choice):
        axis: Axis = category_axis(path, [_show(each) for each in span.values])
        dots = [_dot(trial, span.values.index(trial.values[path])) for trial in measured]
    else:
        axis = number_axis(path, [span.low, span.high], log=span.log)
        dots = [_dot(trial, float(trial.values[path])) for trial in measured]
    return draw_dots(dots, axis, metric=f"validation {plan.metric}")


def _dot(trial: Trial, x: float) -> Dot:
    assert trial.value is not None  # noqa: S101 - only measured trials are drawn
    values = ", ".join(f"{path} {_show(value)}" for path, value in trial.values.items())
    return Dot(x, trial.value, trial.state, f"trial {trial.number}: {_show(trial.value)} with {values}")


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
