"""Requests of a file, answered when there is room."""
