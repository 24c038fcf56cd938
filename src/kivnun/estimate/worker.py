"""One measurement, in a process of its own so that its peak of memory is its own: a few real training steps.

    python -m kivnun.estimate.worker < request.json > measurement.json

The request is what `kivnun.estimate.measure` writes. Nothing that is trained is kept.
"""

import json
import sys
import time
from pathlib import Path

import torch

from kivnun.data.tokens import load_table
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.heads import choose_head, load_headed
from kivnun.models.load import move_model
from kivnun.recipe.schema import Recipe
from kivnun.runs.peak_memory import peak_memory_bytes
from kivnun.training.device import compile_layers, pick_device, pick_dtype
from kivnun.training.loop import fit, make_plan
from kivnun.training.objectives import make_objective
from kivnun.training.optimizer import make_master_weights

MAX_STEPS = 50
MIN_STEPS = 2


def measure(request: dict) -> dict:  # type: ignore[type-arg]
    """Train for `request["seconds"]` after a first step that is not counted, and tell what that took."""
    recipe = Recipe.model_validate(request["recipe"])
    settings = recipe.training
    table = load_table(Path(request["table"]))
    device = pick_device()
    dtype = pick_dtype(settings.precision, device)
    classes = 0 if table.labels is None else int(table.labels.max()) + 1
    head = choose_head(settings.objective, labels=[str(number) for number in range(classes)])
    model = move_model(load_headed(Path(request["base"]), head, dtype=dtype), device)
    make_method(recipe.method).prepare(model, generator=torch.Generator().manual_seed(settings.seed))
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    plan = make_plan(table.lengths(), settings)
    compiled = compile_layers(model, settings, num_tokens=plan.num_steps * plan.step_tokens)
    steps, started = [], 0.0
    objective = make_objective(settings.objective)
    table = objective.start(model, table, batch_tokens=settings.batch_tokens)
    for report in fit(model, weights, table, settings, plan=plan, objective=objective):
        steps.append({"tokens": report.num_tokens, "seconds": report.seconds})
        if len(steps) == 1:
            # The first step also compiles, and fills caches and the allocator.
            started = time.monotonic()
        elif len(steps) > MAX_STEPS or (len(steps) > MIN_STEPS and time.monotonic() - started >= request["seconds"]):
            break
    return {"device": str(device), "compiled": compiled, "steps": steps, "peak_bytes": _peak_bytes(device)}


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory_bytes()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.load(sys.stdin))))
