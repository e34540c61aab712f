"""Sandboxes side by side, parts that die, and what reaches the caller's screen."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import probe
from tests.support.user import Belongings, children, wait_until_gone

GONE_WITHIN_S = 2.0
SETUP_FAILED = 125
EVIL = b"a\x1b]0;own\x07\xc2\x9b31m\xe2\x80\xae\xe2\x81\xa6\xff\x7f\rz"


def finish(running: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """The rest of the output of a run that must be ending; kills it after a deadline."""
    try:
        return running.communicate(timeout=30)
    finally:
        running.kill()


def ready(running: subprocess.Popen[bytes]) -> None:
    """Wait until the attack has said that it is under way."""
    assert running.stdout
    assert running.stdout.readline() == b"ready\n"


# ---- neighbours ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
def test_signals_reach_no_neighbour(sbx: Sbx, attack_rootfs: Path, policy: str) -> None:
    outside = subprocess.Popen(["sleep", "60"])
    other = sbx.start("run", attack_rootfs, "/attack", "tree")
    try:
        ready(other)
        words = ("run", "--policy", policy, attack_rootfs, "/attack")
        assert sbx(*words, "everybody").stdout == "done\n"
        assert sbx(*words, "group").returncode == 128 + signal.SIGKILL
        assert outside.poll() is None
        assert other.poll() is None
    finally:
        other.terminate()
        other.kill()
        finish(other)
        outside.kill()
        outside.wait()


@pytest.mark.parametrize("policy", ["strict", "default", "ci", "permissive"])
def test_neighbours_do_not_show(sbx: Sbx, attack_rootfs: Path, policy: str) -> None:
    other = sbx.start("run", attack_rootfs, "/attack", "tree")
    try:
        ready(other)
        done = sbx("run", "--policy", policy, attack_rootfs, "/probe")
        assert probe.parse(done.stdout)["processes"] == ""
    finally:
        other.kill()
        finish(other)


# ---- parts that die ------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["--init", "--no-init"])
@pytest.mark.parametrize("part", ["python", "launcher", "init", "python+launcher"])
def test_a_killed_part_takes_the_tree_along(
    sbx: Sbx, attack_rootfs: Path, part: str, init: str
) -> None:
    before = Belongings.look(sbx.cache)
    running = sbx.start("run", init, attack_rootfs, "/attack", "tree")
    ready(running)
    (launcher,) = children(running.pid)
    first = children(launcher)[0]
    targets = {"python": [running.pid], "launcher": [launcher], "init": [first]}
    for pid in targets.get(part, [running.pid, launcher]):
        os.kill(pid, signal.SIGKILL)
    finish(running)
    left = wait_until_gone(before, sbx.cache, GONE_WITHIN_S)
    for line in left:
        if line.startswith("process "):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[1].rstrip(":")), signal.SIGKILL)
    assert left == []


# ---- the status, the streams, the limits of sbx's own processes ---------------------------------


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_a_forged_status_is_not_believed(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path, init: str
) -> None:
    words = ("run", init, "--report", tmp_path / "r", attack_rootfs, "/attack", "forge", "3")
    assert sbx(*words).returncode == 3
    assert json.loads((tmp_path / "r").read_text())["code"] == 3


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 31, 32, 33, 34, 64])
def test_signals_are_exact(sbx: Sbx, attack_rootfs: Path, tmp_path: Path, number: int) -> None:
    """32 and 33 too, which C libraries keep to themselves."""
    words = ("--report", tmp_path / "r", attack_rootfs, "/attack", "signal", str(number))
    assert sbx("run", *words).returncode == 128 + number
    assert json.loads((tmp_path / "r").read_text())["signal"] == number


@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
def test_limits_of_the_init_stay(sbx: Sbx, attack_rootfs: Path, policy: str) -> None:
    """With RLIMIT_CPU 0 the kernel would kill the init, and the command's own status with it."""
    words = ("--policy", policy, attack_rootfs, "/attack", "init-limits")
    assert sbx("run", *words, timeout=20).returncode == 7


def test_flags_of_the_callers_streams_stay(sbx: Sbx, attack_rootfs: Path) -> None:
    reading, writing = os.pipe()
    feeding, fed = os.pipe()
    ends = (reading, writing, feeding, fed)
    before = [(fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, 1032)) for fd in ends]
    done = subprocess.run(
        [sbx.path, "run", "-i", str(attack_rootfs), "/attack", "streams"],
        env=sbx.env,
        stdin=feeding,
        stdout=writing,
        stderr=writing,
        timeout=30,
        check=False,
    )
    after = [(fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, 1032)) for fd in ends]
    text = os.read(reading, 4096)
    for fd in ends:
        os.close(fd)
    assert (done.returncode, text) == (0, b"spoiled\n")
    assert after == before


