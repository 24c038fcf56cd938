"""The fixtures of `tiny_llama`, shared with the generation tests: its exports are made once for both."""

import sys
from pathlib import Path

# Test folders are no packages; this is how a neighbour's module is found when these tests run alone.
sys.path.append(str(Path(__file__).parent.parent / "generation"))

from tiny_llama import fp32_folder, int4_folder, prompts, session_folder, tiny_folder, tiny_model

__all__ = ["fp32_folder", "int4_folder", "prompts", "session_folder", "tiny_folder", "tiny_model"]
