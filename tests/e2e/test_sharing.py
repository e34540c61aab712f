"""Sandboxes that share namespaces: a pod, what ends with what, and what is refused."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sbx

Detached = Callable[..., str]
SLEEP = ("sleep", "1000")
SHOWN = "for n in mnt user pid net ipc uts; do readlink /proc/self/ns/$n; done"
POD = ("net", "ipc", "uts")


def container(box: str, *kinds: str) -> tuple[str, ...]:
    """The options that share these kinds with `box`."""
    names = {"net": "network"}
    return tuple(f"--{names.get(kind, kind)}=container:{box}" for kind in kinds)


def spaces(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.split())


@pytest.fixture
def infra(detached: Detached) -> str:
    return detached(*SLEEP, options=("--hostname", "pod"))


def test_a_pod_of_three(sbx: Sbx, rootfs: Path, detached: Detached, infra: str) -> None:
    there = spaces(sbx("exec", infra, "sh", "-c", SHOWN).stdout)
    web = detached(*SLEEP, options=container(infra, *POD))
    script = f"{SHOWN}; hostname; touch /tmp/mine; ls /tmp; id -u"
    done = sbx("run", *container(web, *POD), "--root", rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    *links, name, listed, uid = done.stdout.split()
    for found in (spaces("\n".join(links)), spaces(sbx("exec", web, "sh", "-c", SHOWN).stdout)):
        assert {kind for kind in found if found[kind] == there[kind]} == set(POD)
    assert (name, listed, uid) == ("pod", "mine", "0")
    assert sbx("exec", web, "ls", "/tmp").stdout == ""
    assert sbx("exec", web, "sh", "-c", "echo x > /tmp/x; cat /tmp/x").stdout == "x\n"


SERVE = """
import socket, sys
s = socket.socket(); s.bind(("127.0.0.1", 8080)); s.listen()
print("listens", flush=True)
c, _ = s.accept(); c.sendall(b"hello"); c.close()
"""
ASK = 'import socket; print(socket.create_connection(("127.0.0.1", 8080), 5).recv(9).decode())'
MEMORY = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(libc.shmget(4711, 4096, int(sys.argv[1], 8)), None, 0)
if len(sys.argv) > 2:
    ctypes.memmove(at, sys.argv[2].encode() + b"\\0", len(sys.argv[2]) + 1)
else:
    print(ctypes.string_at(at).decode())
"""


def until(sbx: Sbx, box: str, word: str) -> None:
    """Wait for a word in its output."""
    end = time.monotonic() + 30
    while word not in sbx("logs", box).stdout:
        assert time.monotonic() < end, sbx("logs", box)
        time.sleep(0.05)


def test_what_is_shared_is_one(sbx: Sbx, detached: Detached, infra: str) -> None:
    """Connections over the loopback, and System V memory; not without sharing."""
    pod = container(infra, *POD)
    server = detached("python3", "-c", SERVE, options=pod, root=Path("/"))
    until(sbx, server, "listens")
    assert sbx("run", "/", "python3", "-c", ASK).returncode == 1
    assert sbx("run", *pod, "/", "python3", "-c", ASK).stdout == "hello\n"
    assert sbx("run", *pod, "/", "python3", "-c", MEMORY, "1600", "told").returncode == 0
    assert sbx("run", *pod, "/", "python3", "-c", MEMORY, "600").stdout == "told\n"
    assert sbx("run", "/", "python3", "-c", MEMORY, "600").returncode != 0


def test_the_others_go_on_when_the_first_ends(sbx: Sbx, detached: Detached, infra: str) -> None:
    web = detached(*SLEEP, options=container(infra, *POD))
    before = sbx("exec", web, "sh", "-c", SHOWN).stdout
    assert sbx("kill", infra).returncode == 0
    sbx("wait", infra)
    assert sbx("exec", web, "sh", "-c", SHOWN).stdout == before
    done = sbx("run", *container(infra, "net"), "/", "true")
    assert done.returncode == 125
    assert "is not running" in done.stderr
    again = sbx("run", *container(web, *POD), "/", "sh", "-c", SHOWN)
    assert spaces(again.stdout)["net"] == spaces(before)["net"]


def test_shared_processes(sbx: Sbx, detached: Detached, rootfs: Path, infra: str) -> None:
    """Each sees the other's; all of the newcomer's end with it, and all with the first."""
    other = detached(*SLEEP, options=container(infra, "pid"))
    names = "cat /proc/[0-9]*/comm"
    assert sbx("exec", infra, "sh", "-c", names).stdout.split().count("sleep") == 2
    leave = "setsid sleep 900 & setsid setsid sleep 900 & sleep 0.2; exit 3"
    done = sbx("run", *container(infra, "pid"), rootfs, "sh", "-c", leave)
    assert done.returncode == 3
    limited = ("--timeout", "1s", *container(infra, "pid"))
    assert (
        sbx("run", *limited, rootfs, "sh", "-c", "setsid sleep 900 & sleep 900").returncode == 124
    )
    assert sbx("exec", infra, "sh", "-c", names).stdout.split().count("sleep") == 2
    assert "sleep" in sbx("top", other).stdout
    assert sbx("stop", other).returncode == 0
    assert sbx("exec", infra, "sh", "-c", names).stdout.split().count("sleep") == 1
    last = detached(*SLEEP, options=container(infra, "pid"))
    sbx("kill", infra)
    assert sbx("wait", last, timeout=20).stdout.strip() == "137"


