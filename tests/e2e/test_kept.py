"""Detached sandboxes: whoever dies, and whatever is full, nothing runs on and the state is true."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.runtime.description import decode, encode
from tests.conftest import Sbx
from tests.support.living import living, shell
from tests.support.user import children


@pytest.fixture
def own(sbx: Sbx, tmp_path: Path) -> Iterator[Sbx]:
    """The command with folders of this test alone; what it started is gone at the end."""
    mine = Sbx(sbx.path, tmp_path, {**sbx.env, "XDG_STATE_HOME": str(tmp_path / "state")})
    yield mine
    for box in listed(mine):
        if box["pid"]:
            os.kill(box["pid"], signal.SIGKILL)
    wait_for(lambda: all(box["pid"] is None for box in listed(mine)))


def listed(sbx: Sbx) -> list[dict[str, Any]]:
    done = sbx("ps", "-a", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def wait_for(ready: Callable[[], object], deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not ready():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def state_of(sbx: Sbx, name: str) -> str:
    return str(next(box["state"] for box in listed(sbx) if name in (box["name"], box["id"])))


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def alive(pids: list[int]) -> list[int]:
    def is_alive(pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return False
        return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")

    return [pid for pid in pids if is_alive(pid)]


# ---- deaths --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--no-init",), ("--storage", "copy")])
def test_nothing_survives_a_killed_launcher(
    own: Sbx, rootfs: Path, options: tuple[str, ...]
) -> None:
    script = "trap '' TERM HUP INT; sleep 1000 & (sleep 1000 &) & wait"
    done = own("run", "-d", "--name", "x", *options, rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    entered = own.start("exec", "x", "sleep", "1000")
    pid = listed(own)[0]["pid"]
    wait_for(lambda: len(descendants(entered.pid)) >= 2)
    inside = descendants(pid) + descendants(entered.pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(inside))
    entered.communicate(timeout=20)
    assert state_of(own, "x") == "dead"
    assert own("exec", "x", "true").returncode == 125
    again = own("run", "-d", "--rm", "--name", "x", rootfs, "true")
    assert again.returncode == 0, again.stderr


def test_a_launcher_that_is_killed_while_it_starts(own: Sbx, rootfs: Path) -> None:
    """At whatever moment: nothing runs, and who started it hears of it."""
    for turn in range(12):
        starting = own.start("run", "-d", "--rm", rootfs, "sleep", "1000")
        wait_for(lambda p=starting: children(p.pid) or p.poll() is not None)  # type: ignore[misc]
        below = descendants(starting.pid)
        time.sleep(turn / 600)
        whole = [*below, *(pid for child in below for pid in descendants(child))]
        for pid in below[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        starting.communicate(timeout=20)
        wait_for(lambda p=whole: not alive(p[1:]))  # type: ignore[misc]
    wait_for(lambda: not [box for box in listed(own) if box["pid"] and not alive([box["pid"]])])


def test_a_start_that_is_killed_leaves_nothing_half_made(own: Sbx, rootfs: Path) -> None:
    (own.home / "state" / "sbx").mkdir(parents=True, mode=0o700)
    for turn in range(15):
        starting = own.start("run", "-d", rootfs, "sleep", "1000", stdin=subprocess.DEVNULL)
        time.sleep(turn / 25)
        starting.kill()
        starting.communicate(timeout=20)
    # Whose starter died before its command ran is killed, and says so.
    ended = [("running", None), ("exited", 137)]
    wait_for(lambda: all((box["state"], box["exit_code"]) in ended for box in listed(own)))
    folders = [p.name for p in (own.home / "state" / "sbx").iterdir() if p.is_dir()]
    boxes = [box["id"] for box in listed(own)]
    fresh = [name for name in folders if name.startswith(".new-")]
    assert sorted(set(folders) - {"names", "host"} - set(fresh)) == sorted(boxes)
    assert all(alive([box["pid"]]) for box in listed(own) if box["pid"])


def test_the_starter_s_terminal_may_close(own: Sbx, rootfs: Path) -> None:
    pid, master = pty.fork()
    if not pid:
        line = f"'{own.path}' run -d --name x '{rootfs}' sleep 1000; read wait"
        os.execve("/bin/sh", ["sh", "-c", line], own.env)
    wait_for(lambda: [box for box in listed(own) if box["state"] == "running"])
    os.close(master)
    os.waitpid(pid, 0)
    keeper = listed(own)[0]["pid"]
    fields = Path(f"/proc/{keeper}/stat").read_bytes().rpartition(b")")[2].split()
    assert int(fields[3]) == keeper  # a session of its own, without a terminal
    assert fields[4] == b"0"
    assert own("exec", "x", "true").returncode == 0
    assert state_of(own, "x") == "running"


def test_signals_of_the_caller_s_group_do_not_reach_it(own: Sbx, rootfs: Path) -> None:
    done = own("run", "-d", "--name", "x", rootfs, "sleep", "1000")
    assert done.returncode == 0
    pid = listed(own)[0]["pid"]
    assert os.getpgid(pid) == pid != os.getpgid(0)


# ---- starting again, storage, time -----------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--storage", "copy"), ("--persist", "kept")])
@pytest.mark.parametrize("identity", ["range", "single"])
def test_restarts(
    own: Sbx, rootfs: Path, tmp_path: Path, identity: str, options: tuple[str, ...]
) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text(f'extends = "default"\n[identity]\nmap = "{identity}"\n')
    where = [str(tmp_path / "kept") if option == "kept" else option for option in options]
    done = own(
        *("run", "-d", "--name", "x", "--restart", "on-failure:2", "--policy", policy, *where),
        *(rootfs, "sh", "-c", "cat /proc/self/uid_map; echo turn; exit 3"),
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: state_of(own, "x") == "exited")
    box = listed(own)[0]
    assert (box["restarts"], box["exit_code"]) == (2, 3)
    logged = (own.home / "state" / "sbx" / box["id"] / "log").read_bytes()
    assert logged.count(b"turn\n") == 3
    counts = [int(count) for count in re.findall(rb"\d+ +\d+ +(\d+)\n", logged)]
    assert (max(counts) > 1000) == (identity == "range")
    assert own("run", rootfs, "true").returncode == 0  # what was copied goes with it


def test_a_copy_of_the_root_goes_with_the_next_command(own: Sbx, rootfs: Path) -> None:
    done = own("run", "-d", "--name", "x", "--storage", "copy", rootfs, "sleep", "1000")
    assert done.returncode == 0, done.stderr
    runs = Path(own.env["XDG_CACHE_HOME"]) / "sbx" / "runs"

    def folders() -> list[str]:
        return [path.name for path in runs.iterdir() if path.name != ".gate"]

    assert own("run", rootfs, "true").returncode == 0
    assert len(folders()) == 1
    assert own("exec", "x", "cat", "/etc/passwd").returncode == 0
    os.kill(listed(own)[0]["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(own, "x") == "dead")
    assert own("run", rootfs, "true").returncode == 0
    assert folders() == []


def test_a_persistent_layer_is_held_as_long_as_it_lives(
    own: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    done = own("run", "-d", "--name", "x", "--persist", kept, rootfs, "sh", "-c", "echo 1 >/f")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: state_of(own, "x") == "exited")
    done = own("run", "-d", "--name", "y", "--persist", kept, rootfs, "sleep", "1000")
    assert done.returncode == 0, done.stderr
    assert own("run", "--persist", kept, rootfs, "true").returncode == 125
    os.kill(next(box["pid"] for box in listed(own) if box["pid"]), signal.SIGKILL)
    wait_for(lambda: not [box for box in listed(own) if box["pid"]])
    again = own("run", "--persist", kept, rootfs, "cat", "/f")
    assert (again.returncode, again.stdout) == (0, "1\n"), again.stderr


def test_time_and_grace_are_the_launcher_s(own: Sbx, rootfs: Path, tmp_path: Path) -> None:
    script = "trap 'echo asked' TERM; while :; do sleep 0.05; done"
    for name, grace in (("x", "300ms"), ("y", "0s")):
        policy = tmp_path / f"{name}.toml"
        policy.write_text(f'extends = "default"\n[process]\ngrace = "{grace}"\n')
        done = own(
            *("run", "-d", "--name", name, "--timeout", "500ms", "--policy", policy),
            *(rootfs, "sh", "-c", script),
        )
        assert done.returncode == 0, done.stderr
    wait_for(lambda: {box["state"] for box in listed(own)} == {"exited"})
    for box in listed(own):
        log = own.home / "state" / "sbx" / box["id"] / "log"
        asked = log.exists() and b"asked" in log.read_bytes()
        assert (box["exit_code"], asked) == (124, box["name"] == "x")


def test_rm_leaves_no_trace(own: Sbx, rootfs: Path) -> None:
    assert own("run", "-d", "--rm", rootfs, "true").returncode == 0
    wait_for(lambda: listed(own) == [])
    base = own.home / "state" / "sbx"
    assert [p.name for p in base.iterdir() if len(p.name) == 12] == []


# ---- where it is started from ----------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["missing", "read-only", "unset"])
def test_without_a_session(own: Sbx, rootfs: Path, tmp_path: Path, runtime: str) -> None:
    """cron, su and ssh: no XDG_RUNTIME_DIR, or one that cannot be used."""
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    if runtime != "unset":
        env["XDG_RUNTIME_DIR"] = str(tmp_path / runtime)
    if runtime == "read-only":
        (tmp_path / runtime).mkdir(mode=0o500)

    def run(*words: object) -> str:
        done = subprocess.run(
            [own.path, *map(str, words)], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    identity = run("run", "-d", "--name", f"x-{tmp_path.name[-30:]}", rootfs, "sleep", "1000")
    try:
        assert run("exec", identity.strip(), "sh", "-c", "echo hello") == "hello\n"
        boxes = json.loads(run("ps", "--format", "json"))
    finally:
        boxes = json.loads(run("ps", "--format", "json"))
        for box in boxes:
            if box["id"] == identity.strip():
                os.kill(box["pid"], signal.SIGKILL)
    assert identity.strip() in {box["id"] for box in boxes}


def test_without_any_environment(rootfs: Path, own: Sbx) -> None:
    """What a bare system call starts: the home folder is that of the account."""
    done = subprocess.run(
        [own.path, "run", "-d", "--rm", str(rootfs), "sleep", "1000"],
        env={}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bare = {"env": {}, "capture_output": True, "text": True, "timeout": 60}
    identity = done.stdout.strip()
    assert identity in subprocess.run([own.path, "ps"], **bare).stdout  # type: ignore[call-overload]
    done = subprocess.run([own.path, "rm", "-f", identity], **bare)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr


def test_after_a_reboot_nothing_is_taken_for_alive(own: Sbx, rootfs: Path) -> None:
    """The folders stay where there is no folder that goes with the boot; pids begin anew."""
    for name in ("gone", "here"):
        assert own("run", "-d", "--name", name, rootfs, "sleep", "1000").returncode == 0
    pids = {box["name"]: box["pid"] for box in listed(own)}
    os.kill(pids["gone"], signal.SIGKILL)
    wait_for(lambda: state_of(own, "gone") == "dead")
    base = own.home / "state" / "sbx"
    folder = base / (base / "names" / "gone").readlink()
    known = decode((folder / "sandbox").read_bytes())
    assert known
    earlier = known.replace(boot_id="of an earlier boot", pid=os.getpid())
    (folder / "sandbox").write_bytes(encode(earlier))
    assert [box["name"] for box in listed(own)] == ["here"]
    assert own("run", "-d", "--rm", "--name", "gone", rootfs, "true").returncode == 0
    assert not folder.exists()


def test_one_that_is_stuck_holds_up_no_other(own: Sbx, rootfs: Path) -> None:
    """There is no lock over all, and nobody waits for an answer that he does not need."""
    for name in ("stuck", "other"):
        assert own("run", "-d", "--name", name, rootfs, "sleep", "1000").returncode == 0
    pid = next(box["pid"] for box in listed(own) if box["name"] == "stuck")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert {box["name"] for box in listed(own)} == {"stuck", "other"}
        for words in (
            ("exec", "other", "true"), ("rename", "other", "else"), ("prune", "-f"),
            ("inspect", "stuck"), ("logs", "stuck"), ("run", "-d", "--rm", rootfs, "true"),
            ("rm", "-f", "else"),
        ):  # fmt: skip
            done = own(*words, timeout=30)
            assert done.returncode == 0, done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    assert own("exec", "stuck", "true").returncode == 0


def test_prune_takes_nothing_from_those_that_start(own: Sbx, rootfs: Path) -> None:
    """Folders, names, copies of the root and layers: all are there before anybody holds them."""
    kept = own.home / "layer"
    options = [(), ("--storage", "copy"), ("--name", "x"), ("--persist", kept), (), ("--rm",)]
    starting = [own.start("run", "-d", *words, rootfs, "sleep", "1000") for words in options]
    pruned = []
    while any(process.poll() is None for process in starting):
        done = own("prune", "-f")
        assert done.returncode == 0, done.stderr
        pruned.append(done.stdout)
    ids = [process.communicate(timeout=60)[0].decode().strip() for process in starting]
    assert [process.returncode for process in starting] == [0] * len(options)
    assert {box["id"] for box in listed(own) if box["state"] == "running"} == set(ids)
    for identity in ids:
        assert own("exec", identity, "cat", "/etc/passwd").returncode == 0
        assert not any(identity in output for output in pruned)
    assert own("exec", "x", "true").returncode == 0
    assert own("rm", "-f", *ids).returncode == 0


def test_a_folder_of_another_version_is_named(own: Sbx, rootfs: Path) -> None:
    identity = own("run", "-d", rootfs, "true").stdout.strip()
    wait_for(lambda: state_of(own, identity) == "exited")
    file = own.home / "state" / "sbx" / identity / "sandbox"
    file.write_bytes(file.read_bytes()[:-1])
    done = own("ps", "-a")
    assert (done.returncode, identity in done.stderr) == (0, True)
    done = own("exec", identity, "true")
    assert (done.returncode, "cannot read the state" in done.stderr) == (125, True)


# ---- output and disks --------------------------------------------------------------------------


def test_output_below_the_cap_is_all_there(own: Sbx, rootfs: Path) -> None:
    script = "head -c 20000000 /dev/zero | tr '\\0' 'x'; echo end >&2"
    done = own("run", "-d", "--log-max-size", "64M", rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    identity = done.stdout.strip()
    wait_for(lambda: state_of(own, identity) == "exited")
    data = (own.home / "state" / "sbx" / identity / "log").read_bytes()
    assert data.count(b"x") >= 20_000_000
    assert b"end\n" in data


def test_a_flood_waits_for_its_turn_and_stays_below_the_cap(own: Sbx, rootfs: Path) -> None:
    script = "while :; do head -c 1000000000 /dev/zero; done"
    done = own("run", "-d", "--log-max-size", "4M", rootfs, "sh", "-c", script)
    identity = done.stdout.strip()
    folder = own.home / "state" / "sbx" / identity
    began = time.monotonic()
    written = 0
    while (passed := time.monotonic() - began) < 3:
        try:
            sizes = [(folder / name).stat().st_size for name in ("log", "log.1")]
        except FileNotFoundError:
            continue
        assert sum(sizes) <= 4 << 20
        try:
            head = (folder / "log").read_bytes()[16:24]
        except FileNotFoundError:
            continue
        written = max(written, int.from_bytes(head, "little"))
    assert 0 < written <= (passed + 1) * (90 << 20)
    assert own("exec", identity, "true").returncode == 0


SMALL = """
mount -t tmpfs -o size={size} tmpfs "$XDG_STATE_HOME" || exit 90
{script}
"""


def on_a_small_disk(own: Sbx, size: str, script: str) -> subprocess.CompletedProcess[str]:
    state = own.home / "state"
    state.mkdir(exist_ok=True)
    line = SMALL.format(size=size, script=script.replace("SBX", f"'{own.path}'"))
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", line],
        env=own.env,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_full_disk_refuses_a_start(own: Sbx, rootfs: Path) -> None:
    script = (
        "mkdir -m 700 $XDG_STATE_HOME/sbx; "
        "dd if=/dev/zero of=$XDG_STATE_HOME/fill bs=4k 2>/dev/null; "
        f"SBX run -d --name x '{rootfs}' true; echo code $?; ls -A $XDG_STATE_HOME/sbx"
    )
    done = on_a_small_disk(own, "64k", script)
    assert "code 125" in done.stdout, done
    assert "no space left on device" in done.stderr
    assert done.stdout.split("code 125\n")[1].split() in ([], ["names"])


def test_a_disk_that_fills_costs_output_and_says_so(own: Sbx, rootfs: Path) -> None:
    payload = "head -c 400000 /dev/zero | tr '\\\\0' x; exit 5"
    script = (
        f"SBX run -d --name x --log-max-size 16M '{rootfs}' sh -c \"{payload}\" || exit 91; "
        "for i in $(seq 200); do SBX ps -a | grep -q exited && break; sleep 0.1; done; "
        "SBX ps -a --format json; cat $XDG_STATE_HOME/sbx/*/events | tr '\\0' '\\n' | grep -a lost"
    )
    done = on_a_small_disk(own, "300k", script)
    assert '"state": "exited"' in done.stdout, done
    assert '"exit_code": 5' in done.stdout
    assert "output was lost" in done.stdout


# ---- many --------------------------------------------------------------------------------------


def test_a_caller_with_many_descriptors(
    rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks of a sandbox keep their numbers in its launcher, which has places of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    held = {os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(120)}
    free = held & set(range(100, 110))
    assert len(free) == 10
    try:
        for number in sorted(free):
            os.close(number)
            held.remove(number)
            with living(rootfs) as folder:
                assert shell(folder, "echo hello") == "hello\n"
    finally:
        for fd in held:
            os.close(fd)
