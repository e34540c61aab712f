"""The control group of one run: claimed before the launcher, made beside it, removed after it; and
that of a sandbox that lives."""

from __future__ import annotations

import os

from sandbox.errors import HostError
from sandbox.services.cgroup import make_group
from sandbox.services.cgroup.account import read_account
from sandbox.services.cgroup.group import Claim, claim_name, open_group, reap_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.plan.request import Available
    from sandbox.runtime.registry import Folder
    from sandbox.services.cgroup.account import Account
    from sandbox.services.cgroup.group import Group


def group_of(folder: Folder) -> Group | None:
    """The group of a sandbox that lives, the caller's to release; None where it has none."""
    driver, path, inode = folder.description.cgroup
    if not driver:
        return None
    try:
        return open_group(path, inode)
    except HostError:  # it ends just now
        return None


class Grouped:
    """The group and its account, None until there is one."""

    def __init__(self, available: Available, tell: Callable[[str, str], None]) -> None:
        """Claim a name; `tell` hears what others left and is gone now. Raises HostError."""
        reap_groups(
            lambda path: tell(f"removed {path}", "a run that was killed had left it behind")
        )
        self._tell = tell
        self.available = available
        self._claim: Claim | None = claim_name()
        self.group: Group | None = None
        self.account: Account | None = None

    def share(self) -> int:
        """A descriptor that keeps others from removing the group, the caller's to close."""
        return os.dup(self._claim.lock) if self._claim else -1

    def make(self, launcher: int) -> tuple[str, int]:
        """Name and open folder of the group into which the launcher clones. Raises HostError."""
        if self._claim is None:
            raise RuntimeError("this group is made already")
        self.group = make_group(self.available, self._claim, launcher)
        self._claim = None
        return os.path.basename(self.group.path), self.group.fd

    def sum_up(self) -> None:
        """Read what it used, while it is there."""
        if self.group:
            self.account = read_account(self.group)

    def close(self, *, living: bool = False) -> None:
        """Remove it; a sandbox that lives on keeps it."""
        if self._claim:
            self._claim.drop()
        elif self.group and living:
            self.group.release()
        elif self.group and not self.group.remove():
            self._tell(f"cannot remove {self.group.path}", "something still lives in it")
        self._claim = self.group = None