# ---- sbx's own folders --------------------------------------------------------------------------

OWN = (".cache/sbx", ".config/sbx")
LOOK = """
for d in /h/.cache/sbx /h/.config/sbx; do
    ls -A $d; echo evil >$d/x; mkdir $d/y; rmdir $d
done"""
RENAME = """
for d in .cache .config; do
    mv /h/$d /h/$d.old; mkdir -p /h/$d/sbx/policies; echo evil >/h/$d/sbx/policies/strict.toml
done"""


@pytest.fixture
def bound_home(sbx: Sbx, tmp_path: Path) -> tuple[Sbx, Path]:
    """An sbx whose folders lie in a HOME that is going to be bound."""
    home = tmp_path / "home"
    for name in OWN:
        (home / name).mkdir(parents=True, mode=0o700)
        (home / name / "mark").write_text("ours")
    env = {k: v for k, v in sbx.env.items() if not k.startswith("XDG_")}
    return Sbx(sbx.path, sbx.home, {**env, "HOME": str(home)}), home


def own_files(home: Path) -> list[str]:
    """Every file below sbx's folders that a run has not made itself."""
    found = [p for name in OWN for p in (home / name).rglob("*")]
    return sorted(p.name for p in found if p.name in ("mark", "x", "y", "strict.toml"))


@pytest.mark.parametrize("where", ["", "/.cache", "/.config"])
@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
def test_own_folders_do_not_show(
    bound_home: tuple[Sbx, Path], rootfs: Path, policy: str, where: str
) -> None:
    sbx, home = bound_home
    words = ("--policy", policy, "-v", f"{home}{where}:/h{where}", rootfs, "sh", "-c", LOOK)
    assert "mark" not in sbx("run", *words).stdout
    assert own_files(home) == ["mark", "mark"]


@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
def test_own_folders_behind_links_do_not_show(
    sbx: Sbx, rootfs: Path, tmp_path: Path, policy: str
) -> None:
    """HOME and the XDG folders are links; what they lead to is bound twice, once by its parent."""
    real = tmp_path / "disk/home"
    for name in OWN:
        (real / name).mkdir(parents=True, mode=0o700)
        (real / name / "mark").write_text("ours")
    (tmp_path / "home").symlink_to("disk/home")
    (tmp_path / "cache").symlink_to("home/.cache")
    env = {k: v for k, v in sbx.env.items() if not k.startswith("XDG_")}
    env |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    linked = Sbx(sbx.path, sbx.home, env)
    binds = ("-v", f"{tmp_path}/home:/h", "-v", f"{tmp_path}:/up:ro", "-v", f"{real}:/other:ro")
    looks = [LOOK, LOOK.replace("/h/", "/up/disk/home/"), LOOK.replace("/h/", "/other/")]
    done = linked("run", "--policy", policy, *binds, rootfs, "sh", "-c", "\n".join(looks))
    assert "mark" not in done.stdout, done
    assert own_files(real) == ["mark", "mark"]


def test_own_folders_cannot_be_moved_away(bound_home: tuple[Sbx, Path], rootfs: Path) -> None:
    """A new folder at the old name would hold the next run's policy and filter."""
    sbx, home = bound_home
    sbx("run", "-v", f"{home}:/h", rootfs, "sh", "-c", RENAME)
    assert own_files(home) == ["mark", "mark"]


@pytest.mark.parametrize("below", ["", "/twice"])
def test_own_folders_do_not_show_through_a_second_mount(
    bound_home: tuple[Sbx, Path], rootfs: Path, tmp_path: Path, below: str
) -> None:
    """HOME is mounted a second time on the host; that place, or the one above it, is bound."""
    sbx, home = bound_home
    above = tmp_path / "a b"
    (above / "twice").mkdir(parents=True)
    inside = f"/h{'/twice' * (not below)}"
    script = (LOOK + RENAME).replace("/h", inside)
    words = [sbx.path, "run", "-v", f"{above}{below}:/h", str(rootfs), "sh", "-c", script]
    mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, "sh", str(home), str(above / "twice"), *words],
        env=sbx.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Read-only file system" in done.stderr, done
    assert "mark" not in done.stdout
    assert own_files(home) == ["mark", "mark"]


