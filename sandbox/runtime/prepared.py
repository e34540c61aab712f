"""What a root file system needs of one run alone, made for it and removed after it."""

from __future__ import annotations

from sandbox.errors import SbxError
from sandbox.linux.workspace import make_workspace
from sandbox.services.storage import DRIVERS, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.host.facts import HostFacts
    from sandbox.policy.model import Policy
    from sandbox.runtime.signals import Interrupts

    Notify = Callable[[str, str], None]


class PreparedRoot:
    """The folder of a run whose storage has something to prepare. Close or leave it."""

    def __init__(self, facts: HostFacts, tell: Notify) -> None:
        self._facts = facts
        self._tell = tell
        self._workspace = make_workspace()
        self.path = f"{self._workspace.path}/root"

    def share(self) -> int:
        """A descriptor that keeps the folder from being removed, the caller's to close."""
        return self._workspace.share()

    def fill(self, storage: str, rootfs: str, policy: Policy, interrupts: Interrupts) -> None:
        """Make what the storage needs at `path`; may take long. Raises RootfsError, Interrupted."""
        with interrupts:
            notes = DRIVERS[storage](rootfs, self.path, policy, self._facts)
        for what, cause in notes:
            self._tell(what, cause)

    def leave(self) -> None:
        """Let go without removing anything: others hold it."""
        self._workspace.leave()

    def close(self) -> None:
        """Remove what was prepared; what stays is said, and tried again by the next run."""
        try:
            self._workspace.close(lambda path: remove_tree(path, self._facts))
        except SbxError as error:
            self._tell(error.what, "; ".join(error.problems) or error.cause)
