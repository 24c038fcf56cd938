"""Optuna behind three questions: which values next, whether to stop early, and which fields mattered.

The study lives in memory and is rebuilt from the kept trials. The sampler of each trial is a new one, seeded by the
search's seed and the trial's number, so that its choice depends on the finished trials alone: a search that is killed
and goes on chooses what the undisturbed one would have chosen.
"""

import hashlib
import random
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from math import log10

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from kivnun.recipe.search import Choice, FloatRange, IntRange, SearchSection
from kivnun.search.plan import SearchPlan, Span, list_values
from kivnun.search.trials import Trial, Values

DIGITS = 4
FIRST_PERCENT = 10
"""Before a tenth of the steps the warm-up of the learning rate tells more than the values."""
RUNG_PERCENT, RUNG_FACTOR = 11, 3
MIN_FOR_IMPORTANCE = 6
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Advisor:
    """The study: draws values, hears how trials go, and says which to stop.

    Args:
        plan: The search.
    """

    def __init__(self, plan: SearchPlan) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._space = {path: _distribution(span) for path, span in plan.space.items()}
        direction = "maximize" if plan.higher_is_better else "minimize"
        self._study = optuna.create_study(direction=direction, pruner=make_pruner(plan.settings))
        self._running: dict[int, optuna.Trial] = {}

    def draw(self, number: int, used: Sequence[Values]) -> Trial:
        """Choose the values of the next trial: by the sampler, or the next combination where all are tried."""
        if self._plan.tries_all:
            free = [values for values in all_combinations(self._plan) if values not in used]
            trial = Trial(number, free[0], free[0])
            self._put(trial)
            return trial
        self._study.sampler = make_sampler(self._plan.settings, number)
        asked = self._ask(number)
        drawn = dict(asked.params)
        return Trial(number, drawn, {path: _round(value, self._plan.space[path]) for path, value in drawn.items()})

    def restore(self, trial: Trial) -> None:
        """Learn again what a trial of an earlier command was and what came of it."""
        self._put(trial)
        if trial.state != "running":
            self.finish(trial)

    def should_stop(self, number: int, percent: int, value: float) -> bool:
        """Take a validation value of a running trial and say whether the trial has fallen behind."""
        trial = self._running[number]
        trial.report(value, percent)
        return trial.should_prune()

    def finish(self, trial: Trial) -> None:
        """Take the end of a trial; its reports count once, whether they came one by one or now."""
        running = self._running.pop(trial.number)
        seen = self._study.get_trials(deepcopy=False)[running.number].intermediate_values
        for percent, value in trial.reports:
            if percent not in seen:
                running.report(value, percent)
                running.should_prune()
        values = trial.value if trial.state == "complete" else None
        self._study.tell(running, values, state=_STATES[trial.state])

    def importance(self) -> dict[str, float]:
        """How much of the differences between good and other trials each field explains, summing to 1.

        Reference: Watanabe et al. 2023, arXiv:2304.10255 (PED-ANOVA). Empty where there are too few trials to tell.
        """
        complete = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if len(complete) < MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _put(self, trial: Trial) -> None:
        self._study.enqueue_trial(dict(trial.drawn))
        self._study.sampler = RandomSampler(seed=0)  # not asked, as every value is given
        self._ask(trial.number)

    def _ask(self, number: int) -> optuna.Trial:
        asked = self._study.ask(self._space)
        self._running[number] = asked
        return asked


def make_sampler(settings: SearchSection, number: int) -> BaseSampler:
    """The sampler of one trial."""
    digest = hashlib.sha256(f"{settings.seed} {number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Optuna 4 calls the penalty of running trials experimental; 5 has it as the default.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, constant_liar=True)


def make_pruner(settings: SearchSection) -> BasePruner:
    """The pruner; it counts percents of the planned steps, so that trials of other lengths are compared fairly."""
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=settings.prune_after, n_warmup_steps=FIRST_PERCENT)
    if settings.pruner == "successive_halving":
        return SuccessiveHalvingPruner(min_resource=RUNG_PERCENT, reduction_factor=RUNG_FACTOR)
    return NopPruner()


def all_combinations(plan: SearchPlan) -> list[Values]:
    """Every combination of a space that can be counted, in an order that the seed decides."""
    spans = [list_values(span) for span in plan.space.values() if not isinstance(span, FloatRange)]
    combinations = [dict(zip(plan.space, values, strict=True)) for values in product(*spans)]
    random.Random(plan.settings.seed).shuffle(combinations)  # noqa: S311 - an order, not a secret
    return list[Values](combinations)


def _distribution(span: Span) -> BaseDistribution:
    if isinstance(span, Choice):
        return CategoricalDistribution(span.values)
    if isinstance(span, IntRange):
        return IntDistribution(span.low, span.high, log=span.log, step=span.step)
    return FloatDistribution(span.low, span.high, log=span.log)


def _round(value: bool | float | str, span: Span) -> bool | int | float | str:  # noqa: FBT001 - a value, not a switch
    """A float with as many digits as a person would write, inside its range."""
    if not isinstance(span, FloatRange) or isinstance(value, str):
        return value
    places = DIGITS - 1 - int(log10(abs(value)) // 1) if value else 0
    return min(max(round(float(value), places), span.low), span.high)


def say_importance(importance: Mapping[str, float]) -> str:
    """The shares in words, the largest first."""
    return ", ".join(f"{path} {share:.0%}" for path, share in sorted(importance.items(), key=lambda item: -item[1]))
