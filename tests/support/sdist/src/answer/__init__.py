"""The answer, computed in C."""

from ._answer import answer

__all__ = ["answer"]
