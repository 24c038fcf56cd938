"""A shipped model asked its golden prompts again, on any machine or behind an endpoint."""