@pytest.mark.parametrize("mode", ["", ":ro"])
@pytest.mark.parametrize("policy", ["strict", "default", "permissive"])
def test_a_link_on_the_way_to_own_folders_cannot_be_exchanged(
    bound_home: tuple[Sbx, Path], rootfs: Path, policy: str, mode: str
) -> None:
    """No mount can stand on a link and hold it where it is."""
    sbx, home = bound_home
    (home / "dots").mkdir()
    (home / ".config").rename(home / "dots" / "config")
    (home / "links").symlink_to("dots")
    (home / ".config").symlink_to("links/./config")
    script = RENAME.replace("mv /h/$d ", "rm /h/$d /h/links; mv /h/$d ")
    done = sbx("run", "--policy", policy, "-v", f"{home}:/h{mode}", rootfs, "sh", "-c", script)
    if not mode:
        assert done.returncode == SETUP_FAILED, done
        assert f".config in {home} is a link" in done.stderr
    assert own_files(home) == ["mark", "mark"]
    assert (home / ".config").is_symlink()
    assert (home / "links").is_symlink()
    # What lies below, and has no such link in it, can be written to.
    words = ("-v", f"{home}/dots:/h", rootfs, "sh", "-c", "echo 1 >/h/made")
    done = sbx("run", "--policy", policy, *words)
    assert (done.returncode, (home / "dots" / "made").read_text()) == (0, "1\n"), done


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_own_folders_do_not_show_in_the_root(
    bound_home: tuple[Sbx, Path], rootfs: Path, policy: str
) -> None:
    """The root itself may hold them: HOME as root file system, or the host's own."""
    sbx, home = bound_home
    shutil.copytree(rootfs, home, symlinks=True, dirs_exist_ok=True)
    words = ("--policy", policy, home, "sh", "-c", LOOK.replace("/h/", "/"))
    done = sbx("run", *words)
    assert "mark" not in done.stdout, done
    assert own_files(home) == ["mark", "mark"]


