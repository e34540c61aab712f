"""Decoding ELF headers and dynamic sections, also of damaged and hostile files."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.host.elf import (
    ElfError,
    ElfHead,
    env_target,
    host_runs,
    read_elf,
    read_head,
    read_shebang,
)
from tests.support.elf_maker import AARCH64, I386, OBJECT, X86_64, elf_bytes, write_elf
from tests.support.fuzzing import examples

FULL = elf_bytes(
    interp="/lib64/ld.so",
    needed=("liba.so", "libb.so.1"),
    rpath="/r:$ORIGIN",
    runpath="/one:/two",
    soname="me.so",
    flags_1=0x800,
)


def head_of(data: bytes) -> ElfHead | None:
    return read_head(lambda size, offset: data[offset : offset + size])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("little", [True, False])
def test_header_and_interpreter_are_read_in_every_class_and_order(bits: int, little: bool) -> None:
    head = head_of(elf_bytes(bits=bits, little=little, interp="/lib/ld.so.1"))
    assert head is not None
    assert (head.bits, head.little, head.runnable) == (bits, little, True)
    assert head.interpreter == "/lib/ld.so.1"


@pytest.mark.parametrize(
    ("machine", "bits", "name"),
    [
        (X86_64, 64, "x86_64"),
        (X86_64, 32, "x32"),
        (I386, 32, "i386"),
        (AARCH64, 64, "aarch64"),
        (21, 64, "ppc64le"),
        (9999, 64, "machine 9999"),
    ],
)
def test_machines_have_the_names_of_uname(machine: int, bits: int, name: str) -> None:
    head = head_of(elf_bytes(machine=machine, bits=bits))
    assert head is not None
    assert head.machine == name


def test_static_program_has_no_interpreter_and_an_object_file_does_not_run() -> None:
    static = head_of(elf_bytes(dynamic=False))
    part = head_of(elf_bytes(kind=OBJECT))
    assert static is not None
    assert static.interpreter == ""
    assert part is not None
    assert not part.runnable


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fEL", b"MZ" + bytes(100)])
def test_other_files_are_not_elf(data: bytes) -> None:
    assert head_of(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF",
        FULL[:40],
        FULL[:60],
        FULL[:100],
        FULL[:4] + b"\x09" + FULL[5:],
        FULL[:54] + struct.pack("<HH", 56, 65535) + FULL[58:],
        FULL[:54] + struct.pack("<HH", 1, 3) + FULL[58:],
        FULL[:32] + struct.pack("<Q", 2**64 - 8) + FULL[40:],
    ],
    ids=["magic", "ident", "header", "phdrs", "class", "phnum", "phentsize", "phoff"],
)
def test_damaged_header_is_named(data: bytes) -> None:
    with pytest.raises(ElfError):
        head_of(data)


@pytest.mark.parametrize("length", [0, 1, 4097, 2**63])
def test_interpreter_of_impossible_length_is_refused(length: int) -> None:
    at = 64 + 56 + 32
    with pytest.raises(ElfError, match="invalid length"):
        head_of(FULL[:at] + struct.pack("<Q", length) + FULL[at + 8 :])


def test_dynamic_section_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.write_bytes(FULL)
    elf = read_elf(str(path))
    assert elf is not None
    assert elf.needed == ("liba.so", "libb.so.1")
    assert elf.rpath == ("/r", "$ORIGIN")
    assert elf.runpath == ("/one", "/two")
    assert (elf.soname, elf.no_default_dirs, elf.is_dynamic) == ("me.so", True, True)


def test_static_file_is_not_dynamic(tmp_path: Path) -> None:
    elf = read_elf(str(write_elf(tmp_path / "static", dynamic=False)))
    assert elf is not None
    assert (elf.is_dynamic, elf.needed) == (False, ())


def test_read_elf_tells_other_files_from_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert read_elf(str(tmp_path / "text")) is None
    with pytest.raises(FileNotFoundError):
        read_elf(str(tmp_path / "none"))


@settings(max_examples=examples(300), deadline=None, database=None)
@given(st.data())
def test_any_damage_to_the_header_is_an_elf_error(data: st.DataObject) -> None:
    raw = bytearray(FULL)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        head_of(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except ElfError:
        pass


@settings(
    max_examples=examples(200),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_damage_to_the_dynamic_section_is_an_elf_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    raw = bytearray(FULL)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    try:
        read_elf(str(path))
    except ElfError:
        pass


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh\necho", ("/bin/sh", "")),
        (b"#! \t/bin/sh \t-e -u \n", ("/bin/sh", "-e -u")),
        (b"#!/bin/sh", ("/bin/sh", "")),
        (b"#!/bin/sh\r\n", ("/bin/sh\r", "")),
        (b"#!\n", ("", "")),
        (b"#!/a\tb", ("/a", "b")),
        (b"echo", None),
        (b"", None),
        (b"#!" + b"x" * 500, ("x" * 254, "")),
    ],
)
def test_script_line_follows_the_kernel(head: bytes, expected: tuple[str, str] | None) -> None:
    assert read_shebang(head) == expected


@pytest.mark.parametrize(
    ("argument", "program"),
    [
        ("python3", "python3"),
        ("-S python3 -u", "python3"),
        ("-S A=1 -i perl", "perl"),
        ("-Sawk -f", "awk"),
        ("", ""),
        ("-i", ""),
    ],
)
def test_env_names_the_program(argument: str, program: str) -> None:
    assert env_target(argument) == program


@pytest.mark.parametrize(
    ("machine", "host", "runs"),
    [
        ("x86_64", "x86_64", True),
        ("i386", "x86_64", True),
        ("i386", "i686", True),
        ("x86_64", "i686", False),
        ("aarch64", "x86_64", False),
        ("arm", "armv7l", True),
        ("arm", "aarch64", True),
    ],
)
def test_hosts_run_their_own_and_their_narrow_kind(machine: str, host: str, runs: bool) -> None:
    assert host_runs(machine, host) is runs
