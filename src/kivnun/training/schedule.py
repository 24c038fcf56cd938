"""Learning-rate schedules: linear warm-up, then constant, linear, cosine, or stable with a decay at the end."""

import math

from kivnun.recipe.training import TrainingSection

# Hu et al. 2024 (arXiv:2404.06395) and Haegele et al. 2024 (arXiv:2405.18392): a tenth to a fifth is enough.
DECAY_RATIO = 0.2


def learning_rate_at(step: int, num_steps: int, settings: TrainingSection) -> float:
    """The learning rate of step `step` (0 is the first) of `num_steps`.

    Warm-up rises linearly and reaches the full rate on its last step. The decay begins at the full rate and would reach
    `final_learning_rate_ratio` of it one step after the last, as everywhere in the field: no step is computed for a
    rate of zero. The decay of `wsd` is linear.
    """
    peak = settings.learning_rate
    num_warmup = math.ceil(settings.warmup_ratio * num_steps - 1e-9)  # 0.07 * 100 is a little more than 7
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if settings.schedule == "constant":
        return peak
    num_stable = num_warmup
    if settings.schedule == "wsd":
        ratio = DECAY_RATIO if settings.decay_ratio is None else settings.decay_ratio
        num_stable = max(num_warmup, num_steps - math.ceil(ratio * num_steps - 1e-9))
        if step < num_stable:
            return peak
    progress = (step - num_stable) / max(num_steps - num_stable, 1)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return peak * (settings.final_learning_rate_ratio + (1 - settings.final_learning_rate_ratio) * shape)