def test_a_newcomer_cannot_outlive_itself(sbx: Sbx, rootfs: Path, infra: str) -> None:
    """Its process 1 is one of many in that namespace: it can be killed from inside."""
    script = "setsid sleep 901 & sleep 0.2; kill -9 $PPID; sleep 901"
    done = sbx(
        "run", "--policy", "permissive", *container(infra, "pid"), rootfs, "sh", "-c", script
    )
    assert done.returncode == 137
    assert "901" not in sbx("exec", infra, "sh", "-c", "cat /proc/[0-9]*/cmdline").stdout


def test_pausing_stops_no_other(sbx: Sbx, detached: Detached, infra: str) -> None:
    other = detached(
        "sh", "-c", "while :; do echo x; sleep 0.1; done", options=container(infra, "pid")
    )
    done = sbx("pause", other)
    states = sbx("exec", infra, "sh", "-c", "grep -h State: /proc/[0-9]*/status").stdout
    assert "sleeping" in states
    assert "stopped" not in states
    if done.returncode:  # without a control group
        assert "no control group" in done.stderr
    else:
        assert sbx("unpause", other).returncode == 0


def test_it_is_started_again_in_the_same_place(sbx: Sbx, detached: Detached, infra: str) -> None:
    script = "readlink /proc/self/ns/net; exit 1"
    options = (*container(infra, *POD), "--restart", "on-failure:2")
    box = detached("sh", "-c", script, options=options)
    sbx("wait", box)
    found = sbx("logs", box).stdout.split()
    assert len(found) == 3
    there = spaces(sbx("exec", infra, "sh", "-c", SHOWN).stdout)["net"]
    assert set(found) == {f"net:{there}"}


@pytest.mark.parametrize("identity", ["single", "range", "keep-id"])
def test_ids(sbx: Sbx, detached: Detached, rootfs: Path, tmp_path: Path, identity: str) -> None:
    """Each newcomer has the ids of its own policy, of those that the first one has."""
    policy = tmp_path / "first.toml"
    policy.write_text(f'extends = "default"\n[identity]\nmap = "{identity}"\n')
    first = detached(*SLEEP, options=("--policy", str(policy)))
    mine = sbx("run", *container(first, "net"), rootfs, "cat", "/proc/self/uid_map")
    ids = sum(int(line.split()[2]) for line in mine.stdout.splitlines())
    assert (ids == 1) == (identity == "single"), mine
    assert ("without all user ids inside but one" in mine.stderr) == (identity == "single")
    policy.write_text('extends = "default"\n[identity]\nmap = "single"\nuser = 7\n')
    done = sbx("run", "--policy", policy, *container(first, "net"), rootfs, "id", "-u")
    assert done.stdout == "7\n", done.stderr


def test_the_report_names_what_is_shared(
    sbx: Sbx, rootfs: Path, infra: str, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    options = (*container(infra, *POD, "pid"), "--report", report)
    assert sbx("run", *options, rootfs, "true").returncode == 0
    found = json.loads(report.read_text())
    lost = {entry["layer"]: entry["cause"] for entry in found["degradations"]}
    assert lost.keys() >= {*POD, "pid"}
    assert all(f"container:{infra}" in lost[kind] for kind in (*POD, "pid"))
    assert not {f"{kind} namespace" for kind in (*POD, "pid")} & set(found["layers"])
    assert found["network"] == f"container:{infra}"
    assert {"user namespace", "mount namespace", "cgroup namespace"} <= set(found["layers"])
    shown = json.loads(sbx("inspect", infra).stdout)[0]
    assert set(shown["shareable"]) == {*POD, "pid"}
    text = sbx("explain", *container(infra, *POD), rootfs, "true").stdout
    assert "share namespaces with sandbox" in text
    assert "write 'net." not in text


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--network", "container:"), 2, "must be container:NAME"),
        (("--network", "container:/x"), 2, "must be container:NAME"),
        (("--pid", "host"), 2, "is not a namespace"),
        (("--ipc", "shareable"), 2, "is not a namespace"),
        (("--network", "container:nosuch"), 125, 'no sandbox "nosuch"'),
        (("--policy", "strict", "--network", "container:INFRA"), 125, "namespaces.shares"),
        (("--pid", "container:INFRA", "--no-init"), 125, "without an init"),
        (("--uts", "container:INFRA", "--hostname", "x"), 125, "cannot set the host name"),
        (("--uts", "container:INFRA", "--ipc", "container:OTHER"), 125, "with both"),
        (("--network", "container:STRICT"), 125, "does not let others share: net"),
        (("--network", "container:HOST"), 125, "it is on the host's"),
    ],
)
def test_what_is_refused(
    sbx: Sbx,
    rootfs: Path,
    detached: Detached,
    infra: str,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    line = " ".join(options)
    others = {
        "OTHER": (),
        "STRICT": ("--policy", "strict"),
        "HOST": ("--network", "host"),
    }
    boxes = {name: detached(*SLEEP, options=more) for name, more in others.items() if name in line}
    for name, box in {**boxes, "INFRA": infra}.items():
        line = line.replace(name, box)
    before = len(json.loads(sbx("ps", "-a", "--format", "json").stdout))
    done = sbx("run", *line.split(), rootfs, "true")
    assert done.returncode == code, done
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads(sbx("ps", "-a", "--format", "json").stdout)) == before


def test_files_for_the_shared_network(sbx: Sbx, rootfs: Path, infra: str) -> None:
    """The other's host name leads to this machine for the newcomer too."""
    hosts = sbx("run", *container(infra, "net"), rootfs, "cat", "/etc/hosts").stdout
    assert hosts == sbx("exec", infra, "cat", "/etc/hosts").stdout
    assert " pod" in hosts
