"""Prompts become tokens: one protocol, an engine on torch and one on ONNX Runtime, and the sampling they share."""
