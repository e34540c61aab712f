"""Root file systems at odd paths: overlaid or copied, the same."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx

NAMES = {
    "comma": "a,b",
    "colon": "a:b",
    "backslash": "a\\b",
    "options": "x,lowerdir=y:z\\,upperdir=w",
    "spaces": " a  b ",
    "octal": "\\054",
    "bytes": os.fsdecode(b"\xff\xfe"),
    "dash": "-r",
    "percent": "%s$(id)",
}
STORAGES = ("overlay", "copy")
CHANGE = "rm -rf /var && mkdir /var && echo new > /var/file && ls -A /var"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_options_of_mounts_give_a_meaning(
    sbx: Sbx, rootfs: Path, tmp_path: Path, name: str, storage: str
) -> None:
    odd = tmp_path / name
    odd.mkdir()
    subprocess.run(["cp", "-a", "--reflink=auto", "--", rootfs, odd / "root"], check=True)
    words = ("run", "--storage", storage, "-u", "0", odd / "root", "sh", "-c", CHANGE)
    done = sbx(*words)
    assert (done.returncode, done.stdout) == (0, "file\n"), done.stderr
    assert not (odd / "root/var/file").exists()