def test_a_policy_of_the_current_folder_is_not_taken(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path
) -> None:
    for name in ("strict", "strict.toml", "policies/strict.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('summary = "evil"\nextends = "permissive"\n')
    done = sbx("run", "--policy", "strict", attack_rootfs, "/probe", cwd=tmp_path)
    assert probe.leaks(probe.parse(done.stdout)) == {}


# ---- what reaches the screen --------------------------------------------------------------------


def is_plain(text: str) -> bool:
    """Only printable characters and newlines: no control, no bidi, no invalid UTF-8."""
    return all(c == "\n" or c.isprintable() for c in text)


@pytest.mark.parametrize(
    "words",
    [
        [b"run", b"ROOT", EVIL],
        [b"run", b"ROOT", b"/" + EVIL],
        [b"run", b"--", b"ROOT", EVIL, EVIL],
        [b"run", EVIL, b"sh"],
        [b"run", b"/nowhere/" + EVIL, b"sh"],
        [b"run", b"--policy", EVIL, b"ROOT", b"sh"],
        [b"run", b"--policy", b"./" + EVIL, b"ROOT", b"sh"],
        [b"run", b"-v", EVIL + b":/x", b"ROOT", b"sh"],
        [b"run", b"-v", b"/nowhere" + EVIL + b":/x", b"ROOT", b"sh"],
        [b"run", b"-v", b"/tmp:/proc/" + EVIL, b"ROOT", b"sh"],
        [b"run", b"-v", b"/tmp:/etc/passwd/" + EVIL, b"ROOT", b"sh"],
        [b"run", b"--mount", EVIL, b"ROOT", b"sh"],
        [b"run", b"--tmpfs", b"/x:" + EVIL, b"ROOT", b"sh"],
        [b"run", b"-w", EVIL, b"ROOT", b"sh"],
        [b"run", b"-w", b"/" + EVIL, b"ROOT", b"sh"],
        [b"run", b"-u", EVIL, b"ROOT", b"sh"],
        [b"run", b"-h", EVIL, b"ROOT", b"sh"],
        [b"run", b"-e", EVIL, b"ROOT", b"/nothing"],
        [b"run", b"-e", EVIL + b"=1", b"ROOT", b"/nothing"],
        [b"run", b"--env-file", EVIL, b"ROOT", b"sh"],
        [b"run", b"--name", EVIL, b"ROOT", b"sh"],
        [b"run", b"--ulimit", EVIL, b"ROOT", b"sh"],
        [b"run", b"--timeout", EVIL, b"ROOT", b"sh"],
        [b"run", b"--net", EVIL, b"ROOT", b"sh"],
        [b"run", b"--cap-add", EVIL, b"ROOT", b"sh"],
        [b"run", b"--security-opt", b"seccomp=" + EVIL, b"ROOT", b"sh"],
        [b"run", b"--report", b"/nowhere/" + EVIL, b"ROOT", b"/probe", b"--ids"],
        [b"run", b"--report", b"-", b"ROOT", EVIL],
        [b"run", b"--debug", b"ROOT", EVIL],
        [b"run", b"--json", b"ROOT", EVIL],
        [b"run", b"--persist", EVIL, b"ROOT", b"sh"],
        [b"run", b"--status-fd", EVIL, b"ROOT", b"sh"],
        [b"run", b"--" + EVIL, b"ROOT", b"sh"],
        [b"run", b"--dry-run", b"ROOT", b"sh", EVIL],
        [b"explain", b"ROOT", b"sh", EVIL],
        [b"explain", b"-v", b"/tmp:/" + EVIL, b"ROOT", b"sh"],
        [b"policy", b"show", EVIL],
        [b"policy", b"check", EVIL],
        [b"rootfs", b"from-host", b"/nowhere/" + EVIL, EVIL],
        [EVIL],
        [b"--" + EVIL],
    ],
)
def test_names_are_shown_escaped(sbx: Sbx, attack_rootfs: Path, words: list[bytes]) -> None:
    root = os.fsencode(attack_rootfs)
    done = sbx(*(root if word == b"ROOT" else word for word in words), timeout=20)
    assert is_plain(done.stderr), done.stderr
    assert "Traceback" not in done.stderr or b"--debug" in words
    assert is_plain(done.stdout), done.stdout


@pytest.mark.parametrize(
    "content",
    [
        b"#!/" + EVIL.replace(b"\r", b"") + b"\n",
        b"#!" + b"/x" * 5000 + b"\n",
        b"\x7fELF" + EVIL * 20,
        b"\x7fELF\2\1\1" + b"\xff" * 4000,
        b"",
        EVIL,
    ],
)
def test_programs_are_described_escaped(
    sbx: Sbx, probe_program: Path, tmp_path: Path, content: bytes
) -> None:
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    (root / "program").write_bytes(content)
    (root / "program").chmod(0o755)
    done = sbx("run", root, "/program", timeout=20)
    assert done.returncode in (125, 126, 127)
    assert is_plain(done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_an_interpreter_is_named_escaped(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    """A well-formed ELF file whose PT_INTERP is made to be looked at."""
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    source = tmp_path / "main.c"
    source.write_text("int main(void){return 0;}\n")
    long = "/" + "x" * 60
    link = f"-Wl,--dynamic-linker={long}"
    done = subprocess.run(
        ["gcc", str(source), link, "-o", str(root / "program")], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no C compiler for the host")
    data = (root / "program").read_bytes()
    (root / "program").write_bytes(data.replace(long.encode(), b"/" + EVIL.ljust(60, b"y")))
    told = sbx("run", root, "/program", timeout=20)
    assert told.returncode in (126, 127)
    assert is_plain(told.stderr), told.stderr


@pytest.mark.parametrize(("count", "size"), [(20, 100_000), (1, 200_000), (200, 100_000)])
def test_huge_arguments(sbx: Sbx, attack_rootfs: Path, count: int, size: int) -> None:
    """The kernel's own limits stop the caller before ours in the last case."""
    try:
        done = sbx("run", attack_rootfs, "/attack", "signal", *["x" * size] * count)
    except OSError:
        return
    assert done.returncode in (0, 125, 126), done.stderr[-500:]
    assert len(done.stderr) < 5000


# ---- the report's folder ------------------------------------------------------------------------


@pytest.mark.parametrize("swap", ["folder", "file"])
def test_a_report_cannot_be_led_elsewhere(
    sbx: Sbx, rootfs: Path, canary: Path, tmp_path: Path, swap: str
) -> None:
    """The payload owns the folder above the report and puts links to a host folder there."""
    shared = tmp_path / "shared"
    (shared / "out").mkdir(parents=True)
    report = shared / "out" / canary.name
    script = {
        "folder": f"mv /s/out /s/was; ln -s {canary.parent} /s/out",
        "file": f"ln -s {canary} /s/out/{canary.name}",
    }[swap]
    done = sbx("run", "--report", report, "-v", f"{shared}:/s", rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    real = shared / ("was" if swap == "folder" else "out") / canary.name
    assert not real.is_symlink()
    assert json.loads(real.read_text())["reason"] == "exited"
