"""BESIDE: what a sandbox needs outside of itself, each a registry with one module a driver."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Service(Protocol):
        """The handle of a driver that was started for one sandbox."""

        def close(self) -> None:
            """End it and take back what it made. Raises SbxError naming what stays."""
