"""The `training` section: how long, how fast, and what is kept."""

from typing import Literal, Self

from pydantic import StrictBool, model_validator

from kivnun.recipe import rules
from kivnun.recipe.objectives import Objective, SupervisedObjective
from kivnun.recipe.values import (
    NonNegativeNumber,
    NonNegativeWhole,
    PositiveNumber,
    PositiveWhole,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Switch,
    TokenBudget,
)

GeneratedMetric = Literal["accuracy", "macro_f1", "exact_match", "rouge_l"]
"""Metrics of answers that the model generates."""
ValidationMetric = Literal["loss", "accuracy", "macro_f1", "exact_match", "rouge_l", "recall_at_1", "reward_accuracy"]
"""Metrics of the validation split; of all but the loss, more is better. `recall_at_1` is for embedding models, \
`reward_accuracy`, the share of pairs in the right order, for the objectives dpo and orpo."""


ROUNDING_SETTINGS = frozenset(
    ("micro_batch_tokens", "gradient_checkpointing", "compile", "cache_hidden_states", "parallel")
)
"""Settings that change how is computed and not what is learnt: other ones round otherwise."""
COMPUTING_SETTINGS = ROUNDING_SETTINGS | {
    "save_every_steps",
    "save_every_seconds",
    "keep_checkpoints",
    "keep_epochs",
    "token_accuracy",
    "report_to",
}
"""These, and what is kept and told of a training: a run goes on when they change."""


def higher_is_better(metric: str) -> bool:
    """Whether more of a validation metric is better."""
    return metric != "loss"


class TrainingSection(Section):
    """The training loop: how long, how fast, and what is kept."""

    objective: Objective = SupervisedObjective()
    """What is learnt; a kind alone, such as `objective: text`, takes its defaults."""
    epochs: PositiveNumber = 3.0
    """Passes over the training rows."""
    max_steps: PositiveWhole | None = None
    """Most optimizer steps; training stops there even if the epochs are not over."""
    learning_rate: PositiveNumber = 2e-4
    """Peak learning rate."""
    batch_tokens: PositiveWhole = 8192
    """Tokens in one batch, padding-free."""
    batch_size: PositiveWhole | None = None
    """Rows in one batch; in place of `batch_tokens`, which is a budget that suits rows of any length."""
    micro_batch_tokens: TokenBudget = "auto"
    """Tokens computed at once; a batch with more is cut, which changes memory and speed and not what is learnt, \
but for the values that dropout leaves out. `auto` cuts where the measured memory is too small for the whole batch."""
    gradient_accumulation_steps: PositiveWhole = 1
    """Batches whose gradients are summed into one optimizer step."""
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """The optimizer; `adamw_8bit` keeps its running averages in 8 bits (Dettmers et al. 2022, arXiv:2110.02861)."""
    weight_decay: NonNegativeNumber = 0.0
    """Decoupled weight decay, of matrices; norms, biases and the scales of ia3 have none."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's two running averages."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after the warm-up; `wsd` stays at the peak and falls at the end (Hu et al. 2024, \
arXiv:2404.06395)."""
    decay_ratio: Share | None = None
    """Share of the steps in which `wsd` falls; a fifth if not given."""
    warmup_ratio: ShareBelowOne = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    final_learning_rate_ratio: Share = 0.0
    """Learning rate of the last step as a share of the peak."""
    max_grad_norm: NonNegativeNumber = 1.0
    """Norm to which larger gradients are clipped; 0 leaves them as they are."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computation; auto takes bf16 where the machine computes it fast."""
    seed: Seed = 0
    """Seed of the weights, the order of rows and dropout."""
    compile: Switch = "auto"
    """Whether torch.compile is used."""
    gradient_checkpointing: StrictBool = False
    """Whether layers are computed again in the backward pass instead of being kept: less memory, a third slower."""
    cache_hidden_states: Switch = "auto"
    """Whether what frozen lower layers make of each row is kept after the first pass, where only upper layers train."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes (`torchrun`) share the work: each with the whole model, or each with a part of it."""
    validate_every_steps: PositiveWhole | None = None
    """Steps between validations; once an epoch if not given."""
    validation_metrics: tuple[GeneratedMetric, ...] = ()
    """Metrics of answers that the model generates for validation rows, beside the loss; they are as long as \
`evaluation.max_new_tokens` lets them be, or as the longest right one."""
    validation_rows: PositiveWhole = 100
    """Most validation rows that are answered for these metrics, the same ones every time."""
    best_metric: ValidationMetric = "loss"
    """Metric of the validation split by which the best step is chosen and early stopping decides; the objective \
classification measures `accuracy` and `macro_f1` by itself, contrastive `recall_at_1`."""
    save_every_steps: PositiveWhole | None = None
    """Steps between checkpoints; if not given, `save_every_seconds` decides."""
    save_every_seconds: PositiveNumber = 300.0
    """Seconds between checkpoints; more where writing one takes long."""
    early_stopping_patience: PositiveWhole | None = None
    """Validations without a better `best_metric` after which training stops; never if not given."""
    early_stopping_min_delta: NonNegativeNumber = 0.0
    """How much better it must be to count as better, in the metric's own unit."""
    keep_checkpoints: PositiveWhole = 2
    """Number of latest checkpoints that are kept."""
    keep_epochs: NonNegativeWhole = 0
    """Number of latest epochs whose models are kept beside the final one, in `epochs/step-000123` of the run folder."""
    token_accuracy: StrictBool = False
    """Whether the share of trained tokens that the model holds for the likeliest is reported beside the loss; the \
objectives supervised and text measure it."""
    report_to: tuple[Literal["tensorboard", "csv", "mlflow", "wandb"], ...] = ()
    """Where numbers go beside `events.jsonl`: TensorBoard files and CSV in the run folder, or a tracker of yours."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_training(self))
        return self
