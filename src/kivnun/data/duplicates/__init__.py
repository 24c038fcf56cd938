"""Rows that say the same: exactly, nearly, across splits, or with another answer."""
