"""Rules between the fields of `evaluation`, `retrieval` and `decide`."""

from typing import TYPE_CHECKING

from kivnun.recipe.rules import Problem
from kivnun.recipe.templates import template_fields

if TYPE_CHECKING:
    from kivnun.recipe.decide import DecideSection
    from kivnun.recipe.retrieval import RetrievalSection
    from kivnun.recipe.schema import EvaluationSection, Recipe


def check_evaluation(evaluation: "EvaluationSection") -> list[Problem]:
    """A classification has a label, a generation none."""
    if evaluation.task == "classification" and evaluation.label is None:
        return [Problem("label", "is missing; a classification needs the column of the label")]
    problems: list[Problem] = []
    if evaluation.task != "classification" and evaluation.label is not None:
        problems.append(Problem("label", f"`{evaluation.label}` has no effect on the task {evaluation.task}"))
    if evaluation.task in ("classification", "retrieval") and evaluation.references is not None:
        problems.append(Problem("references", f"`{evaluation.references}` has no effect on the task {evaluation.task}"))
    if evaluation.task != "code":
        if evaluation.tests is not None:
            problems.append(Problem("tests", f"`{evaluation.tests}` has no effect on the task {evaluation.task}"))
        if evaluation.run_code:
            problems.append(Problem("run_code", f"has no effect on the task {evaluation.task}"))
    elif (evaluation.tests is None) != (not evaluation.run_code):
        problems.append(Problem("run_code", "and tests belong together: tests are run only where run_code is true"))
    return problems


def check_retrieval(retrieval: "RetrievalSection") -> list[Problem]:
    """Templates must hold what they are for; settings must have an effect."""
    problems: list[Problem] = []
    passage, context = template_fields(retrieval.passage_template), template_fields(retrieval.context_template)
    unknown = [name for name in passage if name not in ("number", "text", "document", "heading")]
    if unknown:
        problems.append(Problem("passage_template", f"has unknown fields: {', '.join(unknown)}"))
    if "text" not in passage:
        problems.append(Problem("passage_template", "lacks {text}, the passage itself"))
    if sorted(set(context)) != ["passages", "prompt"]:
        problems.append(Problem("context_template", "needs the fields {passages} and {prompt}, and no other"))
    if retrieval.chunk_overlap_tokens >= retrieval.chunk_tokens:
        text = f"{retrieval.chunk_overlap_tokens} is not below chunk_tokens ({retrieval.chunk_tokens})"
        problems.append(Problem("chunk_overlap_tokens", text))
    if retrieval.min_score is not None and retrieval.min_score > 1:
        problems.append(Problem("min_score", f"{retrieval.min_score:g} is above 1, which no passage ever reaches"))
    if retrieval.embedder == "none" and retrieval.dense_weight != "auto":
        problems.append(Problem("dense_weight", f"{retrieval.dense_weight} has no effect without an embedder"))
    return problems


def check_decide(decide: "DecideSection") -> list[Problem]:
    """What is compared must be told apart, and settings must have an effect."""
    problems: list[Problem] = []
    for name in ("arms", "shots", "learning_curve"):
        values = list(getattr(decide, name))
        if len(set(values)) < len(values):
            problems.append(Problem(name, f"names something twice: {', '.join(map(str, values))}"))
    if decide.max_regret < decide.min_gain:
        problems.append(Problem("max_regret", f"{decide.max_regret} is below min_gain ({decide.min_gain})"))
    clashes = [name for name in decide.models if not name.replace("-", "").replace("_", "").replace(".", "").isalnum()]
    problems += [Problem(f"models.{name}", "names are letters, digits, `.`, `_` and `-`") for name in clashes]
    return problems


def _check_limits(recipe: "Recipe", decide: "DecideSection") -> list[Problem]:
    """Limits that no arm could keep, since what they limit is never measured."""
    problems: list[Problem] = []
    if decide.max_stale_minutes is not None and (recipe.retrieval is None or not decide.freshness_documents):
        text = "limits what is not measured: it needs a retrieval section and freshness_documents above 0"
        problems.append(Problem("decide.max_stale_minutes", text))
    models = [recipe.base_model, *decide.models.values()]
    is_here = not any(isinstance(model, str) and model.startswith(("openai:", "anthropic:")) for model in models)
    if is_here and decide.max_dollars_per_1000 is not None and decide.machine_dollars_per_hour is None:
        text = "limits what is not known: all models run here; give decide.machine_dollars_per_hour too"
        problems.append(Problem("decide.max_dollars_per_1000", text))
    if is_here and decide.budget_dollars is not None:
        text = "has no effect: all models run here, and none of them charges; decide.budget_minutes limits the time"
        problems.append(Problem("decide.budget_dollars", text))
    return problems


def check_strategies(recipe: "Recipe") -> list[Problem]:
    """A comparison needs a measure, and rows that are answered in text."""
    if recipe.decide is None:
        return []
    problems: list[Problem] = []
    if recipe.evaluation is None:
        problems.append(Problem("decide", "compares by a metric that nothing measures; add an evaluation section"))
    elif recipe.evaluation.task == "retrieval":
        problems.append(Problem("evaluation.task", "retrieval has no answers that strategies could be compared by"))
    if recipe.training.objective.kind != "supervised":
        text = f"{recipe.training.objective.kind} trains no model that answers; decide needs supervised"
        problems.append(Problem("training.objective.kind", text))
    problems += _check_limits(recipe, recipe.decide)
    if not isinstance(recipe.base_model, str):
        problems.append(Problem("base_model", "is a new model, which cannot be prompted; decide needs a trained one"))
    return problems
