"""A whole comparison in plain values, as the engine hands it to the verdict, the terminal and the page."""

import random
from collections.abc import Sequence
from dataclasses import replace

from kivnun.decide.results import (
    Arm,
    Cost,
    CurvePoint,
    Flip,
    Forgetting,
    Freshness,
    Gaps,
    Latency,
    Strategies,
)
from kivnun.decide.verdict import decide_between, gain_over
from kivnun.evaluation.intervals import share
from kivnun.evaluation.results import Estimate
from kivnun.recipe.decide import DecideSection

NUM_ROWS = 200


def estimate(scores: Sequence[float]) -> Estimate:
    """The mean of scores of 0 and 1."""
    return share(round(sum(scores)), len(scores))


def arm_of(name: str, scores: Sequence[float], dollars: float | None, **more: object) -> Arm:
    """A measured arm that costs so much per 1,000 requests."""
    cost = Cost(420.0, 611.0, 18.0, dollars_per_1000=dollars, seconds_per_1000=None if ":" in name else 260.0)
    strategy = name.partition(":")[0]
    values = {"metrics": {"token_f1": estimate(scores)}, "scores": tuple(scores), "cost": cost, **more}
    return Arm(name, strategy, "bundled", "measured", **values)  # type: ignore[arg-type]


def flipped(scores: Sequence[float], share_won: float, share_lost: float, seed: int) -> list[float]:
    """Scores that win some of the lost rows, and lose some of the won ones."""
    chance = random.Random(seed)  # noqa: S311 - planted rows
    return [1.0 if chance.random() < share_won else 0.0 if chance.random() < share_lost else each for each in scores]


def plant(num_rows: int = NUM_ROWS, settings: DecideSection | None = None) -> Strategies:
    """A comparison in which passages help, examples do not, and one arm was pruned and one not run."""
    chance = random.Random(3)  # noqa: S311 - planted rows
    prompt = [float(chance.random() < 0.4) for _ in range(num_rows)]
    rag = flipped(prompt, 0.5, 0.05, 1)
    arms = [
        arm_of("prompt", prompt, 0.031, latency=Latency(118.0, 171.0, 21.0, 20, 0.7)),
        arm_of("few_shot", flipped(prompt, 0.05, 0.05, 2), 0.052, settings={"num_shots": 4}, truncated=3),
        arm_of(
            "rag",
            rag,
            0.074,
            settings={"k": 3, "dense_weight": 0.3},
            latency=Latency(240.0, 402.0, 60.0, 20, 0.7),
            retrieval={"recall_at_3": 0.91, "mrr": 0.8, "ndcg_at_3": 0.84, "answerable_at_3": 0.93},
            citations=0.88,
            freshness=Freshness(5, 1.0, 0.0, 2.1, "5 documents were changed in a copy of the index"),
        ),
        arm_of(
            "tuned",
            flipped(prompt, 0.15, 0.05, 4),
            0.03,
            seed_scores=(0.46, 0.47),
            freshness=Freshness(5, 0.0, 0.8, None, "only training again brings the new text"),
        ),
        arm_of("rag:claude", flipped(rag, 0.2, 0.02, 5), 1.92, latency=Latency(1_900.0, 3_200.0, 700.0, 20, 0.7)),
        Arm("rag_tuned", "rag_tuned", "bundled", "pruned", "its gain on the pilot rows is at most 1.2 points",
            pilot=Estimate(0.61, 0.47, 0.73, "wilson")),
        Arm("few_shot_nearest", "few_shot_nearest", "bundled", "not run", "not asked for in decide.arms"),
        replace(arm_of("closed_book", prompt, None), cost=None),
        replace(arm_of("oracle", flipped(prompt, 0.8, 0.0, 6), None), cost=None),
    ]  # fmt: skip
    trained = Cost(96.0, 120.0, 18.0, 0.0, 0.03, 250.0, 22.0, 0.37, 8_410, "from 8,410 requests on cheaper than rag")
    arms[3] = replace(arms[3], cost=trained)
    gains = [gain_over(arm.scores, prompt) for arm in arms if arm.scores]
    measured = iter(gains)
    arms = [
        replace(arm, difference=Estimate(gain.value, gain.low, gain.high, "paired"), p_value=0.012)
        if arm.scores and (gain := next(measured)) and arm.name not in ("prompt", "closed_book", "oracle")
        else arm
        for arm in arms
    ]
    settings = settings or DecideSection()
    return Strategies(
        title="חוזים ותשובות",
        created="2026-11-21 22:40",
        metric="token_f1",
        num_rows=num_rows,
        frozen="3f9ac1d2e4b5968778695a4b3c2d1e0f",
        looks=2,
        arms=tuple(arms),
        gaps=Gaps(0.41, 0.11, 0.2),
        curve=(
            CurvePoint(0.25, 120, Estimate(0.41, 0.33, 0.49, "wilson"), "validation"),
            CurvePoint(0.5, 240, Estimate(0.45, 0.37, 0.53, "wilson"), "validation"),
            CurvePoint(1.0, 480, Estimate(0.47, 0.4, 0.54, "wilson"), "test"),
        ),
        forgetting=(Forgetting("tuned", 1.021, 1.187, 40, "news, code and dialogue that are shipped"),),
        decision=decide_between(arms, settings, metric="token F1"),
        flips=(
            Flip(
                "test.jsonl:17",
                "מתי נגמר החוזה עם <b>נתיב</b>?",
                "31 בדצמבר 2027",
                {"prompt": "איני יודע", "rag": "31 בדצמבר 2027", "tuned": "31 בדצמבר 2024"},
                {"prompt": 0.0, "rag": 1.0, "tuned": 0.67},
                ("contracts/נתיב.docx:1204-1390",),
            ),
            Flip(
                "test.jsonl:40",
                "Who signs?",
                "the board",
                {"prompt": "", "rag": "the board"},
                {"prompt": 0.0, "rag": 1.0},
            ),
        ),
        power="200 rows show a difference of about 9 points in four of five cases.",
        notes=(
            "price of claude-haiku-4-5: list price of 2026-10-24 from https://platform.claude.com/docs/en/about-claude/pricing",
            "this machine has no price (decide.machine_dollars_per_hour), so that what runs here is stated in seconds",
            "load of this machine while latency was measured: 0.7 of 2 cores",
        ),
    )
