"""Where newer system calls are refused, as by old kernels and by filters of containers, sbx works
by its fallback or says which call it lacks. It never goes on with less protection unsaid."""

import sys
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import probe, refuse

REFUSE = [sys.executable, str(Path(refuse.__file__))]
# Under a filter no set-user-ID program gains rights: one id is all there is.
STRICT = """
summary = "strict with one id"
extends = "strict"

[identity]
map = "single"

[on_missing]
subids = "degrade"
"""
EITHER = "copy_file_range faccessat2 fchmodat2 keyctl pidfd_send_signal statx"
WORKS = {"ENOSYS": f"clone3 signalfd4 {EITHER}", "EPERM": EITHER}
FAILS = (
    "clone clone3 close_range fsconfig fsmount fsopen memfd_create mount_setattr move_mount "
    "open_tree openat2 pidfd_open pivot_root prctl setsid signalfd4 unshare"
)
LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")


Plain = dict[str, tuple[set[str], str]]


@pytest.fixture(scope="module")
def plain() -> Plain:
    """By policy: what leaks, and what is said, under a filter that refuses nothing of use."""
    return {}


def run(sbx: Sbx, tmp_path: Path, number: str, call: str, *words: object) -> tuple[int, str, str]:
    """Run `sbx run WORDS` with the call refused, twice: with nothing remembered, and with that."""
    (tmp_path / "strict.toml").write_text(STRICT)
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    wrapped = Sbx(REFUSE[0], sbx.home, {**sbx.env, **env})
    script = (REFUSE[1], number, call, "--", sbx.path, "run")
    for _ in range(2):
        done = wrapped(*script, *words, timeout=30)
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("policy", ["strict.toml", "default"])
@pytest.mark.parametrize(
    ("number", "call"), [(number, call) for number in WORKS for call in WORKS[number].split()]
)
def test_it_works_without(
    sbx: Sbx,
    probe_rootfs: Path,
    tmp_path: Path,
    plain: Plain,
    number: str,
    call: str,
    policy: str,
) -> None:
    """The probe finds nothing that it does not find with a filter that refuses nothing of use."""
    name = str(tmp_path / policy) if policy.endswith("toml") else policy
    words = ("--policy", name, probe_rootfs, "/probe")
    if policy not in plain:
        _, out, told = run(sbx, tmp_path, number, "lookup_dcookie", *words)
        plain[policy] = set(probe.leaks(probe.parse(out))), told
    code, out, told = run(sbx, tmp_path, number, call, *words)
    assert code == 0, told
    leaks, warned = plain[policy]
    assert set(probe.leaks(probe.parse(out))) <= leaks
    if call != "keyctl":
        assert told == warned


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (number, call)
        for number in WORKS
        for call in FAILS.split()
        if call not in WORKS[number].split()
    ],
)
def test_it_is_refused_by_name(
    sbx: Sbx, probe_rootfs: Path, tmp_path: Path, number: str, call: str
) -> None:
    strict = ("--policy", tmp_path / "strict.toml")
    code, out, told = run(sbx, tmp_path, number, call, *strict, probe_rootfs, "/probe")
    assert (code, out) == (125, "")
    assert call in told.partition("sbx: error:")[2].partition("hint:")[0]
    assert "hint: " in told


@pytest.mark.parametrize("number", ["ENOSYS", "EPERM", "EOPNOTSUPP"])
@pytest.mark.parametrize("call", LANDLOCK)
def test_landlock_is_refused(
    sbx: Sbx, probe_rootfs: Path, tmp_path: Path, number: str, call: str
) -> None:
    """strict refuses to run; default says what is lost, or refuses where only a part is there."""
    words = (probe_rootfs, "/probe")
    strict = ("--policy", tmp_path / "strict.toml", *words)
    code, out, told = run(sbx, tmp_path, number, call, *strict)
    assert (code, out) == (125, "")
    assert "landlock" in told.lower()
    code, out, told = run(sbx, tmp_path, number, call, *words)
    if call == LANDLOCK[0]:
        assert code == 0
        assert "without all file and socket rules" in told
    else:
        assert (code, out) == (125, "")
        assert "landlock" in told.partition("sbx: error:")[2]


@pytest.mark.parametrize(
    ("number", "call"),
    [("ENOSYS", "clone3"), ("ENOSYS", "copy_file_range"), ("EPERM", "copy_file_range")],
)
def test_a_copy_is_made_and_removed_without(
    sbx: Sbx, probe_rootfs: Path, tmp_path: Path, number: str, call: str
) -> None:
    words = ("--storage", "copy", probe_rootfs, "/probe")
    code, out, told = run(sbx, tmp_path, number, call, *words)
    assert code == 0, told
    assert probe.parse(out)
    assert [path.name for path in (tmp_path / "cache/sbx/runs").glob("*-*")] == []


def test_a_filter_of_before_is_not_remembered(sbx: Sbx, probe_rootfs: Path, tmp_path: Path) -> None:
    """Nothing tells two filters apart: what one hides must not be missing under the next."""
    words = (probe_rootfs, "/probe")
    _, _, told = run(sbx, tmp_path, "ENOSYS", LANDLOCK[0], *words)
    assert "without all file and socket rules" in told
    _, _, told = run(sbx, tmp_path, "ENOSYS", "lookup_dcookie", *words)
    assert "file and socket rules" not in told


def test_the_time_limit_holds_without_pidfd_send_signal(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path
) -> None:
    words = ("--timeout", "300ms", attack_rootfs, "/attack", "stop")
    for number in ("ENOSYS", "EPERM"):
        code, _, told = run(sbx, tmp_path, number, "pidfd_send_signal", *words)
        assert code == 124, told


def test_without_pidfd_send_signal_no_payload_is_process_1(
    sbx: Sbx, probe_rootfs: Path, tmp_path: Path
) -> None:
    """It could outlive the launcher: nobody could kill it from outside."""
    words = ("--no-init", probe_rootfs, "/probe")
    code, _, told = run(sbx, tmp_path, "ENOSYS", "pidfd_send_signal", *words)
    assert code == 125
    assert "pidfd_send_signal" in told
