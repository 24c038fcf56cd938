"""Rows become conversations and back: one module per family of formats."""
