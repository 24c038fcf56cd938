"""`search_space` and `search_strategy`: a `search` section, for `kivnun search`."""

from typing import Final

from kivnun.olive.groups import Rule, field, never, only, open_group
from kivnun.olive.meanings import refused
from kivnun.olive.translation import Draft, Meaning

SAMPLERS: Final = {"random": "random", "tpe": "tpe"}
"""Samplers of Olive that Kivnun has."""


def take_search(draft: Draft, space: object, strategy_key: str, strategy: object) -> None:
    """Take the ranges, and how they are searched."""
    if not isinstance(space, dict) or not space:
        draft.refuse("search_space", "should name ranges, such as learning_rate: {type: float, low: 1e-6, high: 1e-3}")
        return
    draft.add("search_space", space, Meaning("renamed", {"search.space": space}, "`kivnun search` runs it"))
    if strategy in (None, False):
        return
    group = open_group(draft, strategy_key, strategy)
    if group is not None:
        group.take(STRATEGY_RULES, "search_strategy")


def _sampler(value: object) -> Meaning:
    if str(value) not in SAMPLERS:
        return refused(f"{value!r} is no sampler of Kivnun's; write random or tpe")
    return Meaning("renamed", {"search.sampler": value})


STRATEGY_RULES: Final[dict[str, Rule]] = {
    "type": _sampler,
    "sampler": _sampler,
    "num_trials": field("search.num_trials", name="num_trials"),
    "max_samples": field("search.num_trials"),
    "seed": field("search.seed", name="seed"),
    "execution_order": only(("joint",), "values are chosen together", "values are chosen together; write joint"),
    "output_model_num": never("the best trial is shown with all others; remove it"),
    "stop_when_goals_met": never("trials that do badly are stopped, by search.pruner; remove it"),
    "max_iter": never("write num_trials"),
    "max_time": never("write num_trials"),
    "include_pass_params": never("search_space names what is searched; remove it"),
}
