"""How many tokens a document may have."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from transformers import PreTrainedConfig

from kivnun.models.load import model_config

# Rotary positions that are computed otherwise for all rows of a batch as soon as one of them is long.
_SWITCHING = frozenset({"longrope", "su", "dynamic"})


def context_of(config: PreTrainedConfig) -> int | None:
    """Tokens of a model's longest document; None for no limit.

    Args:
        config: The model's.
    """
    text = config.get_text_config()
    # A few architectures have none, with relative positions.
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    return min(limit, steady_tokens(text.to_dict()) or limit)


def folder_context(folder: Path) -> int | None:
    """The same for a model's folder.

    Raises:
        UserError: `model-invalid` where config.json cannot be read.
    """
    return context_of(model_config(folder))


def steady_tokens(config: Mapping[str, object]) -> int | None:
    """How long rows may be so that none changes the positions of another; None where they never do.

    LongRoPE (Ding et al. 2024, arXiv 2402.13753) and dynamic scaling take other frequencies for longer rows. They take
    them for every row that is computed together with a longer one, and what was computed before keeps the old ones: an
    answer would depend on who else asks, and on the pieces in which its prompt was read.

    Args:
        config: What a text model's config.json holds.
    """
    found = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(found, dict):
        return None
    settings = cast("dict[str, object]", found)
    # Models with local and global layers have one for each kind of layer.
    parts = [cast("dict[str, object]", part) for part in settings.values() if isinstance(part, dict)] or [settings]
    general = config.get("original_max_position_embeddings") or config.get("max_position_embeddings")
    lengths = (
        part.get("original_max_position_embeddings") or general
        for part in parts
        if (part.get("rope_type") or part.get("type")) in _SWITCHING
    )
    return min((length for length in lengths if isinstance(length, int)), default=None)
