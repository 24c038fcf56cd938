"""Which engine computes a base model when nothing else is said; found out without importing any of them."""

from pathlib import Path

from kivnun.models.resolve import bundled_folder
from kivnun.serving.answers import EngineName

EXPORT_NAME = "genai_config.json"


def engine_of(base: str) -> EngineName:
    """What computes a base model when nothing else is said: ONNX Runtime an exported folder, torch all others.

    Args:
        base: Name, folder or id.
    """
    is_folder = bundled_folder(base) is None and Path(base).is_dir()
    return "onnx" if is_folder and (Path(base) / EXPORT_NAME).is_file() else "torch"
