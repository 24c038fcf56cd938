"""Names in a recipe become layers of a model: whole names or their last parts; what matches nothing is refused."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from kivnun.errors import UserError
from kivnun.models.linear_layers import LinearLayer
from kivnun.models.types import Model

MAX_NEAR_NAMES = 3


def matches_parts(name: str, target: str) -> bool:
    """Whether a target is a whole name or its last parts, as in PEFT."""
    return name == target or name.endswith(f".{target}")


def matches_pattern(name: str, pattern: str) -> bool:
    """As `matches_parts`, where `*` in the pattern stands for any text, dots included."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    return re.fullmatch(rf"(.*\.)?{expression}", name) is not None


def find_targets(model: Model, target_modules: str | Sequence[str], *, saved: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers that get an adapter; as in PEFT, a target matches a whole name or its last parts.

    Args:
        model: The model, without adapters.
        target_modules: `all-linear`, which leaves out the head, or targets.
        saved: Names of modules that are trained whole; as in PEFT, no layer in them gets an adapter.

    Raises:
        UserError: `target-modules`, with the near names and the linear layers that there are.
    """
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, LinearLayer) and module is not head and not is_within(name, saved)
    ]
    if isinstance(target_modules, str):
        if not linear:
            raise _unmatched("target_modules", [target_modules], linear)
        return linear
    unmatched = [target for target in target_modules if not any(matches_parts(name, target) for name in linear)]
    if unmatched:
        raise _unmatched("target_modules", unmatched, linear)
    return [name for name in linear if any(matches_parts(name, target) for target in target_modules)]


def find_modules(model: Model, targets: Sequence[str]) -> list[str]:
    """Names of the modules that are trained whole, none of them inside another.

    Raises:
        UserError: `target-modules`, with the near names, where a target names no module with weights.
    """
    known = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    unmatched = [target for target in targets if not any(matches_parts(name, target) for name in known)]
    if unmatched:
        raise _unmatched("modules_to_save", unmatched, known)
    found: list[str] = []
    for name in known:  # a module comes before those inside it
        if any(matches_parts(name, target) for target in targets) and not is_within(name, found):
            found.append(name)
    return found


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a name is one of some modules or lies inside one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def near_names(word: str, names: Iterable[str]) -> str:
    """Words that follow a problem: the names that are spelled most like a wrong one, or nothing."""
    # A name's last parts are what people write; numbers of layers would only repeat them.
    short = dict.fromkeys(part for name in names for part in (name.rpartition(".")[2], name))
    close = get_close_matches(word, list(short), n=MAX_NEAR_NAMES)
    return f"; near it: {', '.join(close)}" if close else ""


def _unmatched(field: str, targets: Sequence[str], names: Sequence[str]) -> UserError:
    kinds = sorted({last for name in names if not (last := name.rpartition(".")[2]).isdigit()})
    what = "linear layer" if field == "target_modules" else "module with weights"
    near = "".join(near_names(target, names) for target in targets[:1])
    all_linear = ", or write all-linear" if field == "target_modules" else ""
    return UserError(
        "target-modules",
        f"method.{field}: {', '.join(targets)} matches no {what} of the model{near}",
        hint=f"choose from {', '.join(kinds) or 'nothing: it has none'}{all_linear}",
    )
