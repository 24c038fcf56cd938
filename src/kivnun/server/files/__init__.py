"""Files, whole and in parts, streamed to the disk."""
