"""The probe and the doctor against the real kernel, also where it was made to refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.host import doctor, probe
from sandbox.host.attempt import attempt

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(probe.__file__))))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def in_user_namespace(script: str, *options: str) -> str:
    """What Python code prints as root of a user namespace that `unshare` makes."""
    argv = ["unshare", "--user", "--map-root-user", *options, "--"]
    code = f"import sys; sys.path.append({ROOT!r})\n{script}"
    argv += [sys.executable, "-I", "-S", "-c", code]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_facts_are_those_of_this_process() -> None:
    facts = probe.host_facts(refresh=True)
    assert (facts.uid, facts.gid) == (os.getuid(), os.getgid())
    assert facts.groups == tuple(os.getgroups())
    assert facts.arch == os.uname().machine
    assert facts.userns_error == ""
    assert facts.proc_error == ""
    assert facts.seccomp


def test_overlay_in_memory_says_why_not() -> None:
    facts = probe.host_facts(refresh=True)
    if facts.kernel >= (6, 6):
        assert facts.upper_memory_error == ""
    else:
        # tmpfs has no user xattrs there, so a folder of the lower layer cannot be replaced.
        assert facts.upper_memory_error.startswith("overlay: ")
        assert facts.upper_memory_error.endswith(": input/output error")
    assert facts.overlay_error == ""


def test_remembered_facts_cost_neither_process_nor_import() -> None:
    first = probe.host_facts()
    assert probe.host_facts() == first
    seen: list[str] = []
    watched = {"import", "os.fork", "os.posix_spawn", "os.exec", "subprocess.Popen", "os.system"}

    def watch(event: str, _arguments: object) -> None:
        if watching and event in watched | {"open"}:
            seen.append(event)

    watching = True
    sys.addaudithook(watch)
    assert probe.host_facts() == first
    watching = False
    assert set(seen) <= {"open"}
    assert len(seen) <= 24, len(seen)


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    def snapshot() -> tuple[str, set[str], set[str], set[str]]:
        return (
            Path("/proc/self/mountinfo").read_text(),
            set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
            {str(path) for path in tmp_path.rglob("*")},
            set(os.listdir("/proc/self/fd")),
        )

    before, start = snapshot(), time.monotonic()
    findings = doctor.run_doctor()
    assert time.monotonic() - start < 30
    assert snapshot() == before
    assert [finding.name for finding in findings] == [name for name, _ in doctor.CHECKS]
    by_name = {finding.name: finding for finding in findings}
    for name in ("user-namespaces", "namespaces", "proc", "seccomp", "sealed-program"):
        assert by_name[name].verdict == "ok", by_name[name]


def test_id_map_is_really_installed() -> None:
    finding = {finding.name: finding for finding in doctor.run_doctor()}["id-map"]
    facts = probe.host_facts()
    if not (facts.subuids and facts.subgids and facts.newuidmap and facts.newgidmap):
        pytest.skip("this user has no subordinate ids or no newuidmap")
    assert finding.verdict == "ok", finding


def test_helper_keeps_its_own_words() -> None:
    facts = probe.host_facts()
    if not (facts.subuids and facts.newuidmap and facts.newgidmap):
        pytest.skip("this user has no subordinate ids or no newuidmap")
    own = f"0:{facts.uid}:1,1:4000000000:5"
    outcome = attempt("id_map", own, f"0:{facts.gid}:1", facts.newuidmap, facts.newgidmap)
    assert outcome.step == "newuidmap"
    assert "not allowed" in outcome.text


def test_no_more_user_namespaces() -> None:
    script = (
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "from sandbox.host.doctor import run_doctor\n"
        "found = {f.name: f for f in run_doctor()}['user-namespaces']\n"
        "print(found.verdict, found.detail, found.fix, sep='|')"
    )
    verdict, detail, fix = in_user_namespace(script).split("|", 2)
    assert verdict == "fail"
    assert "user.max_user_namespaces is 0" in detail
    assert "user.max_user_namespaces=15000" in fix


def test_masked_proc_is_recognised() -> None:
    script = (
        "import subprocess\n"
        "subprocess.run(['mount', '-t', 'tmpfs', 'mask', '/proc/irq'], check=True)\n"
        "from sandbox.host.probe import host_facts\n"
        "print(host_facts(refresh=True).proc_error)"
    )
    answer = in_user_namespace(script, "--mount")
    assert answer.startswith("mount proc: operation not permitted")
    assert answer.endswith("(a container hides parts of /proc, such as /proc/irq)")


def test_chroot_is_recognised() -> None:
    script = (
        "import os\n"
        "from sandbox.host import trials\n"
        "os.chroot('/usr')\n"
        "print(*trials.run_isolated(trials.try_userns)[1:])"
    )
    answer = in_user_namespace(script)
    assert answer == "unshare user namespace 1 operation not permitted"


def test_no_new_privs_disarms_the_helpers() -> None:
    if not probe.host_facts().newuidmap:
        pytest.skip("newuidmap is not installed")
    script = "from sandbox.host.helpers import find_helper; print(repr(find_helper('newuidmap')))"
    code = f"import sys; sys.path.append({ROOT!r})\n{script}"
    setpriv = shutil.which("setpriv")
    assert setpriv
    argv = [setpriv, "--no-new-privs", sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "''\n"


@pytest.mark.parametrize("trial", ["namespaces", "time_namespace", "nftables", "memfd_exec"])
def test_trials_answer(trial: str) -> None:
    outcome = attempt(trial)
    assert outcome.ok or outcome.errno, outcome
