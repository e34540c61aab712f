"""Where the kernel gives less: in a user namespace of one id, no helper can gain rights."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import capabilities


def run_without_ranges(sbx: Sbx, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run sbx as user of a namespace whose only id is the caller's."""
    missing = capabilities.user_namespace()
    if missing:
        pytest.skip(missing)
    # The facts of this host are kept there.
    folders = {"XDG_RUNTIME_DIR": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        ["unshare", "--user", "--map-current-user", sbx.path, "run", *map(str, words)],
        env={**sbx.env, **folders},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_strict_says_what_is_missing_and_refuses(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = run_without_ranges(sbx, tmp_path, "--policy", "strict", rootfs, "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "newuidmap" in done.stderr


@pytest.mark.parametrize("policy", ["default", "ci", "permissive"])
def test_others_run_with_one_id_and_say_so(
    sbx: Sbx, rootfs: Path, tmp_path: Path, policy: str
) -> None:
    words = ("--policy", policy, "--report", tmp_path / "r", rootfs, "sh", "-c", "echo ran")
    done = run_without_ranges(sbx, tmp_path, *words)
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    report = json.loads((tmp_path / "r").read_text())
    assert report["identity"] == "single"
    lost = [entry["lost"] for entry in report["degradations"] if entry["layer"] == "subids"]
    assert lost
    assert all(what in done.stderr for what in lost)
