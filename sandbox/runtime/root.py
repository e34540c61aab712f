"""How the root is shown where overlayfs cannot show it: a read-only bind, or a copy.

Imported only then. A bind shows what an overlay would, as long as nothing is ever made in it: the
policy's root is read-only and every mount point is there.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.host.inroot import open_path
from sandbox.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.launcher.events import Event
    from sandbox.plan.request import Plan

# What the kernel answers to a lower layer that it cannot use: a file system with case folding or
# with dentries of its own kind, or one stack of overlays too many.
_UNFIT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ELOOP, errno.EIO, errno.ENODEV)


def is_overlay_refusal(event: Event, plan: Plan) -> bool:
    """Whether the set-up failed because overlayfs does not take this root file system."""
    step = plan.steps[event.op] if 0 <= event.op < len(plan.steps) else None
    return isinstance(step and step.op, ops.RootOverlay) and event.errno in _UNFIT


def has_mount_points(plan: Plan, rootfs: str) -> bool:
    """Whether every mount point of the plan is there, of the right kind, in `rootfs`."""
    wanted: dict[str, bool] = {}
    for op in (step.op for step in plan.steps):
        if isinstance(op, ops.Filesystem):
            wanted[op.target] = True
        elif isinstance(op, ops.Bind):
            wanted[op.target] = stat.S_ISDIR(op.filetype)
        elif isinstance(op, ops.File):
            wanted[op.path] = False
    # What lies in another mount is made there, or is missing for an overlay as well.
    own = [target for target in wanted if not any(parent in wanted for parent in _above(target))]
    return all(_is_there(rootfs, target, directory=wanted[target]) for target in own)


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]


def _is_there(rootfs: str, path: str, *, directory: bool) -> bool:
    try:
        fd = open_path(rootfs, path)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode) == directory
    finally:
        os.close(fd)
