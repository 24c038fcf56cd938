"""What is reported of pairs of answers. R rows, P documents in a row: the preferred answer, then the rejected one."""

import torch
from torch import Tensor


@torch.no_grad()
def reward_metrics(reward_RP: Tensor) -> dict[str, float]:
    """Sums over the pairs: how many are in the right order, both rewards, and by how much they differ."""
    chosen_R, rejected_R = reward_RP.unbind(1)
    sums = (chosen_R > rejected_R).sum(), (chosen_R - rejected_R).sum(), chosen_R.sum(), rejected_R.sum()
    names = ("reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected")
    return dict(zip(names, torch.stack([each.double() for each in sums]).tolist(), strict=True))


@torch.no_grad()
def log_probability_metrics(log_probability_RP: Tensor) -> dict[str, float]:
    """Sums over the pairs of the log-probabilities of both answers."""
    chosen, rejected = log_probability_RP.sum(0).tolist()
    return {"log_probability_chosen": chosen, "log_probability_rejected": rejected}
