"""Bad input gets its own clear error before anything is created."""

import json
from pathlib import Path

import pytest

from tests.conftest import Sbx


def check(sbx: Sbx, *words: object, code: int, says: tuple[str, ...]) -> None:
    """Run, and expect one error in sbx's form that names every word of `says`."""
    done = sbx("run", *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("sbx: error: "), done.stderr
    assert "Traceback" not in done.stderr
    for word in says:
        assert word in done.stderr, done.stderr


def test_missing_rootfs(sbx: Sbx, tmp_path: Path) -> None:
    check(sbx, tmp_path / "nowhere", "true", code=125, says=(f"{tmp_path}/nowhere",))


def test_file_as_rootfs(sbx: Sbx, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check(sbx, tmp_path / "file", "true", code=125, says=(f"{tmp_path}/file", "director"))


def test_empty_rootfs_name(sbx: Sbx) -> None:
    done = sbx("run", "", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("sbx: error: ")


@pytest.mark.parametrize("target", ["data", "./data", "../data"])
def test_relative_target(sbx: Sbx, rootfs: Path, tmp_path: Path, target: str) -> None:
    check(sbx, "-v", f"{tmp_path}:{target}", rootfs, "true", code=2, says=(target, "absolute"))


def test_target_with_dots(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("run", "-v", f"{tmp_path}:/a/../../b", rootfs, "true")
    assert done.returncode == 2
    assert "/a/../../b" in done.stderr


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/sys", "/dev", "/sys/kernel"])
def test_protected_targets(sbx: Sbx, rootfs: Path, tmp_path: Path, target: str) -> None:
    done = sbx("run", "-v", f"{tmp_path}:{target}", rootfs, "true")
    assert done.returncode == 2, done.stderr
    assert target in done.stderr


def test_overlapping_targets(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("run", "-v", f"{tmp_path}:/data", "--tmpfs", "/data", rootfs, "true")
    assert done.returncode == 2, done.stderr
    assert "/data" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-w", "/nope"], "cannot start in /nope"),
        (["-v", "FILE:/bin"], "a folder is there"),
        (["-v", "DIR:/bin/sh"], "a file is there"),
        (["-v", "DIR:/data:ro", "-v", "DIR:/data/sub"], "/data is a read-only volume"),
        (["--tmpfs", "/bin/sh"], "cannot mount a tmpfs on /bin/sh"),
    ],
)
def test_places_that_cannot_be(
    sbx: Sbx, rootfs: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    """Refused before anything is made: no step of a plan fails."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    words = [w.replace("DIR", f"{tmp_path}/dir").replace("FILE", f"{tmp_path}/file") for w in words]
    done = sbx("run", *words, rootfs, "true")
    assert done.returncode == 125, done.stderr
    assert done.stderr.startswith("sbx: error: ")
    assert says in done.stderr
    assert "step " not in done.stderr
    done = sbx("explain", *words, rootfs, "true")
    assert done.returncode == 125, done.stdout


def test_unknown_policy(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--policy", "strickt", rootfs, "true")
    assert done.returncode == 125
    assert "strickt" in done.stderr


def test_cyclic_extends(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "./b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "./a.toml"\n')
    done = sbx("run", "--policy", tmp_path / "a.toml", rootfs, "true", cwd=tmp_path)
    assert done.returncode == 125
    assert "extends itself" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_problems_of_a_policy_at_once(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "bad.toml"
    policy.write_text(
        'extends = "strict"\nnonsense = 1\n[process]\ntimeout = "soon"\n'
        '[network]\nmode = "nat"\n[filesystem]\nsize = "many"\n'
    )
    done = sbx("run", "--policy", policy, rootfs, "true")
    assert done.returncode == 125
    for word in ("nonsense", "process.timeout", "network.mode", "filesystem.size", "bad.toml"):
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("bad", ["a\nb", "a=b", ""])
def test_odd_names(sbx: Sbx, rootfs: Path, bad: str) -> None:
    done = sbx("run", "--name", bad, rootfs, "true")
    assert done.returncode == 2, done.stderr
    done = sbx("run", "--hostname", bad, rootfs, "true")
    assert done.returncode == 2, done.stderr


def test_newline_in_a_variable_name(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "-e", "A\nB=1", rootfs, "true")
    assert done.returncode == 2
    assert "A\nB" not in done.stderr


def test_nul_in_an_environment_file(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"A=1\0B=2\n")
    done = sbx("run", "--env-file", tmp_path / "env", rootfs, "true")
    assert done.returncode == 2
    assert done.stderr.startswith("sbx: error: ")


def test_argument_longer_than_the_kernel_takes(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """One string of argv is at most 128 KiB: said by sbx for its own argument 200 KiB long."""
    big = "x" * (100 << 10)
    done = sbx("run", rootfs, "sh", "-c", "echo ${#1}", "sh", big)
    assert (done.returncode, done.stdout.strip()) == (0, str(100 << 10)), done.stderr
    (tmp_path / "env").write_text(f"BIG={'x' * (200 << 10)}\n")
    done = sbx("run", "--env-file", tmp_path / "env", rootfs, "true")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("sbx: error: ")
    assert len(done.stderr) < 4096


def test_many_arguments_of_200_kib_together(sbx: Sbx, rootfs: Path) -> None:
    words = ["y" * 1000] * 200
    done = sbx("run", rootfs, "sh", "-c", "echo $#", "sh", *words)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


@pytest.mark.parametrize("word", ["--read-only", "-v", "--policy=strict", "--bind"])
def test_option_looking_command(sbx: Sbx, rootfs: Path, word: str) -> None:
    check(sbx, rootfs, word, "x", code=2, says=(word, "option"))


def test_option_looking_arguments_belong_to_the_command(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "sh", "-c", 'echo "$@"', "sh", "--policy", "x", "-v", "a:b")
    assert (done.returncode, done.stdout) == (0, "--policy x -v a:b\n"), done.stderr


def test_error_as_json(sbx: Sbx, tmp_path: Path) -> None:
    done = sbx("run", "--json", tmp_path / "nowhere", "true")
    found = json.loads(done.stderr or done.stdout)
    assert found["exit_code"] == done.returncode == 125
    assert f"{tmp_path}/nowhere" in found["what"]


def test_unknown_user(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "-u", "nobody-here", rootfs, "true")
    assert done.returncode == 125
    assert "nobody-here" in done.stderr


def test_control_characters_are_escaped(sbx: Sbx, tmp_path: Path) -> None:
    done = sbx("run", f"{tmp_path}/\x1b[31mred", "true")
    assert done.returncode == 125
    assert "\x1b" not in done.stderr


def test_nothing_is_created(sbx: Sbx, tmp_path: Path) -> None:
    sbx("run", "--persist", tmp_path / "kept", tmp_path / "nowhere", "true")
    assert not (tmp_path / "kept").exists()
