"""Numbers and verdicts in words, the same in the report and on the command line."""

import math

from kivnun.evaluation.results import Estimate, PairedComparison, Verdict

NBSP = "\u00a0"
MINUS = "\u2212"
SECONDS_PER_MINUTE = 60
LARGE_PERPLEXITY = 1000
SHARES = frozenset(
    {
        "accuracy",
        "exact_match",
        "recall_at_1",
        "preference_accuracy",
        "reward_accuracy",
        "normalised_match",
        "fields_right",
        "json_valid",
        "schema_valid",
        "syntax_valid",
        "pass_at_1",
        "in_label_set",
    }
)
LOWER_IS_BETTER = frozenset({"perplexity", "bits_per_byte"})
"""Metrics that have no upper end; every other one is from 0 to 1."""
METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "exact_match": "exact match",
    "recall_at_1": "recall at 1",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "preference_accuracy": "preference accuracy",
    "reward_accuracy": "reward accuracy",
    "normalised_match": "exact match (normalised)",
    "token_f1": "token F1",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "rouge_lsum": "ROUGE-Lsum",
    "bleu": "BLEU",
    "chrf": "chrF",
    "sentence_bleu": "sentence BLEU",
    "sentence_chrf": "sentence chrF",
    "field_f1": "field F1",
    "field_f1_micro": "field F1 (micro)",
    "field_f1_macro": "field F1 (macro)",
    "fields_right": "all fields right",
    "field_overlap": "field F1 (partial)",
    "json_valid": "valid JSON",
    "schema_valid": "keeps the schema",
    "syntax_valid": "valid syntax",
    "pass_at_1": "pass@1",
    "in_label_set": "a label at all",
}
VERDICT_WORDS: dict[Verdict, str] = {"better": "Better", "worse": "Worse", "unclear": "No difference shown"}


def say_metric_name(metric: str) -> str:
    """The name of a metric for people."""
    return METRIC_NAMES.get(metric, metric)


def say_metric(metric: str, value: float) -> str:
    """A metric's value: shares in percent, others with three decimals, perplexity with two while that is readable."""
    if metric in SHARES:
        return say_percent(value)
    if metric != "perplexity":
        return f"{value:.3f}"
    return f"{value:,.2f}" if value < LARGE_PERPLEXITY else f"{value:,.0f}"


def say_interval(metric: str, estimate: Estimate) -> str:
    """The 95 % interval of a metric."""
    return f"{say_metric(metric, estimate.low)} to {say_metric(metric, estimate.high)}"


def say_percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{100 * share:.1f}{NBSP}%"


def say_points(difference: float) -> str:
    """A difference of two shares in signed percentage points."""
    points = round(100 * difference, 1)
    sign = "+" if points > 0 else MINUS if points < 0 else ""
    return f"{sign}{abs(points):.1f}"


def say_p_value(p_value: float) -> str:
    """A p value with its relation sign."""
    if p_value < 0.001:
        return f"p{NBSP}<{NBSP}0.001"
    return f"p{NBSP}={NBSP}{p_value:.3f}" if p_value < 0.1 else f"p{NBSP}={NBSP}{p_value:.2f}"


def say_duration(seconds: float) -> str:
    """A duration in the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    minutes, rest = divmod(whole, SECONDS_PER_MINUTE)
    if minutes == 0:
        return f"{rest}{NBSP}s"
    hours, minutes = divmod(minutes, SECONDS_PER_MINUTE)
    return f"{hours}{NBSP}h {minutes}{NBSP}min" if hours else f"{minutes}{NBSP}min {rest}{NBSP}s"


def say_size(size_bytes: int) -> str:
    """A file size in decimal units."""
    if size_bytes < 1000:
        return f"{size_bytes}{NBSP}B"
    exponent = min(int(math.log10(size_bytes)) // 3, 4)
    return f"{size_bytes / 1000**exponent:.1f}{NBSP}{('kB', 'MB', 'GB', 'TB')[exponent - 1]}"


def say_rows(num_rows: int) -> str:
    """A number of rows with its noun."""
    return f"{num_rows:,}{NBSP}row" if num_rows == 1 else f"{num_rows:,}{NBSP}rows"


def say_verdict(comparison: PairedComparison, *, metric: str) -> str:
    """One sentence: which is better, by how much, and how sure that is."""
    candidate, baseline = comparison.candidate, comparison.baseline
    opening = {
        "better": f"The {candidate} model is better than {_the(baseline)}",
        "worse": f"The {candidate} model is worse than {_the(baseline)}",
        "unclear": f"No difference between the {candidate} model and {_the(baseline)} is shown",
    }[comparison.verdict]
    difference = comparison.difference
    return (
        f"{opening}: {say_metric_name(metric)} {say_metric(metric, comparison.candidate_share)} against "
        f"{say_metric(metric, comparison.baseline_share)} on {say_rows(comparison.num_rows)} "
        f"of the test split, a difference of {say_points(difference.value)}{NBSP}points (95{NBSP}% interval "
        f"{say_points(difference.low)} to {say_points(difference.high)}; {say_test(comparison)})."
    )


def say_test(comparison: PairedComparison) -> str:
    """The test of a comparison and its p value."""
    name = "exact McNemar" if comparison.test == "mcnemar" else "sign flips"
    return f"{name} {say_p_value(comparison.p_value)}"


def say_perplexity_ratio(ratio: Estimate) -> str:
    """One sentence on the perplexity of tuned against base."""
    opening = (
        "Tuning lowered the perplexity of the right answers"
        if ratio.high < 1
        else "Tuning raised the perplexity of the right answers"
        if ratio.low > 1
        else "No change of the perplexity of the right answers is shown"
    )
    # Three significant digits below 0.1: "0.000 times" would say nothing.
    value, low, high = (
        f"{each:.3f}" if each >= 0.1 else f"{each:.3g}" for each in (ratio.value, ratio.low, ratio.high)
    )
    return f"{opening}: {value} times that of the base model (95{NBSP}% interval {low} to {high})."


def _the(name: str) -> str:
    return f"the {name} model" if name in {"base", "tuned"} else f"the yardstick {name}"
