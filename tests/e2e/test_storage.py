"""A root file system that overlayfs does not take, although this host can mount overlays."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx

# An overlay over an overlay is as deep as the kernel stacks file systems. The mounts need a user
# namespace of their own; another one inside gives the caller its number back.
_STACK = """
set -e
mkdir mid top memory
mount -t tmpfs memory memory
mkdir memory/u memory/w memory/u2 memory/w2
mount -t overlay o -o lowerdir="$ROOTFS",upperdir=memory/u,workdir=memory/w,userxattr mid
mount -t overlay o -o lowerdir=mid,upperdir=memory/u2,workdir=memory/w2,userxattr top
exec unshare --user --map-user="$NUMBER" --map-group="$NUMBER" "$@"
"""
_SINGLE = 'extends = "default"\n[identity]\nmap = "single"\n'


def on_deep_overlay(
    sbx: Sbx, rootfs: Path, folder: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    (folder / "single.toml").write_text(_SINGLE)
    argv = [sbx.path, "run", "-i", "--report", "report", "--policy", "./single.toml", *options]
    argv += ["top", "sh", "-c", "cat; : > /made && echo made"]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _STACK, "sh", *argv],
        input="given\n",
        capture_output=True,
        text=True,
        cwd=folder,
        env={**sbx.env, "ROOTFS": str(rootfs), "NUMBER": str(os.getuid() or 1000)},
        timeout=60,
        check=False,
    )
    return done, json.loads((folder / "report").read_text())


def test_it_is_copied_aloud_and_the_input_is_whole(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done, report = on_deep_overlay(sbx, rootfs, tmp_path)
    assert (done.returncode, done.stdout) == (0, "given\nmade\n"), done.stderr
    assert "preparing a copy of the root file system: overlayfs refuses top" in done.stderr
    assert report["storage"] == "copy"
    assert "overlayfs refuses" in str(report["storage_reason"])


def test_a_read_only_root_needs_no_copy(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done, report = on_deep_overlay(sbx, rootfs, tmp_path, "--read-only")
    assert done.stdout == "given\n"
    assert "read-only file system" in done.stderr.lower()
    assert report["storage"] == "bind"


def test_a_read_only_root_without_mount_points_is_copied(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    volume = ("-v", f"{tmp_path}:/mount/point")
    done, report = on_deep_overlay(sbx, rootfs, tmp_path, "--read-only", *volume)
    assert done.stdout == "given\n", done.stderr
    assert report["storage"] == "copy"


@pytest.mark.parametrize("options", [("--storage", "overlay"), ("--persist", "kept")])
def test_an_overlay_that_was_asked_for_is_an_error(
    sbx: Sbx, rootfs: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done, report = on_deep_overlay(sbx, rootfs, tmp_path, *options)
    assert (done.returncode, done.stdout) == (125, "")
    assert "through overlayfs" in done.stderr
    assert report["reason"] == "setup-failed"


def test_a_copy_by_root_of_a_namespace_without_groups(sbx: Sbx, rootfs: Path) -> None:
    """As in `unshare -r`: nobody there can set groups, and a copy needs none."""
    words = ["unshare", "-r", sbx.path, "run", "--storage", "copy", str(rootfs), "sh", "-c"]
    done = subprocess.run(
        [*words, "echo hi"], env=sbx.env, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
