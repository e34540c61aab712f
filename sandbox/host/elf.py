"""What an ELF file says about itself: machine, interpreter, needed libraries, search paths.

Owns reading one file. `read_head` decodes the header and PT_INTERP alone, by hand and with
bounds, so that it may be pointed at hostile bytes; `read_elf` reads the dynamic section with
pyelftools. Which library a name leads to is `sandbox.host.libraries`.
"""

from __future__ import annotations

import errno
import os
import struct

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAGIC = b"\x7fELF"
ET_EXEC = 2
ET_DYN = 3
PT_INTERP = 3
DF_1_NODEFLIB = 0x800

_MACHINES = {
    2: "sparc",
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    43: "sparc64",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
_LITTLE_NAMES = {"ppc64": "ppc64le", "mips": "mipsel"}
# Machines whose programs a kernel of the key's machine may run as well.
_ALSO_RUNS = {"x86_64": ("i386", "x32"), "aarch64": ("arm",), "ppc64": ("ppc",), "mips": ()}
# The kernel refuses a program header table larger than this (fs/binfmt_elf.c).
_PHDRS_MAX_BYTES = 65536
_PATH_MAX = 4096
_TAGS_MAX = 20_000
_NAMES_MAX = 2_000


class ElfError(ValueError):
    """The file starts like an ELF file but cannot be decoded; the text says why."""


class ElfHead(Record):
    """The header of an ELF file: `machine` as `uname -m` writes it, `bits` 32 or 64.

    `interpreter` is the text of PT_INTERP, "" when there is none; `runnable` whether the type
    is a program's (executable, or position independent).
    """

    machine: str
    bits: int
    little: bool
    runnable: bool
    interpreter: str

    @property
    def family(self) -> tuple[str, int, bool]:
        """What two files must share to be loaded into one process."""
        return self.machine, self.bits, self.little


class ElfFile(Record):
    """One ELF file with its dynamic section. Search paths are split at ":", not yet expanded.

    `needed` keeps the file's order; `soname` is "" when absent; `no_default_dirs` is
    DF_1_NODEFLIB; `is_dynamic` whether there is a dynamic section at all.
    """

    head: ElfHead
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    soname: str = ""
    no_default_dirs: bool = False
    is_dynamic: bool = False


def machine_name(number: int, bits: int, little: bool) -> str:
    """The name of an e_machine number, in the words of `uname -m`; "machine N" if unknown."""
    name = _MACHINES.get(number, f"machine {number}")
    if name == "x86_64" and bits == 32:
        return "x32"
    return _LITTLE_NAMES.get(name, name) if little else name


def host_runs(machine: str, host_machine: str) -> bool:
    """Whether a kernel of `host_machine` (as in uname) can run programs for `machine`."""
    if host_machine in ("i486", "i586", "i686"):
        host_machine = "i386"
    if host_machine.startswith(("armv", "arm")):
        host_machine = "arm"
    return machine == host_machine or machine in _ALSO_RUNS.get(host_machine, ())


def read_head(pread: Callable[[int, int], bytes]) -> ElfHead | None:
    """Decode the header; `pread(size, offset)` reads the file. None when it is not ELF.

    Reads at most 64 KiB and one path, whatever the file claims. Raises ElfError for a file
    that is cut off or inconsistent.
    """
    ident = pread(64, 0)
    if ident[:4] != MAGIC:
        return None
    if len(ident) < 52 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise ElfError("the ELF header is cut off or invalid")
    bits, little = 32 * ident[4], ident[5] == 1
    order = "<" if little else ">"
    if bits == 64 and len(ident) < 64:
        raise ElfError("the ELF header is cut off")
    kind, number = struct.unpack_from(order + "HH", ident, 16)
    phoff = struct.unpack_from(order + ("Q" if bits == 64 else "I"), ident, 32 - (bits == 32) * 4)
    phentsize, phnum = struct.unpack_from(order + "HH", ident, 54 if bits == 64 else 42)
    return ElfHead(
        machine=machine_name(number, bits, little),
        bits=bits,
        little=little,
        runnable=kind in (ET_EXEC, ET_DYN),
        interpreter=_interpreter(pread, order, bits, phoff[0], phentsize, phnum),
    )


def _interpreter(
    pread: Callable[[int, int], bytes], order: str, bits: int, phoff: int, size: int, count: int
) -> str:
    if count == 0:
        return ""
    expected = 56 if bits == 64 else 32
    if size != expected or size * count > _PHDRS_MAX_BYTES or phoff > 2**62:
        raise ElfError("the program headers are invalid")
    table = pread(size * count, phoff)
    if len(table) < size * count:
        raise ElfError("the file is cut off before its program headers end")
    layout = struct.Struct(order + ("IIQQQQQQ" if bits == 64 else "IIIIIIII"))
    for entry in layout.iter_unpack(table):
        offset, length = (entry[2], entry[5]) if bits == 64 else (entry[1], entry[4])
        if entry[0] == PT_INTERP:
            return _interpreter_text(pread, offset, length)
    return ""


def _interpreter_text(pread: Callable[[int, int], bytes], offset: int, length: int) -> str:
    if not 2 <= length <= _PATH_MAX or offset > 2**62:
        raise ElfError("the interpreter's path has an invalid length")
    raw = pread(length, offset)
    if len(raw) < length or raw[-1:] != b"\0":
        raise ElfError("the interpreter's path is cut off")
    return os.fsdecode(raw.split(b"\0", 1)[0])


def read_elf(path: str) -> ElfFile | None:
    """Read the ELF file at `path`; None when it is another kind of file.

    Raises OSError when it cannot be read and ElfError when it is damaged.
    """
    with open(path, "rb", buffering=0) as raw:
        head = read_head(lambda size, offset: os.pread(raw.fileno(), size, offset))
    if head is None:
        return None
    from elftools.common.exceptions import ELFError, ELFParseError
    from elftools.construct import ConstructError

    with open(path, "rb") as stream:
        try:
            return _read_dynamic(stream, head)
        except (ELFError, ELFParseError, ConstructError) as error:
            raise ElfError(f"damaged ELF file: {error}") from error
        # A damaged file makes pyelftools fail in any of these ways, beside its own errors.
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            raise ElfError(f"damaged ELF file: {type(error).__name__}") from error
        except (OverflowError, MemoryError, RecursionError, struct.error) as error:
            raise ElfError(f"damaged ELF file: {type(error).__name__}") from error
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ElfError("damaged ELF file: an offset is out of range") from error


def _read_dynamic(stream: Any, head: ElfHead) -> ElfFile:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile

    needed: list[str] = []
    found: dict[str, str] = {}
    flags = 0
    is_dynamic = False
    for segment in ELFFile(stream).iter_segments("PT_DYNAMIC"):
        if not isinstance(segment, DynamicSegment):
            continue
        is_dynamic = True
        for count, tag in enumerate(segment.iter_tags()):
            name = tag.entry.d_tag
            if count > _TAGS_MAX or len(needed) > _NAMES_MAX:
                raise ElfError("the dynamic section has no end")
            # pyelftools sets the text as an attribute that is named for the tag.
            text = getattr(tag, str(name)[3:].lower(), "")
            if name == "DT_NEEDED":
                needed.append(text)
            elif name in ("DT_RPATH", "DT_RUNPATH", "DT_SONAME"):
                found[name] = text
            elif name == "DT_FLAGS_1":
                flags = tag.entry.d_val
        break
    return ElfFile(
        head=head,
        needed=tuple(needed),
        rpath=_split_path(found.get("DT_RPATH", "")),
        runpath=_split_path(found.get("DT_RUNPATH", "")),
        soname=found.get("DT_SONAME", ""),
        no_default_dirs=bool(flags & DF_1_NODEFLIB),
        is_dynamic=is_dynamic,
    )


def _split_path(text: str) -> tuple[str, ...]:
    return tuple(text.split(":")) if text else ()


def read_shebang(head: bytes) -> tuple[str, str] | None:
    """(interpreter, argument) of a script's first bytes, None when it is no script.

    The rules are the kernel's (fs/binfmt_script.c): 256 bytes count, blanks before the
    interpreter are skipped, all that follows it is one argument. A line that names nothing
    gives ("", "").
    """
    if head[:2] != b"#!":
        return None
    line = head[2:256].split(b"\n", 1)[0].split(b"\0", 1)[0].strip(b" \t")
    parts = line.replace(b"\t", b" ").split(b" ", 1)
    argument = parts[1].strip(b" ") if len(parts) > 1 else b""
    return os.fsdecode(parts[0]), os.fsdecode(argument)


def env_target(argument: str) -> str:
    """The program that `#!/usr/bin/env ARGUMENT` starts; "" when it names none.

    Skips `-S` and other options and NAME=VALUE words, as env(1) does.
    """
    for word in argument.removeprefix("-S").split():
        if word == "-S" or word.startswith("-") or "=" in word:
            continue
        return word
    return ""
