"""Kivnun: make a language model your own, and prove that it got better."""

__version__ = "0.1.0"
