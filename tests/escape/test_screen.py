"""Hostile bytes in everything that sbx reads: what it says, logs and reports stays plain."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import probe

# Controls, C1 as UTF-8, bidirectional overrides and isolates, a tag, a surrogate's bytes, no UTF-8.
EVIL = b"a\x1b]0;own\x07\xc2\x9b31m\xe2\x80\xae\xe2\x81\xa6\xf3\xa0\x80\x81\xed\xa0\x80\xff\x7f\rz"
TEXT = "a\x1b]0;own\x07\x9b31m\u202e\u2066\U000e0001\x7f\rz"
TOML = json.dumps(TEXT).replace("\\udb40\\udc01", "\\U000E0001")


def is_plain(text: str) -> bool:
    """Only printable characters and newlines."""
    return all(c == "\n" or c.isprintable() for c in text)


def check(sbx: Sbx, *words: object, **more: object) -> None:
    """Run once for people and once for programs; neither may say anything that is not plain."""
    for extra in ((), ("--json",)):
        first, *rest = words
        done = sbx(first, *(extra if first in ("run", "explain") else ()), *rest, **more)  # type: ignore[arg-type]
        assert is_plain(done.stderr), done.stderr
        assert is_plain(done.stdout), done.stdout
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr


@pytest.fixture
def evil_rootfs(probe_program: Path, tmp_path: Path) -> bytes:
    """A root file system whose own path is hostile."""
    root = os.fsencode(tmp_path) + b"/" + EVIL.replace(b"\r", b"")
    shutil.copytree(probe.make_rootfs(tmp_path / "plain", probe_program), os.fsdecode(root))
    return root


assert tomllib.loads(f"x = {TOML}") == {"x": TEXT}
POLICIES = [
    f"summary = {TOML}\nextends = {TOML}\n",
    f'extends = "strict"\n{TOML} = 1\n',
    f'extends = "strict"\n[process]\nhostname = {TOML}\ncwd = {TOML}\n',
    f'extends = "strict"\n[process.env]\n{TOML} = {TOML}\n',
    f'extends = "strict"\n[process.env]\nA = {TOML}\n',
    f'extends = "strict"\n[[filesystem.mounts]]\nsource = {TOML}\ntarget = {TOML}\n',
    f'extends = "strict"\n[[filesystem.mounts]]\nsource = "/tmp"\ntarget = "/x"\n{TOML} = 1\n',
    f'extends = "strict"\n[filesystem]\nmasked = [{TOML}]\npersist = {TOML}\n',
    f'extends = "strict"\n[seccomp]\nprofile = {TOML}\ngroups = [{TOML}]\n',
    f'extends = "strict"\n[sysctls]\n{TOML} = {TOML}\n',
    f'extends = "strict"\n[rlimits]\n{TOML} = {TOML}\nnofile = {TOML}\n',
    f"extends = {TEXT}\n",
    f'# {TEXT}\nextends = "strict"\n',
]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize(
    "words", [("policy", "check", "P"), ("policy", "show", "P"), ("run", "--policy", "P", "R", "x")]
)
def test_policies(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    places = {"P": path, "R": attack_rootfs}
    check(sbx, *(places.get(word, word) for word in words))


@pytest.mark.parametrize("data", [EVIL, TEXT.encode()])
def test_policies_that_the_user_keeps(sbx: Sbx, tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "sbx/policies"
    folder.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/" + EVIL + b".toml")).write_bytes(b"# " + data)
    (folder / "mine.toml").write_bytes(b"# " + data)
    for words in (("policy", "list"), ("policy", "list", "--json"), ("policy", "show", "mine")):
        done = sbx(*words, env={"XDG_CONFIG_HOME": str(tmp_path)})
        assert is_plain(done.stdout + done.stderr), done


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": TEXT},
        {"defaultAction": "SCMP_ACT_ALLOW", TEXT: TEXT},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [TEXT], "flags": [TEXT]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [TEXT], "action": TEXT}]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": [TEXT, "x"], "action": "SCMP_ACT_ERRNO"}],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"op": TEXT}]}],
        },
        TEXT,
    ],
)
def test_seccomp_profiles(sbx: Sbx, attack_rootfs: Path, tmp_path: Path, profile: object) -> None:
    for text in (json.dumps(profile), json.dumps(profile, ensure_ascii=False)):
        (tmp_path / "p.json").write_text(text)
        option = f"seccomp={tmp_path}/p.json"
        check(sbx, "run", "--security-opt", option, attack_rootfs, "/probe", "--ids")
        check(sbx, "explain", "--security-opt", option, attack_rootfs, "/probe")


def test_environment_files(sbx: Sbx, attack_rootfs: Path, tmp_path: Path) -> None:
    for text in (EVIL + b"=1\n", b"A=" + EVIL + b"\n", EVIL + b"\n", b"\0" + EVIL):
        (tmp_path / "env").write_bytes(text)
        check(sbx, "run", "--env-file", tmp_path / "env", attack_rootfs, "/nothing")
        check(sbx, "explain", "--env-file", tmp_path / "env", attack_rootfs, "/nothing")


def test_a_root_file_system_of_that_name(sbx: Sbx, evil_rootfs: bytes, tmp_path: Path) -> None:
    check(sbx, "explain", evil_rootfs, "/probe")
    check(sbx, "run", "--dry-run", evil_rootfs, "/probe")
    check(sbx, "run", "--storage", "copy", evil_rootfs, "/nothing")
    check(sbx, "run", "-v", evil_rootfs + b":/x", evil_rootfs, "/probe", "--ids")
    report = tmp_path / "report"
    reader, writer = os.pipe()
    options = ("--report", report, "--status-fd", writer)
    done = sbx("run", *options, "-w", EVIL, evil_rootfs, EVIL, pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        status = lines.read()
    assert done.returncode != 0
    assert is_plain(done.stderr)
    for data in (report.read_bytes() if report.exists() else b"", status):
        assert is_plain(data.decode("ascii"))


def test_accounts_of_the_root_file_system(sbx: Sbx, probe_program: Path, tmp_path: Path) -> None:
    root = probe.make_rootfs(tmp_path / "rootfs", probe_program)
    line = b"evil:x:1000:1000::/" + EVIL + b":/" + EVIL + b"\n" + EVIL + b":x:5:5::/:/bin/sh\n"
    (root / "etc/passwd").write_bytes(line)
    for user in (b"evil", b"1000", EVIL, b"no-such"):
        check(sbx, "explain", "-u", user, root, "/probe")
        check(sbx, "run", "-u", user, root, "/nothing")


def test_the_report_for_people(sbx: Sbx, attack_rootfs: Path, tmp_path: Path) -> None:
    policy = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + EVIL + b".toml"))
    policy.write_text('extends = "strict"\n')
    words = ("run", "--policy", os.fsencode(policy), "--report", "-", attack_rootfs, "/probe")
    done = sbx(*words, "--ids")
    assert done.returncode == 0, done.stderr
    assert is_plain(done.stderr), done.stderr


def test_the_doctor(sbx: Sbx, tmp_path: Path) -> None:
    """The host's own words and paths may be odd too."""
    home = os.fsencode(tmp_path) + b"/" + EVIL
    os.mkdir(home)
    env = {name: os.fsdecode(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")}
    for words in (("doctor",), ("doctor", "--json")):
        done = sbx(*words, env=env)
        assert is_plain(done.stdout + done.stderr), done
        assert "Traceback" not in done.stderr
