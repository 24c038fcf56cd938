"""Files of each kind become plain text with its blocks."""
