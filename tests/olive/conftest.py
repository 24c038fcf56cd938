"""The fixtures of this folder; they are written where their words are."""

from olive_workshop import here, workshop

__all__ = ["here", "workshop"]
