"""The fixtures of `tiny_llama`."""

from tiny_llama import fp32_folder, int4_folder, prompts, session_folder, tiny_folder, tiny_model

__all__ = ["fp32_folder", "int4_folder", "prompts", "session_folder", "tiny_folder", "tiny_model"]
