"""The cache of compiled filters: what is stored comes back, and nothing else is believed."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.errors import PolicyError
from sandbox.linux import files, private_cache
from sandbox.policy.model import Seccomp
from sandbox.seccomp import Program, build, cache, program

STRICT = Seccomp("allow", (), ("unix", "inet", "inet6"))
KEY = b"of what"
BPF = b"\x06\0\0\0\0\0\xff\x7f" * 3


def make(seccomp: Seccomp, folder: Path | None, *, caps: tuple[str, ...] = ()) -> Program:
    where = None if folder is None else str(folder)
    return build(seccomp, nested=False, capabilities=caps, cache_dir=where)


def entry(folder: Path) -> Path:
    (found,) = (folder / "seccomp").iterdir()
    return found


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    assert cache.load(str(tmp_path), KEY) is None
    cache.store(str(tmp_path), KEY, BPF, ("one", "zw\u00f6lf", "\udcff"))
    assert cache.load(str(tmp_path), KEY) == (BPF, ("one", "zw\u00f6lf", "\udcff"))
    assert cache.load(str(tmp_path), b"another") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"rubbish",
        *map(marshal.dumps, ((), (BPF,), (BPF, ["w"]), ("text", ()), (b"", ()), (b"1234", ()))),
    ],
)
def test_entries_of_another_shape_are_not_believed(tmp_path: Path, body: bytes) -> None:
    assert private_cache.store(f"{tmp_path}/seccomp", KEY, body)
    assert cache.load(str(tmp_path), KEY) is None


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert make(STRICT, tmp_path / "file").filter == make(STRICT, None).filter


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
    first = cache.make_key(b"w", b"")
    assert cache.make_key(b"w", b"") == first
    (tmp_path / "groups.py").write_text("# other\n")
    assert cache.make_key(b"w", b"") not in (first, b"")
    (tmp_path / "groups.py").unlink()
    assert cache.make_key(b"w", b"") == b""


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
