"""How the command is started: input, environment, folder, user, names, descriptors, namespaces."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx


def test_input_needs_i(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "-i", rootfs, "cat", input="given\n").stdout == "given\n"
    assert sbx("run", rootfs, "cat", input="given\n").stdout == ""


def test_a_megabyte_through_both_pipes(sbx: Sbx, rootfs: Path) -> None:
    data = os.urandom(1 << 19).hex()
    done = sbx("run", "-i", rootfs, "cat", input=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_the_command_may_close_its_input_early(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "-i", rootfs, "head", "-c", "3", input="abc" * 1_000_000)
    assert (done.returncode, done.stdout) == (0, "abc")


def test_output_and_error_are_apart(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_pipeline(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "sh", "-c", "seq 1000 | sort -rn | head -n 3 | tr '\\n' ' '")
    assert done.stdout == "1000 999 998 "


def test_standard_streams_are_not_the_callers(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    with open(tmp_path / "log", "w+") as log:
        running = sbx.start(
            "run",
            rootfs,
            "sh",
            "-c",
            "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2",
            stdout=log,
        )
        running.communicate(timeout=30)
        assert running.returncode == 0
        log.seek(0)
        found = log.read().split("\n")[:-1]
    assert len(found) == 3
    assert all(name.startswith("pipe:") or name == "/dev/null" for name in found), found


def test_environment_starts_empty(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run", rootfs, "env", env={"PLANTED": "secret", "LD_PRELOAD": "", "SSH_AUTH_SOCK": "/x"}
    )
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not names & {"PLANTED", "SSH_AUTH_SOCK", "LD_PRELOAD", "XDG_RUNTIME_DIR"}
    assert {"PATH", "HOME"} <= names


def test_environment_options(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# words\nFILE=of the file\nBOTH=file\n\n")
    done = sbx(
        "run",
        "--env-file",
        tmp_path / "env",
        "-e",
        "BOTH=flag",
        "-e",
        "PASSED",
        "--env",
        "E=a=b c",
        rootfs,
        "env",
        env={"PASSED": "on"},
    )
    lines = done.stdout.splitlines()
    for line in ("FILE=of the file", "BOTH=flag", "PASSED=on", "E=a=b c"):
        assert line in lines, done.stdout


def test_the_inits_environment_tells_nothing(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        "-u",
        "0",
        rootfs,
        "sh",
        "-c",
        "cat /proc/1/environ; cat /proc/1/cmdline | tr '\\0' ' '",
        env={"PLANTED": "secret"},
    )
    assert "secret" not in done.stdout
    assert str(rootfs) not in done.stdout


def test_workdir(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "-w", "/usr", rootfs, "pwd").stdout == "/usr\n"
    done = sbx("run", "-w", "/nowhere", rootfs, "pwd")
    assert done.returncode == 125
    assert "/nowhere" in done.stderr


def test_user(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "-u", "0", rootfs, "id", "-u").stdout == "0\n"
    assert (
        sbx("run", "-u", "1234:2345", rootfs, "sh", "-c", "id -u; id -g").stdout == "1234\n2345\n"
    )
    assert sbx("run", "--root", rootfs, "id", "-u").stdout == "0\n"


def test_strict_has_no_root(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "--policy", "strict", rootfs, "id", "-u").stdout.strip() != "0"
    assert sbx("run", "--policy", "strict", "-u", "0", rootfs, "true").returncode == 2


def test_hostname(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", rootfs, "hostname").stdout == "sbx\n"
    assert sbx("run", "--hostname", "build-7", rootfs, "uname", "-n").stdout == "build-7\n"


def test_processes_of_the_host_are_not_seen(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "sh", "-c", "ls /proc | grep -c '^[0-9]'; echo $$")
    count, own = map(int, done.stdout.split())
    assert count <= 5
    assert own <= 3


def test_init_can_be_left_out(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--no-init", rootfs, "sh", "-c", "echo $$; exit 9")
    assert (done.returncode, done.stdout) == (9, "1\n"), done.stderr


def test_init_reaps(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        rootfs,
        "sh",
        "-c",
        "(sh -c 'sleep 0.05 & exit' &) ; sleep 0.4; grep -l '^State:.Z' /proc/[0-9]*/status; true",
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_loopback(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "cat", "/proc/net/dev")
    interfaces = [line.partition(":")[0].strip() for line in done.stdout.splitlines()[2:]]
    assert interfaces == ["lo"]


def test_init_is_in_the_sandboxs_network(sbx: Sbx, rootfs: Path) -> None:
    """/proc/PID/net shows the network of any process, whoever reads it."""
    done = sbx("run", rootfs, "sh", "-c", "cat /proc/1/net/dev; cat /proc/self/net/dev")
    names = [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line]
    assert names == ["lo", "lo"]


def test_a_network_namespace_that_is_refused_is_named(sbx: Sbx, rootfs: Path) -> None:
    script = 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
    around = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    words = ("run", rootfs, "true")
    done = subprocess.run(
        [*around, sbx.path, *map(str, words)],
        env=sbx.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert "max_net_namespaces is 0" in done.stderr


def test_host_network(sbx: Sbx, rootfs: Path) -> None:
    names = sorted(os.listdir("/sys/class/net"))
    done = sbx("run", "--policy", "permissive", "--network", "host", rootfs, "cat", "/proc/net/dev")
    assert done.returncode == 0, done.stderr
    assert sorted(line.partition(":")[0].strip() for line in done.stdout.splitlines()[2:]) == [
        n for n in names if n != "bonding_masters"
    ]


def test_namespaces_are_own(sbx: Sbx, rootfs: Path) -> None:
    kinds = ("user", "mnt", "pid", "uts", "ipc", "net", "cgroup")
    done = sbx("run", rootfs, "readlink", *(f"/proc/self/ns/{kind}" for kind in kinds))
    assert len(done.stdout.split()) == len(kinds), done.stderr
    for kind, inside in zip(kinds, done.stdout.split(), strict=True):
        assert inside != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_time_namespace_under_strict(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--policy", "strict", rootfs, "readlink", "/proc/self/ns/time")
    assert done.stdout.strip() != os.readlink("/proc/self/ns/time")


@pytest.mark.parametrize("policy", ["strict", "default", "ci"])
def test_no_capabilities_and_no_new_privs(sbx: Sbx, rootfs: Path, policy: str) -> None:
    done = sbx("run", "--policy", policy, "-u", "1000", rootfs, "cat", "/proc/self/status")
    found = dict(line.split(":", 1) for line in done.stdout.splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert found["NoNewPrivs"].strip() == "1"
    assert found["Seccomp"].strip() == "2"


def test_capabilities_of_root(sbx: Sbx, rootfs: Path) -> None:
    def effective(*words: str) -> int:
        done = sbx("run", "-u", "0", *words, rootfs, "cat", "/proc/self/status")
        return int(dict(line.split(":", 1) for line in done.stdout.splitlines())["CapEff"], 16)

    assert effective() == 0x800000FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "CHOWN") == 1


def test_passed_descriptor_and_no_other(sbx: Sbx, rootfs: Path) -> None:
    reader, writer = os.pipe()
    other, end = os.pipe()
    try:
        os.set_inheritable(writer, True)
        script = f"echo through > /dev/fd/{writer}; ls /proc/self/fd"
        done = sbx("run", "--pass-fd", writer, rootfs, "sh", "-c", script, pass_fds=(writer, end))
        assert done.returncode == 0, done.stderr
        assert os.read(reader, 100) == b"through\n"
        assert set(map(int, done.stdout.split())) <= {0, 1, 2, 3, writer}
        assert str(end) not in done.stdout.split()
    finally:
        for number in (reader, writer, other, end):
            os.close(number)


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_supplementary_groups_are_gone(sbx: Sbx, rootfs: Path, policy: str) -> None:
    """The primary group stands in the list: what it is refused by its group stays refused."""
    if set(os.getgroups()) <= {os.getgid()}:
        pytest.skip("the user of the tests has no supplementary group; run: make setup")
    own = f"{os.getgid()}\n"
    done = sbx("run", "--policy", policy, rootfs, "grep", "^Groups:", "/proc/self/status")
    assert done.stdout.split() == ["Groups:", own.strip()], done.stdout


def test_groups_that_cannot_be_dropped_are_said(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """With one id mapped the kernel keeps them: strict refuses, others tell."""
    if set(os.getgroups()) <= {os.getgid()}:
        pytest.skip("the user of the tests has no supplementary group; run: make setup")
    for policy, code in (("strict", 125), ("default", 0)):
        path = tmp_path / f"{policy}.toml"
        path.write_text(f'extends = "{policy}"\n[identity]\nmap = "single"\n')
        done = sbx("run", "--policy", path, rootfs, "true")
        assert done.returncode == code, done.stderr
        assert "group" in done.stderr


def test_umask(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", rootfs, "sh", "-c", "umask").stdout == "0022\n"


def test_mount_is_refused(sbx: Sbx, rootfs: Path) -> None:
    """Asked as user 0, whom mount(8) lets through to the kernel."""
    script = "mount -t tmpfs none /srv 2>&1; echo $?; grep -c ' /srv ' /proc/self/mountinfo"
    done = sbx("run", "--user", "0", rootfs, "sh", "-c", f"mkdir -p /srv; {script}")
    *said, code, mounted = done.stdout.splitlines()
    assert (code, mounted) == ("32", "0"), done
    assert "permission denied" in said[0] or "not permitted" in said[0], done


# ---- names ------------------------------------------------------------------------------------


def test_the_payloads_user_has_a_name(sbx: Sbx, debian_own: Path) -> None:
    before = (debian_own / "etc/passwd").read_bytes()
    script = "whoami; id -gn; getent passwd $(id -u) | cut -d: -f6; tail -c1 /etc/group | wc -l"
    for policy in ("default", "strict"):
        done = sbx("run", "--policy", policy, "--user", "4321:4322", debian_own, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (0, "user\nuser\n/tmp\n1\n"), done.stderr
    for user, name in (("0", "root"), ("daemon", "daemon")):
        assert sbx("run", "--user", user, debian_own, "whoami").stdout == f"{name}\n"
    assert (debian_own / "etc/passwd").read_bytes() == before


def test_a_root_without_accounts_gets_none(sbx: Sbx, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert sbx("rootfs", "from-host", root, "sh", "ls").returncode == 0
    for name in ("passwd", "group"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to("/nowhere")
    done = sbx("run", "--user", "4321", root, "sh", "-c", "test -e /etc/passwd || echo none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "none\n", "")


# ---- limits of the caller -----------------------------------------------------------------------


def limited(sbx: Sbx, limit: str, *words: object) -> subprocess.CompletedProcess[str]:
    """`sbx run` below a ulimit, which would strike a measurement of coverage as well."""
    shell = f'ulimit {limit} && exec "$@"'
    argv = ["bash", "-c", shell, "bash", sbx.path, "run", *map(str, words)]
    env = {name: value for name, value in sbx.env.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize(("limit", "word"), [("-n 16", "ulimit -n"), ("-f 0", "ulimit -f")])
def test_limits_of_the_caller_that_are_too_low_are_named(
    sbx: Sbx, rootfs: Path, limit: str, word: str
) -> None:
    done = limited(sbx, limit, rootfs, "true")
    assert done.returncode == 125
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limit", ["-v 400000", "-s 512", "-l 0", "-i 0", "-c 0"])
def test_other_limits_of_the_caller_are_no_hindrance(sbx: Sbx, rootfs: Path, limit: str) -> None:
    done = limited(sbx, limit, rootfs, "sh", "-c", "echo fine")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# ---- the host's network -------------------------------------------------------------------------


def test_the_hosts_network_comes_with_its_names(sbx: Sbx, rootfs: Path) -> None:
    resolver = Path("/etc/resolv.conf")
    script = "cat /etc/resolv.conf; echo --; cat /etc/hosts; echo x >> /etc/resolv.conf"
    done = sbx("run", "--network", "host", "-u", "0", rootfs, "sh", "-c", script)
    resolved, _, hosts = done.stdout.partition("--\n")
    assert resolved == (resolver.read_text() if resolver.exists() else "")
    assert hosts.startswith("127.0.0.1 localhost")
    assert hosts.endswith(Path("/etc/hosts").read_text())
    assert not (rootfs / "etc/resolv.conf").exists()
    done = sbx("run", rootfs, "sh", "-c", "test -e /etc/resolv.conf || echo none")
    assert done.stdout == "none\n"


def test_tcp_that_landlock_refuses_is_said(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--network", "host", "--policy", "strict", rootfs, "true")
    assert done.returncode == 0
    assert "TCP is refused inside" in done.stderr
    assert "landlock.tcp" in done.stderr
    assert "TCP" not in sbx("run", "--network", "host", rootfs, "true").stderr


# ---- the caller's outputs -----------------------------------------------------------------------

_TURNS = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done"


def test_outputs_that_are_one_file_keep_their_order(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    expected = [str(number) for number in range(400)]
    with open(tmp_path / "log", "wb") as log:
        for stdout in (subprocess.PIPE, log):
            pipes = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.STDOUT}
            running = sbx.start("run", rootfs, "sh", "-c", _TURNS, **pipes)
            output = running.communicate(timeout=60)[0]
            assert running.returncode == 0
            written = output if output is not None else (tmp_path / "log").read_bytes()
            assert written.decode().split() == expected


@pytest.mark.parametrize(("options", "code"), [((), 141), (("-t",), 129)])
def test_a_reader_that_leaves_ends_the_command(
    sbx: Sbx, debian_own: Path, options: tuple[str, ...], code: int
) -> None:
    words = ("run", *options, "--timeout", "50s", debian_own, "yes")
    running = sbx.start(*words, stdin=subprocess.DEVNULL)
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline().strip() == b"y"
    running.stdout.close()
    assert running.wait(timeout=60) == code
    assert running.stderr.read() == b""
    running.stderr.close()


def test_the_reader_of_one_output_may_leave(sbx: Sbx, rootfs: Path) -> None:
    script = "echo first; sleep 0.3; echo second; echo $? >&2; exit 6"
    words = ("run", rootfs, "sh", "-c", f"trap '' PIPE; {script}")
    running = sbx.start(*words, stdin=subprocess.DEVNULL)
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == b"first\n"
    running.stdout.close()
    assert running.wait(timeout=60) == 6
    assert running.stderr.read().endswith(b"1\n")
    running.stderr.close()
