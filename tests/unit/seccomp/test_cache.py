"""The cache of compiled filters: what is stored comes back, and nothing else is believed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.errors import PolicyError
from sandbox.linux import files
from sandbox.policy.model import Seccomp
from sandbox.seccomp import Program, build, cache, program

STRICT = Seccomp("allow", (), ("unix", "inet", "inet6"))
NAME = bytes(range(32))
BPF = b"\x06\0\0\0\0\0\xff\x7f" * 3


def make(seccomp: Seccomp, folder: Path | None, *, caps: tuple[str, ...] = ()) -> Program:
    where = None if folder is None else str(folder)
    return build(seccomp, nested=False, capabilities=caps, cache_dir=where)


def entry(folder: Path) -> Path:
    (found,) = (folder / "seccomp").iterdir()
    return found


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    assert cache.load(str(tmp_path), NAME) is None
    assert cache.store(str(tmp_path), NAME, BPF, ("one", "zw\u00f6lf"))
    assert cache.load(str(tmp_path), NAME) == (BPF, ("one", "zw\u00f6lf"))
    assert cache.load(str(tmp_path), bytes(32)) is None


def test_files_and_folder_are_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert cache.store(str(tmp_path / "new"), NAME, BPF, ())
    finally:
        os.umask(before)
    found = entry(tmp_path / "new")
    assert found.name == NAME.hex()
    assert found.stat().st_mode & 0o7777 == 0o600
    assert found.parent.stat().st_mode & 0o7777 == 0o700
    assert found.parent.parent.stat().st_mode & 0o7777 == 0o700


def test_storing_again_replaces(tmp_path: Path) -> None:
    cache.store(str(tmp_path), NAME, BPF, ())
    cache.store(str(tmp_path), NAME, BPF * 2, ())
    assert cache.load(str(tmp_path), NAME) == (BPF * 2, ())


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    cache.store(str(tmp_path), NAME, BPF, ("w",))
    path = entry(tmp_path)
    sound = path.read_bytes()
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 1]) + sound[i + 1 :])
        assert cache.load(str(tmp_path), NAME) is None, i
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        assert cache.load(str(tmp_path), NAME) is None, length
    path.write_bytes(sound)
    assert cache.load(str(tmp_path), NAME) is not None


def with_digest(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "body",
    [
        cache.MAGIC + NAME + (4).to_bytes(4, "little") + bytes(4) + b"1234",
        cache.MAGIC + NAME + bytes(8),
        cache.MAGIC + NAME + (8).to_bytes(4, "little") + bytes(4) + BPF,
        cache.MAGIC + NAME + (1 << 31).to_bytes(4, "little") + bytes(4) + BPF,
        cache.MAGIC + bytes(32) + len(BPF).to_bytes(4, "little") + bytes(4) + BPF,
        b"sbx-bpf0" + NAME + len(BPF).to_bytes(4, "little") + bytes(4) + BPF,
        b"",
    ],
    ids=["no multiple of 8", "no program", "too long", "too short", "other key", "magic", "empty"],
)
def test_entries_of_another_shape_are_not_believed(tmp_path: Path, body: bytes) -> None:
    cache.store(str(tmp_path), NAME, BPF, ())
    entry(tmp_path).write_bytes(with_digest(body))
    assert cache.load(str(tmp_path), NAME) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_an_entry_that_others_may_touch_is_not_believed(tmp_path: Path, mode: int) -> None:
    cache.store(str(tmp_path), NAME, BPF, ())
    entry(tmp_path).chmod(mode)
    assert cache.load(str(tmp_path), NAME) is None


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_may_reach_is_not_used(tmp_path: Path, mode: int) -> None:
    cache.store(str(tmp_path), NAME, BPF, ())
    (tmp_path / "seccomp").chmod(mode)
    assert cache.load(str(tmp_path), NAME) is None
    assert not cache.store(str(tmp_path), NAME, BPF, ())


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    real, other = tmp_path / "real", tmp_path / "other"
    cache.store(str(real), NAME, BPF, ())
    other.mkdir()
    (other / "seccomp").symlink_to(real / "seccomp")
    assert cache.load(str(other), NAME) is None
    assert not cache.store(str(other), NAME, BPF, ())
    path = entry(real)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert cache.load(str(real), NAME) is None
    # Storing replaces the link and leaves what it pointed to alone.
    assert cache.store(str(real), NAME, BPF * 2, ())
    assert not path.is_symlink()
    assert cache.load(str(real), NAME) == (BPF * 2, ())


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "seccomp").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "seccomp" / NAME.hex(), 0o600)
    assert cache.load(str(tmp_path), NAME) is None


def test_entries_of_somebody_else_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(str(tmp_path), NAME, BPF, ())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.load(str(tmp_path), NAME) is None
    assert not cache.store(str(tmp_path), NAME, BPF, ())


def test_what_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert not cache.store(str(tmp_path / "file"), NAME, BPF, ())
    assert make(STRICT, tmp_path / "file").filter == make(STRICT, None).filter
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) // 2)
    assert not cache.store(str(tmp_path), NAME, BPF, ())
    assert list((tmp_path / "seccomp").iterdir()) == []


def test_the_number_of_entries_is_bounded(tmp_path: Path) -> None:
    for i in range(300):
        cache.store(str(tmp_path), i.to_bytes(32, "big"), BPF, ())
    assert len(list((tmp_path / "seccomp").iterdir())) <= 256
    assert cache.load(str(tmp_path), (299).to_bytes(32, "big")) == (BPF, ())


def test_too_big_to_store(tmp_path: Path) -> None:
    assert not cache.store(str(tmp_path), NAME, BPF, ("x" * 100_000,))


def test_a_second_build_comes_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(STRICT, tmp_path)
    assert first == make(STRICT, None)
    monkeypatch.setattr("sandbox.seccomp._compile", None)
    assert make(STRICT, tmp_path) == first


def test_a_damaged_entry_is_compiled_again_and_replaced(tmp_path: Path) -> None:
    first = make(STRICT, tmp_path)
    path = entry(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])
    assert make(STRICT, tmp_path) == first
    assert path.read_bytes() == sound


def test_keys_tell_everything_apart_that_the_filter_depends_on(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}')
    wanted: list[tuple[Seccomp, dict[str, Any]]] = [
        (STRICT, {}),
        (STRICT.replace(sockets=("unix",)), {}),
        (STRICT.replace(base="deny"), {}),
        (STRICT.replace(base="deny", groups=("D1",)), {}),
        (STRICT, {"nested": True}),
        (STRICT.replace(base="deny"), {"landlock_tcp": True}),
        (STRICT.replace(profile=str(profile)), {}),
        (STRICT.replace(profile=str(profile)), {"capabilities": ("CHOWN",)}),
    ]
    for i, (seccomp, more) in enumerate(wanted, 1):
        options = {"nested": False, "capabilities": (), **more}
        program(seccomp, cache_dir=str(tmp_path), **options)
        assert len(list((tmp_path / "seccomp").iterdir())) == i
    profile.write_text('{"defaultAction": "SCMP_ACT_LOG", "syscalls": []}')
    make(STRICT.replace(profile=str(profile)), tmp_path)
    assert len(list((tmp_path / "seccomp").iterdir())) == len(wanted) + 1


def test_the_key_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(cache.__file__).parent
    for path in source.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    first = cache.key(b"w", b"")
    assert cache.key(b"w", b"") == first
    (tmp_path / "groups.py").write_text("# other\n")
    assert cache.key(b"w", b"") not in (first, b"")
    (tmp_path / "groups.py").unlink()
    assert cache.key(b"w", b"") == b""


def test_warnings_survive_the_cache(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ERRNO",'
        ' "syscalls": [{"names": ["read", "reed"], "action": "SCMP_ACT_ALLOW"}]}'
    )
    seccomp = Seccomp(profile=str(profile))
    expected = ("unknown system calls are ignored: reed",)
    assert make(seccomp, tmp_path).warnings == expected
    assert make(seccomp, tmp_path).warnings == expected


def test_a_profile_replaces_even_unconfined(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}')
    assert make(Seccomp("unconfined", profile=str(profile)), None).filter


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "no such file or directory"),
        ("folder", "it is neither a regular file nor a pipe"),
        ("fifo", "nothing came out of it for 0 s"),
        ("big", "it is bigger than 1048576 bytes"),
        ("nul", "embedded null byte"),
    ],
)
def test_profiles_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, cause: str
) -> None:
    monkeypatch.setattr(files, "WAIT_S", 0)
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "big":
        path.write_bytes(b" " * ((1 << 20) + 1))
    name = str(path) + ("\0" if kind == "nul" else "")
    with pytest.raises(PolicyError) as caught:
        make(Seccomp(profile=name), tmp_path)
    assert caught.value.what.startswith("cannot read the seccomp profile")
    assert caught.value.cause == cause


HEAVY = (
    "typing enum dataclasses re json pathlib subprocess socket selectors tomllib click msgspec "
    "tempfile shutil logging inspect contextlib datetime hashlib"
)


def test_the_start_path_imports_little(tmp_path: Path) -> None:
    """With a warm cache only `cache` is loaded; without it no heavy module either."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sandbox.policy.model import Seccomp\n"
        "from sandbox.seccomp import program\n"
        "program(Seccomp('allow'), nested=False, capabilities=(), cache_dir=sys.argv[2])\n"
        "print(*sys.modules)\n"
    )
    root = str(Path(sandbox.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", code, root, str(tmp_path)]
    cold, warm = (
        set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        for _ in range(2)
    )
    assert not (cold | warm) & set(HEAVY.split())
    ours = {name for name in warm if name.startswith("sandbox.seccomp")}
    assert ours == {"sandbox.seccomp", "sandbox.seccomp.cache"}
