"""What a plan and the rows cannot teach or measure: refused, or said, before the first step."""

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.objectives import ContrastiveObjective
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import Plan
from kivnun.training.objectives import NEXT_TOKEN_KINDS


def check_plan(plan: Plan, rows: TokenTable, validation: TokenTable, settings: TrainingSection) -> list[str]:
    """Refuse a plan that teaches nothing or a metric of no row, and say what is of little use.

    Args:
        plan: Which rows each step trains on.
        rows: The training rows.
        validation: The rows of the validation split.
        settings: The recipe's `training` section.

    Raises:
        UserError: `nothing-to-learn` or `recipe-invalid`.
    """
    notes: list[str] = []
    if settings.token_accuracy and settings.objective.kind not in NEXT_TOKEN_KINDS:
        names = " and ".join(NEXT_TOKEN_KINDS)
        notes = [f"training.token_accuracy: {settings.objective.kind} does not measure it; {names} do"]
    return [*notes, *_check_contrastive(plan, rows, validation, settings)]


def _check_contrastive(plan: Plan, rows: TokenTable, validation: TokenTable, settings: TrainingSection) -> list[str]:
    objective = settings.objective
    if not isinstance(objective, ContrastiveObjective):
        return []
    if objective.loss == "margin":
        _require_alike_pairs(validation, settings)
        return []
    # A hard negative of its own is enough for a row.
    return _check_company(plan) if rows.documents_per_row == 2 else []


def _check_company(plan: Plan) -> list[str]:
    num_alone = sum(len(rows) == 1 for _, rows in plan.batches(0))
    if num_alone == plan.num_steps:
        raise UserError(
            "nothing-to-learn",
            "every step has one row alone, and the objective contrastive tells a row from the others of its step",
            hint="raise training.batch_tokens, set training.batch_size to 2 or more, or give more training rows",
        )
    if not num_alone:
        return []
    return [f"{num_alone} of {plan.num_steps} steps have one row alone and learn nothing: raise training.batch_tokens"]


def _require_alike_pairs(validation: TokenTable, settings: TrainingSection) -> None:
    labels = validation.labels
    if settings.best_metric == "recall_at_1" and labels is not None and len(labels) and (labels > 0.5).all():
        raise UserError(
            "recipe-invalid",
            "training.best_metric: recall_at_1 is asked of pairs that are alike, and the validation split has none",
            hint="set it to loss, or put pairs that are alike into the validation split",
        )
