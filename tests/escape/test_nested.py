"""sbx inside other sandboxes: strict names all that is missing, default what it does without."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sbx

Inside = Callable[..., subprocess.CompletedProcess[str]]
ROOT = "/mnt"


@pytest.fixture
def folders(sbx: Sbx, tmp_path: Path) -> dict[str, str]:
    """The environment of the inner sbx: folders that both see under the same name."""
    kept = {name: sbx.env[name] for name in ("PATH", "HOME") if name in sbx.env}
    return kept | {f"XDG_{name}_HOME": str(tmp_path) for name in ("CACHE", "CONFIG", "STATE")}


@pytest.fixture
def in_bubblewrap(sbx: Sbx, rootfs: Path, folders: dict[str, str]) -> Inside:
    """One id, no_new_privs, and a /proc of which a part is covered."""
    path = shutil.which("bwrap")
    if not path:
        pytest.skip("bubblewrap is not installed")
    shown = ("--dev-bind", "/", "/", "--proc", "/proc", "--bind", str(rootfs), ROOT)
    covered = ("--ro-bind", "/dev/null", "/proc/uptime")
    words = (path, "--unshare-all", *shown, *covered, sbx.path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [*words, *map(str, arguments)]
        return subprocess.run(
            argv, capture_output=True, text=True, env=folders, timeout=60, check=False
        )

    return run


@pytest.fixture(params=["permissive", "permissive --user 0", "default"])
def outer(request: pytest.FixtureRequest) -> str:
    """How the outer sbx runs: with one id for the inner, with a range, or refusing it all."""
    return str(request.param)


@pytest.fixture
def in_sbx(sbx: Sbx, rootfs: Path, folders: dict[str, str], outer: str, tmp_path: Path) -> Inside:
    """The host's own root read-only, with sbx's usual cover over parts of /proc."""
    shown = ("-v", f"{tmp_path}:{tmp_path}", "-v", f"{rootfs}:{ROOT}:ro")
    env = [word for name, value in folders.items() for word in ("-e", f"{name}={value}")]
    words = ("run", "-q", "--policy", *outer.split(), *shown, *env, "/", sbx.path)
    return lambda *arguments: sbx(*words, *arguments)


def report_of(path: Path) -> tuple[list[str], list[str]]:
    """(layers that were lost, layers in force)."""
    found = json.loads(path.read_text())
    return [lost["layer"] for lost in found["degradations"]], found["layers"]


def test_strict_in_bubblewrap(in_bubblewrap: Inside) -> None:
    done = in_bubblewrap("run", "--policy", "strict", ROOT, "true")
    assert done.returncode == 125
    assert "this host lacks what the policy demands" in done.stderr
    assert "subids: cannot use newuidmap" in done.stderr
    assert "proc: cannot mount /proc" in done.stderr
    assert "such as /proc/uptime" in done.stderr


def test_default_in_bubblewrap(in_bubblewrap: Inside, tmp_path: Path) -> None:
    done = in_bubblewrap("run", "--report", tmp_path / "r", ROOT, "sh", "-c", "id -u; ls /proc")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 1
    assert "without all user ids inside but one" in done.stderr
    assert "without /proc: it is empty inside" in done.stderr
    lost, layers = report_of(tmp_path / "r")
    assert {"subids", "proc"} <= set(lost)
    assert {"landlock", "seccomp", "user namespace", "net namespace"} <= set(layers)


def test_strict_in_sbx(in_sbx: Inside, outer: str) -> None:
    done = in_sbx("run", "--policy", "strict", ROOT, "true")
    assert done.returncode == 125
    if outer == "default":
        assert "cannot create a user namespace" in done.stderr
        assert "seccomp filter" in done.stderr
        return
    assert "cannot mount /proc" in done.stderr
    assert ("subids: cannot use newuidmap" in done.stderr) == (outer == "permissive")


def test_default_in_sbx(in_sbx: Inside, outer: str, tmp_path: Path) -> None:
    words = ("--report", tmp_path / "r", ROOT, "sh", "-c", "id -u; ls /proc")
    done = in_sbx("run", *words)
    if outer == "default":
        assert done.returncode == 125
        assert "cannot create a user namespace" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 1
    assert "without /proc: it is empty inside" in done.stderr
    assert "max_user_namespaces: read-only" in done.stderr
    lost, layers = report_of(tmp_path / "r")
    assert ("subids" in lost) == (outer == "permissive")
    assert {"landlock", "seccomp", "user namespace", "net namespace"} <= set(layers)


@pytest.mark.parametrize("outer", ["permissive --user 0"], indirect=True)
def test_root_of_a_container_gives_ids_away(in_sbx: Inside) -> None:
    """What the outer sandbox has mapped is what the inner one can map, and no more."""
    assert in_sbx("run", "--user", "5:6", ROOT, "id", "-u").stdout == "5\n"
    done = in_sbx("run", "--user", "70000", ROOT, "id", "-u")
    assert done.returncode == 125
    assert "cannot exist inside" in done.stderr
