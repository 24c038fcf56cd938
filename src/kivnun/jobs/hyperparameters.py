"""Hyper-parameters as clients give them, "auto" among them, and the numbers that they become once the files were read.

`asked` is the column of a job: `{"type": "supervised", "hyperparameters": {"n_epochs": "auto", ...}}`. What is "auto"
stays so until the rows are counted; the numbers are then written into the job's own `hyperparameters` and shown.
"""

from collections.abc import Mapping
from typing import Final, Literal, cast

AUTO: Final = "auto"
MethodName = Literal["supervised", "dpo"]
METHODS: tuple[MethodName, ...] = ("supervised", "dpo")
_SHARED = ("n_epochs", "batch_size", "learning_rate_multiplier")
NAMES: Mapping[str, tuple[str, ...]] = {"supervised": _SHARED, "dpo": ("beta", *_SHARED)}

TARGET_EPOCHS, LEAST_EXAMPLES, MOST_EXAMPLES, MOST_EPOCHS = 3, 100, 25_000, 25
BATCH_SHARE, MOST_ROWS_IN_BATCH = 0.002, 256
DEFAULT_BETA = 0.1


def resolve(asked: Mapping[str, object], num_rows: int, num_tokens: int) -> dict[str, int | float]:
    """The numbers of a job's method: what was asked for, and for "auto" what suits the rows.

    Args:
        asked: The job's `asked`.
        num_rows: Training rows.
        num_tokens: Of these rows; no rule needs them yet, and the callers know them anyway.
    """
    del num_tokens
    given = cast("Mapping[str, int | float | str]", asked.get("hyperparameters") or {})
    chosen: dict[str, int | float] = {
        "n_epochs": choose_epochs(num_rows),
        "batch_size": choose_batch_size(num_rows),
        "learning_rate_multiplier": 1.0,
        "beta": DEFAULT_BETA,
    }
    numbers: dict[str, int | float] = {}
    for name in NAMES[str(asked["type"])]:
        value = given.get(name, AUTO)
        numbers[name] = chosen[name] if isinstance(value, str) else value
    return numbers


def choose_epochs(num_rows: int) -> int:
    """Passes over the rows: three, more for few rows and fewer for very many.

    Reference: openai-cookbook, examples/Chat_finetuning_data_prep.ipynb (2e65270).
    """
    if num_rows * TARGET_EPOCHS < LEAST_EXAMPLES:
        return min(MOST_EPOCHS, LEAST_EXAMPLES // max(1, num_rows))
    if num_rows * TARGET_EPOCHS > MOST_EXAMPLES:
        return max(1, MOST_EXAMPLES // num_rows)
    return TARGET_EPOCHS


def choose_batch_size(num_rows: int) -> int:
    """Rows in a batch: about 0.2 % of all, as OpenAI's guide of 2023 says of its own default."""
    return min(MOST_ROWS_IN_BATCH, max(1, round(BATCH_SHARE * num_rows)))
