"""Libraries that take a second to import, or speak when they are: imported on first use, and silent."""

import importlib
import logging
from functools import cache
from types import ModuleType


@cache
def load_bitsandbytes() -> ModuleType:
    """bitsandbytes, whose operators are then under `torch.ops.bitsandbytes`.

    Its CPU part looks for a faster kernel for generating, which nothing here needs, and warns where there is none.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return importlib.import_module("bitsandbytes")


@cache
def load_peft() -> ModuleType:
    """PEFT, which imports bitsandbytes."""
    load_bitsandbytes()
    return importlib.import_module("peft")
