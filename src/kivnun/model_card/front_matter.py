"""The YAML at the head of a card, which the hub reads: what the model is, what it was made from, how good it is."""

from collections.abc import Mapping
from typing import Literal

from huggingface_hub import EvalResult, ModelCardData

from kivnun.evaluation.results import TUNED
from kivnun.generation.agreement import ParityRow
from kivnun.model_card.facts import UNKNOWN_LICENSE, CardFacts

FormKind = Literal["adapter", "model", "merged", "onnx", "gguf"]
"""What a folder holds: an adapter, a whole model as it was trained, one with its adapter merged in, ONNX, or GGUF."""

_LIBRARIES: Mapping[FormKind, str] = {
    "adapter": "peft",
    "model": "transformers",
    "merged": "transformers",
    "onnx": "onnxruntime-genai",
    "gguf": "gguf",
}
_PIPELINES = {"classification": "text-classification", "contrastive": "sentence-similarity"}


def write_front_matter(facts: CardFacts, kind: FormKind, row: ParityRow | None) -> str:
    """The YAML, without the lines around it.

    Args:
        facts: What is known of the run.
        kind: What the folder holds.
        row: The form's line of the parity table; None for what was trained itself.
    """
    objective = facts.recipe.training.objective.kind
    tags = ["kivnun", facts.recipe.method.kind, objective, *([row.precision] if row else [])]
    # The hub's own class leaves out what is None.
    return ModelCardData(
        model_name=facts.name,
        base_model=facts.base.hub_id,
        base_model_relation=_relate(facts, kind, row),
        library_name=_LIBRARIES[kind],
        license=facts.base.license,
        license_name="unknown" if facts.base.license == UNKNOWN_LICENSE else None,
        language=list(facts.languages) or None,
        tags=list(dict.fromkeys(tags)),
        pipeline_tag=_PIPELINES.get(objective, "text-generation"),
        datasets=list(facts.datasets) or None,
        eval_results=_list_results(facts, row) or None,
    ).to_yaml()


def _relate(facts: CardFacts, kind: FormKind, row: ParityRow | None) -> str | None:
    if facts.base.hub_id is None:
        return None
    if kind == "adapter":
        return "adapter"
    is_rounded = row is not None and row.precision in ("int4", "int8", "q8_0", "q4_0")
    return "quantized" if is_rounded else "finetune"


def _list_results(facts: CardFacts, row: ParityRow | None) -> list[EvalResult]:
    """The tuned model's metrics; of a form with rounded weights only the score that it reached itself, if any."""
    evaluation, settings = facts.results.evaluation, facts.recipe.evaluation
    if evaluation is None or settings is None:
        return []
    tuned = next(scores for scores in evaluation.scores if scores.name == TUNED)
    measured, num_rows = [(name, estimate.value) for name, estimate in tuned.metrics.items()], tuned.num_rows
    # Equal answers to the golden prompts, which may be fewer, say nothing of the other rows.
    if row is not None and row.precision not in ("fp32", "f32"):
        measured, num_rows = [(measured[0][0], row.score)] if row.score is not None else [], row.num_prompts
    task = "text-classification" if settings.task == "classification" else "text-generation"
    return [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=f"test split of {facts.name}, {num_rows} rows",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in measured
    ]
