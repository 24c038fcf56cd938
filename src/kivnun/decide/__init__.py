"""Prompting, examples, retrieval or tuning: every way measured on one test split, and a verdict."""
