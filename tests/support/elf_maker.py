"""Makes small ELF files with chosen headers: enough for loaders to read, not to run."""

import struct
from pathlib import Path

X86_64, I386, AARCH64 = 62, 3, 183
EXECUTABLE, SHARED, OBJECT = 2, 3, 1
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH, _FLAGS_1 = 1, 5, 10, 14, 15, 29, 0x6FFFFFFB


def elf_bytes(
    *,
    machine: int = X86_64,
    bits: int = 64,
    little: bool = True,
    kind: int = SHARED,
    interp: str = "",
    needed: tuple[str, ...] = (),
    rpath: str = "",
    runpath: str = "",
    soname: str = "",
    flags_1: int = 0,
    dynamic: bool = True,
) -> bytes:
    """The content of an ELF file; addresses in memory equal offsets in the file."""
    order, wide = "<" if little else ">", bits == 64
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        strings.extend(value.encode() + b"\0")
        return len(strings) - len(value.encode()) - 1

    tags = [(_NEEDED, text(name)) for name in needed]
    for tag, value in ((_RPATH, rpath), (_RUNPATH, runpath), (_SONAME, soname)):
        if value:
            tags.append((tag, text(value)))
    if flags_1:
        tags.append((_FLAGS_1, flags_1))
    header_size, entry_size = (64, 56) if wide else (52, 32)
    count = 1 + bool(interp) + dynamic
    interp_at = header_size + entry_size * count
    interp_raw = interp.encode() + b"\0" if interp else b""
    strings_at = interp_at + len(interp_raw)
    dynamic_at = (strings_at + len(strings) + 7) // 8 * 8
    tags += [(_STRTAB, strings_at), (_STRSZ, len(strings)), (0, 0)]
    dynamic_raw = b"".join(struct.pack(order + ("qQ" if wide else "iI"), *tag) for tag in tags)
    total = dynamic_at + len(dynamic_raw)
    segments = [(_LOAD, 0, total)]
    if interp:
        segments.append((_INTERP, interp_at, len(interp_raw)))
    if dynamic:
        segments.append((_DYNAMIC, dynamic_at, len(dynamic_raw)))
    ident = b"\x7fELF" + bytes((bits // 32, 1 if little else 2, 1)) + bytes(9)
    word = "Q" if wide else "I"
    header = ident + struct.pack(
        f"{order}HHI{word * 3}IHHHHHH",
        *(kind, machine, 1, 0, header_size, 0),
        *(0, header_size, entry_size, count, 0, 0, 0),
    )
    table = b"".join(_segment(order, wide, *segment) for segment in segments)
    body = header + table + interp_raw + bytes(strings)
    return body + bytes(dynamic_at - len(body)) + dynamic_raw


def _segment(order: str, wide: bool, kind: int, offset: int, size: int) -> bytes:
    if wide:
        return struct.pack(order + "IIQQQQQQ", kind, 5, offset, offset, offset, size, size, 8)
    return struct.pack(order + "IIIIIIII", kind, offset, offset, offset, size, size, 5, 4)


def write_elf(path: Path, **options: object) -> Path:
    """Write an executable ELF file with `elf_bytes`' options; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(elf_bytes(**options))  # type: ignore[arg-type]
    path.chmod(0o755)
    return path
