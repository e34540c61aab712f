"""Overlay whose changes go to a disk: tried in a folder there, which goes with the trial."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import SbxError
from sandbox.host.attempt import Outcome, attempt
from sandbox.linux.workspace import make_workspace


def attempt_overlay_in(folder: str) -> Outcome:
    """Try it in `folder`, empty and of this user's, and remove that."""
    try:
        return attempt("overlay", folder)
    finally:
        _remove(folder)


def attempt_overlay_on_disk() -> Outcome:
    """Try it where runs have their folders; what a kill leaves is removed by the next run."""
    try:
        workspace = make_workspace()
    except SbxError as error:  # a full disk, perhaps: nothing to remember
        return Outcome(None, error.what, errno.EAGAIN, error.cause)
    try:
        return attempt_overlay_in(workspace.path)
    finally:
        workspace.leave()


def is_partial(outcome: Outcome) -> bool:
    """Whether it is mounted and files can be made in it, and then something else fails."""
    return outcome.step.startswith("overlay: ") and outcome.step != "overlay: copy up"


def _remove(folder: str) -> None:
    """A small tree whose folders may have mode 000."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.chmod(path, 0o700)
            _remove(path)
        else:
            os.unlink(path)
    os.rmdir(folder)
