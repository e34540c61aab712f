"""What the value of each option means, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import values


def one(found: values.Settings) -> Any:
    ((_key, value),) = found
    return value[0] if isinstance(value, list) else value


def test_volume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert one(values.volume("/a:/b")) == {"source": "/a", "target": "/b"}
    assert one(values.volume("./a:/b:ro")) == {
        "source": f"{tmp_path}/a", "target": "/b", "read_only": True,
    }  # fmt: skip
    assert one(values.volume("../a/:/b:rw,optional")) == {
        "source": f"{tmp_path}/../a/", "target": "/b", "optional": True,
    }  # fmt: skip
    assert one(values.volume(".:/b"))["source"] == str(tmp_path)
    assert one(values.volume("sub/a:/b"))["source"] == f"{tmp_path}/sub/a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("data:/b", "named volumes do not exist"), ("/a", "must be"), (":/b", "must be"),
     ("./a:b:/c", "a colon goes into --mount"),
     ("/a:", "must be"), ("/a:/b:z", '"z"'), ("/a:/b:ro,rw", "both"), ("/a:/b:ro:x", "must be"),
     ("", "must be"), ("/a:/b:", "not known")],
)  # fmt: skip
def test_no_volume(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.volume(text)


def test_relative_source_without_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match="current folder is gone"):
        values.volume("./a:/b")
    assert one(values.volume("/a:/b"))["source"] == "/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,source=/a,target=/b", {"source": "/a", "target": "/b"}),
        ("src=/a,dst=/b,ro", {"source": "/a", "target": "/b", "read_only": True}),
        (
            "type=bind,src=/a,destination=/b,readonly=false,optional",
            {"source": "/a", "target": "/b", "read_only": False, "optional": True},
        ),
    ],
)
def test_bind_mount(text: str, expected: object) -> None:
    assert one(values.mount(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("type=volume,source=a,target=/b", "named volumes do not exist"),
        ("type=bind,source=a,target=/b", "named volumes"),
        ("type=bind,target=/b", "needs source"),
        ("type=bind,source=/a", "needs target"),
        ("type=bind,source=/a,target=/b,bind-propagation=shared", "bind-propagation"),
        ("type=bind,source=/a,src=/c,target=/b", "given twice"),
        ("type=bind,source=/a,target=/b,readonly=maybe", "true or false"),
        ("type=tmpfs,target=/b,readonly", '"readonly" is not known here'),
        ("type=tmpfs", "needs target"),
        ("", "empty part"),
    ],
)
def test_no_mount(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.mount(text)


def test_tmpfs() -> None:
    assert one(values.tmpfs("/t")) == {"target": "/t"}
    found = one(values.tmpfs("/t:rw,nosuid,size=64m,mode=1777,inodes=10,noexec"))
    assert found == {
        "target": "/t", "size": "64m", "inodes": 10, "mode": "1777", "noexec": True,
    }  # fmt: skip
    assert one(values.mount("type=tmpfs,dst=/t,tmpfs-size=1k,tmpfs-mode=700,noexec")) == {
        "target": "/t", "size": "1k", "mode": "700", "noexec": True,
    }  # fmt: skip
    assert one(values.tmpfs("/t:exec"))["noexec"] is False


@pytest.mark.parametrize("text", ["", "/t:", "/t:inodes=x", "/t:dev", "/t:size"])
def test_no_tmpfs(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.tmpfs(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBX_TEST", "caller's")
    monkeypatch.delenv("SBX_ABSENT", raising=False)
    assert values.environment("A=b=c") == [("process.env", {"A": "b=c"})]
    assert values.environment("A=") == [("process.env", {"A": ""})]
    assert values.environment("SBX_TEST") == [("process.env", {"SBX_TEST": "caller's"})]
    assert values.environment("SBX_ABSENT") == []
    for text in ("", "=x"):
        with pytest.raises(ValueError, match="NAME"):
            values.environment(text)


def test_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SBX_TEST", "1")
    file = tmp_path / "env"
    file.write_bytes(b'# note\n\nA=1\r\n  B="x y" # kept\nSBX_TEST\nC=\xff\nA=2\nD=\n')
    assert one(values.env_file(str(file))) == {
        "A": "2", "B": '"x y" # kept', "SBX_TEST": "1", "C": "\udcff", "D": "",
    }  # fmt: skip
    file.write_text("A=1\nB C=2\n")
    with pytest.raises(ValueError, match=r'line 2 of ".*env" must be'):
        values.env_file(str(file))
    with pytest.raises(ValueError, match="no such file or directory"):
        values.env_file(str(tmp_path / "none"))


def test_user() -> None:
    assert values.user("0") == [("identity.user", "0")]
    assert values.user("ana:staff") == [("identity.user", "ana"), ("identity.group", "staff")]
    for text in ("", ":1", "1:"):
        with pytest.raises(ValueError, match="USER"):
            values.user(text)


def test_security_options() -> None:
    assert values.security_option("seccomp=unconfined") == [("seccomp.base", "unconfined")]
    assert values.security_option("seccomp=/p.json") == [("seccomp.profile", "/p.json")]
    for text in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
        assert values.security_option(text) == []
    for text in ("no-new-privileges:false", "apparmor=x", "label=disable", "seccomp=", ""):
        with pytest.raises(ValueError, match=r"."):
            values.security_option(text)


def test_ulimit() -> None:
    assert values.ulimit("nofile=10:20") == [("rlimits", {"nofile": "10:20"})]
    assert values.ulimit("RLIMIT_CORE=0") == [("rlimits", {"core": "0"})]
    for text in ("nofile", "nofile=", "=1", ""):
        with pytest.raises(ValueError, match="NAME=SOFT"):
            values.ulimit(text)


def test_descriptors() -> None:
    read_end, write_end = os.pipe()
    try:
        assert values.passed_descriptor(str(read_end)) == read_end
    finally:
        os.close(read_end)
        os.close(write_end)
    for text, reason in (
        (str(read_end), "not open"), ("2", "taken"), ("-1", "whole"), ("x", "whole"),
        ("9999999999999999999", "not open"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            values.passed_descriptor(text)
    original = os.open(os.devnull, os.O_RDONLY)
    duplicate = os.dup2(original, 105)
    try:
        with pytest.raises(ValueError, match="launcher"):
            values.passed_descriptor("105")
    finally:
        os.close(duplicate)
        os.close(original)


def test_sandbox_names() -> None:
    for text in ("a", "a-b_c.d", "0", "a" * 63):
        assert values.sandbox_name(text) == text
    for text in ("", "-a", ".a", "a/b", "a\n", "ä", "a" * 64, "..", "a b"):
        with pytest.raises(ValueError, match="must be"):
            values.sandbox_name(text)
