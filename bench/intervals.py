"""How often the 95 % intervals of an evaluation cover the truth: `python bench/intervals.py [--trials N]`.

Simulated are means of skewed scores, macro-F1, field F1 of all rows together, shares, and paired differences of both
kinds, on 50, 100 and 200 rows. The rate of false alarms of the paired tests stands beside them.
"""

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np

from kivnun.evaluation.corpus_metrics import corpus_metric
from kivnun.evaluation.intervals import mean_estimate
from kivnun.evaluation.paired import compare_scores
from kivnun.evaluation.results import Estimate

ROWS = (50, 100, 200)
OPTIONS = {"seed": 0, "resamples": 1000}
Generator = np.random.Generator
Draw = Callable[[Generator, int], tuple[Estimate, float]]


def token_f1_like(generator: Generator, num_rows: int, *, zeros: float = 0.55, ones: float = 0.25) -> np.ndarray:
    """Scores of which many are 0, some 1 and the others anywhere between."""
    kind, part = generator.random(num_rows), generator.random(num_rows)
    return np.where(kind < zeros, 0.0, np.where(kind < zeros + ones, 1.0, part))


def draw_mean(zeros: float, ones: float) -> Draw:
    """A mean of such scores, with its truth."""
    truth = ones + (1 - zeros - ones) / 2
    return lambda generator, num_rows: (
        mean_estimate(token_f1_like(generator, num_rows, zeros=zeros, ones=ones).tolist(), **OPTIONS),
        truth,
    )


def draw_high(generator: Generator, num_rows: int) -> tuple[Estimate, float]:
    """A mean of scores that crowd at the upper end, as ROUGE of a good system."""
    return mean_estimate(generator.beta(8, 1.2, num_rows).tolist(), **OPTIONS), 8 / 9.2


def draw_share(generator: Generator, num_rows: int) -> tuple[Estimate, float]:
    """An accuracy of 80 %."""
    return mean_estimate((generator.random(num_rows) < 0.8).astype(float).tolist(), **OPTIONS), 0.8


def draw_labels(generator: Generator, num_rows: int) -> tuple[list[str], list[list[str]]]:
    """Answers and references of three labels, seven answers in ten right and the others any label."""
    truth = generator.choice(3, size=num_rows, p=[0.5, 0.3, 0.2])
    given = np.where(generator.random(num_rows) < 0.7, truth, generator.integers(0, 3, num_rows))
    return [str(each) for each in given], [[str(each)] for each in truth]


def draw_macro_f1(generator: Generator, num_rows: int) -> tuple[Estimate, float]:
    """Macro-F1; the truth follows from the probabilities."""
    priors = np.asarray([0.5, 0.3, 0.2])
    right = priors * 0.8
    answered = 0.7 * priors + 0.1
    truth = float((2 * right / (priors + answered)).mean())
    return corpus_metric("macro_f1", *draw_labels(generator, num_rows), ("0", "1", "2"), **OPTIONS), truth


def draw_field_f1(generator: Generator, num_rows: int) -> tuple[Estimate, float]:
    """Micro F1 of two fields, of which each is left out, wrong or right."""
    answers: list[str] = []
    for kinds in generator.choice(3, size=(num_rows, 2), p=[0.2, 0.2, 0.6]):
        fields = {name: int(kind) for name, kind in zip("ab", kinds, strict=True) if kind}
        answers.append(json.dumps(fields))
    reference = [[json.dumps({"a": 2, "b": 2})]] * num_rows
    return corpus_metric("field_f1_micro", answers, reference, (), **OPTIONS), 2 * 0.6 / 1.8


def draw_paired(discordant: float, lead: float, *, graded: bool) -> Draw:
    """A paired difference: a share of the rows differs, more of them for the candidate."""
    wins = (discordant + lead) / 2

    def draw(generator: Generator, num_rows: int) -> tuple[Estimate, float]:
        kind = generator.random(num_rows)
        size = generator.random(num_rows) if graded else np.ones(num_rows)
        gain = np.where(kind < wins, size, np.where(kind < discordant, -size, 0.0))
        found = compare_scores(("a", "b"), np.maximum(-gain, 0), np.maximum(gain, 0), **OPTIONS)
        return found.difference, lead / 2 if graded else lead

    return draw


def false_alarms(generator: Generator, num_rows: int, *, graded: bool, trials: int) -> float:
    """How often a test says p < .05 where there is no difference."""
    hits = 0
    for _ in range(trials):
        kind = generator.random(num_rows)
        size = generator.random(num_rows) if graded else np.ones(num_rows)
        gain = np.where(kind < 0.1, size, np.where(kind < 0.2, -size, 0.0))
        hits += compare_scores(("a", "b"), np.maximum(-gain, 0), np.maximum(gain, 0), **OPTIONS).p_value < 0.05
    return hits / trials


CASES: dict[str, Draw] = {
    "share, 80 %": draw_share,
    "mean, token-F1-like (55 % zeros, 25 % ones)": draw_mean(0.55, 0.25),
    "mean, rare (85 % zeros, 7 % ones)": draw_mean(0.85, 0.07),
    "mean, high (beta 8, 1.2)": draw_high,
    "macro-F1, three labels": draw_macro_f1,
    "field F1 (micro)": draw_field_f1,
    "paired, 20 % discordant": draw_paired(0.2, 0.06, graded=False),
    "paired, 5 % discordant": draw_paired(0.05, 0.02, graded=False),
    "paired, graded, 25 % differ": draw_paired(0.25, 0.09, graded=True),
    "paired, graded, 60 % differ": draw_paired(0.6, 0.1, graded=True),
}


def main() -> None:
    """Print a table of coverage, in percent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    write = sys.stdout.write
    write(f"| {trials} trials, 95 % intervals | {' | '.join(f'n = {rows}' for rows in ROWS)} |\n|---|---|---|---|\n")
    for name, draw in CASES.items():
        generator = np.random.default_rng(11)
        shares = []
        for num_rows in ROWS:
            found = [draw(generator, num_rows) for _ in range(trials)]
            shares.append(np.mean([each.low <= truth <= each.high for each, truth in found]))
        write(f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |\n")
        sys.stdout.flush()
    for name, graded in (("false alarms, McNemar", False), ("false alarms, sign flips", True)):
        generator = np.random.default_rng(13)
        rates = [false_alarms(generator, num_rows, graded=graded, trials=trials // 2) for num_rows in ROWS]
        write(f"| {name} | {' | '.join(f'{100 * rate:.1f}' for rate in rates)} |\n")


if __name__ == "__main__":
    main()
