"""Data mended in explicit steps: each writes a new file, and a log of every row that it touched."""
