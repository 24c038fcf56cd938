"""Learning-rate schedules: linear warm-up, then constant, linear or cosine decay."""

import math

from kivnun.recipe.training import TrainingSection


def learning_rate_at(step: int, num_steps: int, settings: TrainingSection) -> float:
    """The learning rate of step `step` (0 is the first) of `num_steps`.

    Warm-up rises linearly and reaches the full rate on its last step; decay ends at `final_learning_rate_ratio` of the
    full rate on the very last step.
    """
    peak = settings.learning_rate
    num_warmup = math.ceil(settings.warmup_ratio * num_steps - 1e-9)  # 0.07 * 100 is a little more than 7
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if settings.schedule == "constant":
        return peak
    progress = (step + 1 - num_warmup) / max(num_steps - num_warmup, 1)
    shape = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (settings.final_learning_rate_ratio + (1 - settings.final_learning_rate_ratio) * shape)
