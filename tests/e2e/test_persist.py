"""--persist: which folders it takes, one run at a time, and how they are removed."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.conftest import Sbx


def write(sbx: Sbx, rootfs: Path, keep: Path, script: str, *options: str) -> None:
    done = sbx("run", "-u", "0", *options, "--persist", keep, rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def test_the_folder_is_made_for_the_caller_alone(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    write(sbx, rootfs, keep, "echo 1 > /mark")
    assert stat.S_IMODE(keep.stat().st_mode) == 0o700
    done = sbx("run", "-u", "0", "--persist", keep, rootfs, "cat", "/mark")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_an_empty_folder_is_closed_to_others(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir(mode=0o755)
    write(sbx, rootfs, keep, "cp /bin/true /t && chmod 4755 /t")
    assert stat.S_IMODE(keep.stat().st_mode) == 0o700


def test_a_mark_that_was_cut_off_is_written_again(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "layer.new").write_text("sbx lay")
    write(sbx, rootfs, keep, ":")
    assert sorted(path.name for path in keep.iterdir()) == ["layer", "upper", "work"]


def test_folders_that_are_not_its_own_are_refused(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("precious")
    pretender = tmp_path / "pretender"
    pretender.mkdir()
    (pretender / "layer").write_text("some layer")
    (tmp_path / "link").symlink_to(rootfs)
    before = {path: sorted(os.listdir(path)) for path in (full, pretender, rootfs)}
    own = sbx.cache / "sbx" / "kept"
    inside, outside = rootfs / "var" / "kept", rootfs.parent
    for keep in (
        full,
        pretender,
        rootfs,
        tmp_path / "link",
        inside,
        outside,
        own,
        "/",
        "/dev/null",
    ):
        done = sbx("run", "--persist", keep, rootfs, "true")
        assert (done.returncode, done.stdout) == (125, ""), (keep, done.stderr)
        assert "cannot keep changes in" in done.stderr
        assert "cause: " in done.stderr
    assert before == {path: sorted(os.listdir(path)) for path in before}
    assert not inside.exists()
    assert not own.exists()


@pytest.mark.parametrize(
    "options", [("--read-only",), ("--policy", "strict"), ("--storage", "copy")]
)
def test_a_run_that_could_keep_nothing_is_refused(
    sbx: Sbx, rootfs: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = sbx("run", *options, "--persist", tmp_path / "keep", rootfs, "true")
    assert done.returncode == 2, done.stderr
    assert "--persist: " in done.stderr
    assert not (tmp_path / "keep").exists()


def test_a_run_that_never_starts_makes_no_folder(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("run", "--persist", tmp_path / "keep", "--user", "nobody-here", rootfs, "true")
    assert done.returncode == 125
    done = sbx("explain", "--persist", tmp_path / "keep", rootfs, "true")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_run_at_a_time(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    first = sbx.start("run", "--persist", keep, rootfs, "sh", "-c", "echo in; sleep 60")
    assert first.stdout is not None
    assert first.stdout.readline() == b"in\n"
    for words in (("run", "--persist", keep, rootfs, "true"), ("layer", "rm", keep)):
        done = sbx(*words)
        assert (done.returncode, done.stdout) == (125, "")
        assert "another run uses it" in done.stderr
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    end = time.monotonic() + 30
    while sbx("run", "--persist", keep, rootfs, "true").returncode and time.monotonic() < end:
        time.sleep(0.05)
    write(sbx, rootfs, keep, ":")


def test_another_user_inside_and_another_root_are_told(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    keep, other = tmp_path / "keep", tmp_path / "other"
    write(sbx, rootfs, keep, "echo 1 > /mark")
    done = sbx("run", "--persist", keep, rootfs, "cat", "/mark")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "show other owners than when made" in done.stderr
    assert sbx("rootfs", "from-host", other, "sh", "cat").returncode == 0
    done = sbx("run", "-u", "0", "--persist", keep, other, "cat", "/mark")
    assert done.returncode == 0
    assert f"made over another root file system: {rootfs}" in done.stderr


def test_other_ids_of_the_host_are_refused(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    write(sbx, rootfs, keep, "echo 1 > /mark && chown 33:33 /mark")
    single = tmp_path / "single.toml"
    single.write_text('extends = "default"\n[identity]\nmap = "single"\n')
    done = sbx("run", "--policy", single, "--persist", keep, rootfs, "cat", "/mark")
    assert (done.returncode, done.stdout) == (125, "")
    assert "made under the ids" in done.stderr


def test_a_layer_is_hidden_from_volumes_above_it(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    write(sbx, rootfs, keep, "echo 1 > /mark")
    script = "ls /all/keep; echo forged > /all/keep/layer; mv /all/keep /all/moved; cat /mark"
    done = sbx(
        "run", "-u", "0", "-v", f"{tmp_path}:/all", "--persist", keep, rootfs, "sh", "-c", script
    )
    assert done.stdout == "1\n"
    assert (keep / "layer").read_text().startswith("sbx layer 1\n")
    done = sbx("run", "-v", f"{keep}/upper:/u", "--persist", keep, rootfs, "true")
    assert (done.returncode, "belongs to sbx itself" in done.stderr) == (125, True)


def test_removal_reaches_files_of_other_users_inside(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "keep"
    script = "mkdir -p /a/b && touch /a/b/c && chown -R 33:33 /a && chmod 700 /a /a/b"
    write(sbx, rootfs, keep, script)
    assert (keep / "upper" / "a").stat().st_uid != os.getuid()
    with pytest.raises(PermissionError):
        os.listdir(keep / "upper" / "a")
    assert sbx("layer", "rm", keep).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_removal_takes_nothing_else(sbx: Sbx, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "layer").write_text("some layer")
    for path in (tmp_path / "folder", tmp_path / "nothing", tmp_path / "folder" / "layer"):
        done = sbx("layer", "rm", path)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"cannot remove {path}" in done.stderr
    assert (tmp_path / "folder" / "layer").read_text() == "some layer"
