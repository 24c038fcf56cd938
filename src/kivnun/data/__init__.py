"""Rows of a file become conversations, and conversations become token batches."""
