"""The command line: one file per verb, and the only floor that prints."""
