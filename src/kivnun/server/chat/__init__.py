"""Chat and plain completions."""
