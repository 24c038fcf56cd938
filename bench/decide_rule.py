"""How often the rule of `kivnun decide` picks wrongly, pays for nothing, or says that it cannot tell.

Five arms of different cost answer the same simulated rows; what is hard for one is hard for the others, as real rows
are. The rule that ships is compared with taking the best mean, which is what a leaderboard does.

    python bench/decide_rule.py --runs 1500
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from kivnun.decide.results import Arm, Cost
from kivnun.decide.verdict import decide_between
from kivnun.recipe.decide import DecideSection

COSTS: Mapping[str, float] = {"prompt": 1.0, "few_shot": 2.0, "rag": 3.0, "tuned": 5.0, "rag_tuned": 6.0}
SHARED = 0.85
"""Correlation of two arms on the same row; about a fifth to a fourth of the rows are then right for one arm alone."""
SIZES = (50, 100, 200, 400)
SCENARIOS: Mapping[str, tuple[float, ...]] = {
    "five equal arms": (0.70, 0.70, 0.70, 0.70, 0.70),
    "rag better by 10 points": (0.70, 0.70, 0.80, 0.70, 0.80),
    "tuned better by 20 points": (0.60, 0.62, 0.62, 0.80, 0.80),
    "each step better by 3 points": (0.64, 0.67, 0.70, 0.73, 0.76),
    "all good, dearest by 6 points": (0.88, 0.88, 0.88, 0.88, 0.94),
}


@dataclass(frozen=True)
class Outcome:
    """What the rules did in one scenario with one number of rows.

    Attributes:
        scenario: Its name.
        num_rows: Test rows.
        cost: Mean cost of the chosen arm.
        wrong: Share of choices more than 5 points worse than the best arm.
        wrong_unflagged: Share of those that were not called undecided either.
        undecided: Share that was called undecided.
        best_mean_cost: Mean cost of the arm with the best mean.
        best_mean_wrong: Share of those more than 5 points worse than the best arm.
    """

    scenario: str
    num_rows: int
    cost: float
    wrong: float
    wrong_unflagged: float
    undecided: float
    best_mean_cost: float
    best_mean_wrong: float


def simulate(scenario: str, num_rows: int, runs: int, seed: int = 0) -> Outcome:
    """Decide on simulated rows again and again.

    Args:
        scenario: One of `SCENARIOS`.
        num_rows: Test rows.
        runs: How often.
        seed: Of the rows.
    """
    shares = dict(zip(COSTS, SCENARIOS[scenario], strict=True))
    best = max(shares.values())
    generator = np.random.default_rng([seed, num_rows, list(SCENARIOS).index(scenario)])
    picks: list[tuple[str, bool, str]] = []
    for _ in range(runs):
        scores = draw_scores(shares, num_rows, generator)
        decision = decide_between(make_arms(scores), DecideSection())
        picks.append(
            (decision.chosen, decision.is_decided, max(scores, key=lambda name: statistics.fmean(scores[name])))
        )
    bad = [best - shares[chosen] > 0.05 for chosen, _, _ in picks]
    return Outcome(
        scenario=scenario,
        num_rows=num_rows,
        cost=statistics.fmean(COSTS[chosen] for chosen, _, _ in picks),
        wrong=statistics.fmean(bad),
        wrong_unflagged=statistics.fmean(is_bad and pick[1] for is_bad, pick in zip(bad, picks, strict=True)),
        undecided=statistics.fmean(not decided for _, decided, _ in picks),
        best_mean_cost=statistics.fmean(COSTS[best_mean] for _, _, best_mean in picks),
        best_mean_wrong=statistics.fmean(best - shares[best_mean] > 0.05 for _, _, best_mean in picks),
    )


def draw_scores(
    shares: Mapping[str, float], num_rows: int, generator: np.random.Generator
) -> dict[str, tuple[float, ...]]:
    """Right or wrong for each arm on the same rows, with the given expected shares."""
    hardness = generator.standard_normal(num_rows)
    scores: dict[str, tuple[float, ...]] = {}
    for name, share in shares.items():
        own = generator.standard_normal(num_rows)
        latent = np.sqrt(SHARED) * hardness + np.sqrt(1 - SHARED) * own
        scores[name] = tuple((latent < NormalDist().inv_cdf(share)).astype(float).tolist())
    return scores


def make_arms(scores: Mapping[str, Sequence[float]]) -> list[Arm]:
    """The arms as `kivnun decide` measures them, with their costs as dollars."""
    costs = {name: Cost(100, 100, 10, dollars_per_1000=dollars) for name, dollars in COSTS.items()}
    return [
        Arm(name, name, "simulated", "measured", scores=tuple(each), cost=costs[name]) for name, each in scores.items()
    ]


def main() -> None:
    """Simulate every scenario, and print a table and one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'scenario':32} {'rows':>5} {'cost':>5} {'wrong':>7} {'silent':>7} {'undec.':>7} | best mean: cost, wrong")
    for scenario in SCENARIOS:
        for num_rows in SIZES:
            found = simulate(scenario, num_rows, options.runs, options.seed)
            print(
                f"{scenario:32} {num_rows:5} {found.cost:5.2f} {found.wrong:7.1%} {found.wrong_unflagged:7.1%} "
                f"{found.undecided:7.1%} | {found.best_mean_cost:.2f} {found.best_mean_wrong:.1%}"
            )
            print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
