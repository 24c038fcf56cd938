"""A tuned model becomes a small one that answers the same: export to ONNX, int4, parity and measurements."""
