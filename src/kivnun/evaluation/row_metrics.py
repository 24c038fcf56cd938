"""Metrics that one answer has, from 0 to 1 and better when higher; of several right answers the best one counts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sacrebleu.metrics.chrf import CHRF

from kivnun.evaluation.code_answers import syntax_valid
from kivnun.evaluation.corpus_metrics import make_bleu
from kivnun.evaluation.json_answers import field_f1, field_overlap, read_json
from kivnun.evaluation.metrics import first_line, normalize_text
from kivnun.evaluation.rouge import ROUGE_TYPES, rouge
from kivnun.evaluation.short_answers import normalised_match, token_f1

PairMetric = Callable[[str, str], float]
"""From an answer and one right answer."""

_BLEU, _CHRF = make_bleu(of_sentences=True), CHRF()


def _same_text(answer: str, reference: str) -> float:
    return float(normalize_text(answer) == normalize_text(reference))


def _same_label(answer: str, reference: str) -> float:
    return float(first_line(answer) == normalize_text(reference))


def _fields_right(answer: str, reference: str) -> float:
    # An F1 of 1 is that of equal counts alone, and floating point gives it exactly.
    return float(field_f1(answer, reference) == 1)


PAIR_METRICS: Mapping[str, PairMetric] = {
    "accuracy": _same_label,
    "exact_match": _same_text,
    "recall_at_1": _same_text,
    "normalised_match": normalised_match,
    "token_f1": token_f1,
    **{name: partial(rouge, name) for name in ROUGE_TYPES},
    "field_f1": field_f1,
    "fields_right": _fields_right,
    "field_overlap": field_overlap,
}
"""Metrics of an answer against one right answer."""


def _sentence_bleu(answer: str, references: Sequence[str]) -> float:
    return _BLEU.sentence_score(normalize_text(answer), list(map(normalize_text, references))).score / 100


def _sentence_chrf(answer: str, references: Sequence[str]) -> float:
    return _CHRF.sentence_score(normalize_text(answer), list(map(normalize_text, references))).score / 100


def _json_valid(answer: str, _references: Sequence[str]) -> float:
    return float(read_json(answer)[0])


def _syntax_valid(answer: str, _references: Sequence[str]) -> float:
    return syntax_valid(answer)


WHOLE_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "sentence_bleu": _sentence_bleu,
    "sentence_chrf": _sentence_chrf,
    "json_valid": _json_valid,
    "syntax_valid": _syntax_valid,
}
"""Metrics of an answer that see all right answers at once, or none."""

JSON_METRICS = frozenset({"field_f1", "fields_right", "field_overlap", "field_f1_micro", "field_f1_macro"})
"""Metrics whose right answers must be JSON."""


def row_metric(name: str, answer: str, references: Sequence[str]) -> float:
    """One metric of one answer.

    Args:
        name: A key of `PAIR_METRICS` or `WHOLE_METRICS`.
        answer: What was answered.
        references: What would be right; at least one.
    """
    if name in WHOLE_METRICS:
        return WHOLE_METRICS[name](answer, references)
    return max(PAIR_METRICS[name](answer, reference) for reference in references)
