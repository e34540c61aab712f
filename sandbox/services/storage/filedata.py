"""The contents of one file from one descriptor to another, in the cheapest way the kernel has.

Owns the choice between sharing blocks (reflink), copying inside the kernel, and holes. Does not
own names, owners, modes or times: `copy` does.
"""

from __future__ import annotations

import errno
import os
from fcntl import ioctl

FICLONE = 0x40049409
_CHUNK = 1 << 30
# "This file system, or this pair of them, cannot": the next way is tried.
_CANNOT = frozenset(
    (
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EISDIR,
        errno.EBADF,
    )
)


class DataCopier:
    """Copies contents, and remembers which ways this pair of file systems has refused."""

    __slots__ = ("_clones", "_ranges", "bytes_cloned", "bytes_copied")

    def __init__(self) -> None:
        self._clones = True
        self._ranges = True
        self.bytes_cloned = 0
        self.bytes_copied = 0

    def copy(self, source: int, target: int, size: int, blocks: int) -> None:
        """Copy `size` bytes between positions 0; `blocks` (of 512 bytes) tells of holes.

        A source that shrinks meanwhile ends the copy early; one that grows is cut at `size`.
        Raises OSError when the kernel cannot read or write.
        """
        if self._clones and self._clone(source, target):
            self.bytes_cloned += size
        elif blocks * 512 < size:
            self._copy_sparse(source, target, size)
        else:
            self._copy_range(source, target, size)

    def _clone(self, source: int, target: int) -> bool:
        try:
            ioctl(target, FICLONE, source)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._clones = False
            return False
        return True

    def _copy_sparse(self, source: int, target: int, size: int) -> None:
        os.ftruncate(target, size)
        end = 0
        while end < size:
            try:
                start = os.lseek(source, end, os.SEEK_DATA)
                end = min(os.lseek(source, start, os.SEEK_HOLE), size)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            if start >= size:
                return
            os.lseek(target, start, os.SEEK_SET)
            os.lseek(source, start, os.SEEK_SET)
            self._copy_range(source, target, end - start)

    def _copy_range(self, source: int, target: int, length: int) -> None:
        """Copy `length` bytes from where the descriptors stand."""
        left = length
        while left:
            if self._ranges:
                try:
                    done = os.copy_file_range(source, target, min(left, _CHUNK))
                except OSError as error:
                    if error.errno not in _CANNOT:
                        raise
                    self._ranges = False
                    continue
            else:
                done = os.sendfile(target, source, None, min(left, _CHUNK))
            if not done:
                break
            left -= done
        self.bytes_copied += length - left
