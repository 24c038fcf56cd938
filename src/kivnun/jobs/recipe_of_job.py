"""The recipe of a job: what the hosted service's few numbers mean in the words of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from kivnun.jobs.continued import make_base
from kivnun.jobs.tuned_base import MERGED_NAME, is_tuned
from kivnun.jobs.validation import RAW_ANSWER, RAW_PROMPT, Validated
from kivnun.models.load import model_config_value
from kivnun.models.resolve import resolve_model
from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.schema import Recipe
from kivnun.runs.atomic import write_atomic

RECIPE_NAME = "recipe.yaml"
KEPT_EPOCHS = 3
# Short, so that a job whose worker is killed every few seconds still gets on; the time that saving takes has a bound of
# its own, see `kivnun.training.saving_pace`.
SAVE_EVERY_SECONDS = 0.5
RATE_OF_WIDTH_2000, WIDTH, WIDTH_POWER = 5e-4, 2000, 0.781
DPO_RATE_SHARE = 0.1
# Below the one nothing changes in any number format, above the other nothing stays finite.
LEAST_RATE, MOST_RATE = 1e-30, 1e30
DEFAULT_RANK = 16


class JobRow(Protocol):
    """What a recipe takes from the row of a job; see `kivnun.database.tables.FineTuningJob`."""

    id: str
    base_model: str
    seed: int
    asked: dict[str, object]
    integrations: list[object]


def write_recipe(job: JobRow, folder: Path, validated: Validated, hyperparameters: Mapping[str, int | float]) -> Path:
    """Write `recipe.yaml` into a job's folder; its paths start there, so that the data folder can be moved.

    Args:
        job: The job.
        folder: Its folder, where its files lie already.
        validated: What is known of these.
        hyperparameters: All of them as numbers.

    Returns:
        The recipe's path.
    """
    recipe = Recipe.model_validate(
        {
            "name": job.id,
            "base_model": MERGED_NAME if is_tuned(job.base_model) else job.base_model,
            "data": _describe_data(validated),
            "method": _describe_method(job.asked),
            "training": _describe_training(job, folder, hyperparameters),
        }
    )
    path = folder / RECIPE_NAME
    write_atomic(path, dump_recipe(recipe, with_defaults=False))
    return path


def base_learning_rate(method: str, hidden_size: int) -> float:
    """The learning rate that a multiplier of 1 stands for.

    Low-rank adapters want a rate that falls with the model's width: 5e-4 at a width of 2,000, to the power -0.781. DPO
    wants a tenth of it.

    Args:
        method: supervised or dpo.
        hidden_size: Width of the model's residual stream.

    Reference: Schulman et al. 2025, LoRA Without Regret (Thinking Machines Lab), the rule fitted for Llama models; the
        tenth for DPO is this project's choice.
    """
    rate = RATE_OF_WIDTH_2000 * (WIDTH / hidden_size) ** WIDTH_POWER
    return float(f"{rate * (DPO_RATE_SHARE if method == 'dpo' else 1.0):.3g}")


def tracker_environment(integrations: Sequence[object], job_id: str) -> dict[str, str]:
    """What the run's process must find in its environment for the job's integrations: Weights & Biases' own variables.

    Args:
        integrations: The job's, as they were asked for.
        job_id: The name of the run at the tracker, where the client gave none.
    """
    names = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "entity": "WANDB_ENTITY"}
    variables: dict[str, str] = {}
    for each in cast("Sequence[Mapping[str, Mapping[str, object]]]", integrations):
        settings = {"name": job_id, **(each.get("wandb") or {})}
        variables |= {variable: str(settings[name]) for name, variable in names.items() if settings.get(name)}
        tags = cast("Sequence[str]", settings.get("tags") or ())
        variables |= {"WANDB_TAGS": ",".join(tags)} if tags else {}
    return variables


def _describe_data(validated: Validated) -> dict[str, object]:
    shape: dict[str, object] = {"format": validated.formats["train"]}
    if validated.is_raw:
        shape = {"prompt_template": RAW_PROMPT, "answer_template": RAW_ANSWER}
    return {
        "train": "training.jsonl",
        **({"validation": "validation.jsonl"} if validated.num_validation_rows else {}),
        **shape,
        "split": {"validation": 0, "test": 0},
        "max_seq_len": validated.max_seq_len,
        "on_too_long": "drop",
        "ignore_checks": list(validated.accepted),
    }


def _describe_method(asked: Mapping[str, object]) -> dict[str, object]:
    rank = int(cast("int", asked.get("rank") or DEFAULT_RANK))
    return {"kind": "lora", "rank": rank, "alpha": 2 * rank}


def _describe_training(job: JobRow, folder: Path, hyperparameters: Mapping[str, int | float]) -> dict[str, object]:
    method = str(job.asked["type"])
    base_folder = resolve_model(make_base(job.base_model, folder)).folder
    width = model_config_value(base_folder, "hidden_size")
    base = base_learning_rate(method, width if isinstance(width, int) else WIDTH)
    epochs, batch_size = hyperparameters["n_epochs"], int(hyperparameters["batch_size"])
    objective = {"kind": "dpo", "beta": float(hyperparameters["beta"])} if method == "dpo" else {"kind": "supervised"}
    return {
        "objective": objective,
        "epochs": float(epochs),
        "batch_size": batch_size,
        "learning_rate": _multiply(base, hyperparameters["learning_rate_multiplier"]),
        "seed": job.seed,
        "save_every_seconds": SAVE_EVERY_SECONDS,
        "keep_epochs": KEPT_EPOCHS,
        "token_accuracy": method != "dpo",
        "report_to": sorted({str(each["type"]) for each in cast("Sequence[Mapping[str, object]]", job.integrations)}),
    }


def _multiply(rate: float, multiplier: float) -> float:
    """Their product, kept within what a recipe takes: any multiplier above 0 is allowed, however senseless."""
    return min(max(float(f"{rate * multiplier:.6g}"), LEAST_RATE), MOST_RATE)
