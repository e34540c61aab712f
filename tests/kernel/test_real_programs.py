"""Real programs inside: shells, compilers, builds, pip, many files, and Python's own tests.

What runs here is what sandboxes are used for; under each map of ids and each kind of storage
where that makes a difference.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support import capabilities

SUPPORT = Path(__file__).parents[1] / "support"
PYTHON_TESTS = ("test_os", "test_subprocess", "test_socket", "test_tempfile")
PROGRAM = """
#include <stdio.h>
#include <math.h>
int main(void) { printf("%.0f\\n", sqrt(1764.0)); return 3; }
"""


@pytest.fixture(autouse=True)
def _clean(leaves_nothing: None) -> None:
    """Apply `leaves_nothing` to all tests of this module."""


@pytest.fixture(params=["root's", "own"])
def system(request: pytest.FixtureRequest) -> Path:
    """The Debian root file system, once as root's and once in the caller's ids."""
    name = "debian" if request.param == "root's" else "debian_own"
    path = request.getfixturevalue(name)
    assert isinstance(path, Path)
    return path


@pytest.mark.parametrize("policy", ["strict", "default", "ci", "permissive"])
def test_shell_pipeline(sbx: Sbx, system: Path, policy: str) -> None:
    script = (
        "find /etc -type f 2>/dev/null | sed 's,.*/,,' | sort | uniq -c | sort -rn | awk '{s+=$1} "
        'END {print (s > 50) ? "many" : "few"}\'; echo $((6*7)) | tee /tmp/x | tr 4 5; cat /tmp/x'
    )
    done = sbx("run", "--policy", policy, system, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "many\n52\n42\n"), done.stderr


def test_shell_pipeline_from_host(sbx: Sbx, rootfs: Path) -> None:
    script = "seq 100 | sort -rn | head -n 2 | tr '\\n' ' '; mkdir /tmp/d && cd /tmp/d && pwd"
    done = sbx("run", "--policy", "strict", rootfs, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "100 99 /tmp/d\n"), done.stderr


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_compile_and_run(sbx: Sbx, system: Path, tmp_path: Path, policy: str) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    script = "cd /src && gcc -O1 -o main main.c -lm && ./main"
    words = ("--policy", policy, "-v", f"{tmp_path}:/src")
    done = sbx("run", *words, system, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (3, "42\n"), done.stderr
    assert (tmp_path / "main").stat().st_uid == os.getuid()


@pytest.fixture(scope="module")
def toolchain(sbx: Sbx, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a run with the host's own compiler, make and Python, from a root file system that
    `sbx rootfs from-host` made; their data files are bound read-only."""
    for name in ("gcc", "make", "/usr/bin/python3"):
        if missing := capabilities.program(name):
            pytest.skip(missing)
    helpers = [_ask("gcc", f"-print-prog-name={name}") for name in ("cc1", "collect2", "as", "ld")]
    out = tmp_path_factory.mktemp("toolchain") / "rootfs"
    programs = ["sh", "gcc", "cc", "make", "ar", "test", "rm", "mkdir", "echo", "/usr/bin/python3"]
    made = sbx("rootfs", "from-host", out, *programs, *filter(None, map(shutil.which, helpers)))
    assert made.returncode == 0, made.stderr
    compiler = Path(_ask("gcc", "-print-libgcc-file-name")).parent
    libc = Path(_ask("gcc", "-print-file-name=libc.so")).resolve().parent
    python = _ask("/usr/bin/python3", "-c", "import os; print(os.path.dirname(os.__file__))")
    data = {str(compiler), str(compiler.resolve()), str(libc), python, "/usr/include"}
    volumes = [word for path in sorted(data) for word in ("-v", f"{path}:{path}:ro")]
    return [*volumes, str(out)]


def test_compile_and_run_with_the_hosts_compiler(
    sbx: Sbx, toolchain: list[str], tmp_path: Path
) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    script = "cd /src && gcc -o main main.c -lm && ./main"
    done = sbx("run", "-v", f"{tmp_path}:/src", *toolchain, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (3, "42\n"), done.stderr


def test_make_with_the_hosts_tools(sbx: Sbx, toolchain: list[str], tmp_path: Path) -> None:
    shutil.copytree(SUPPORT / "project", tmp_path / "project")
    words = ("-v", f"{tmp_path}/project:/project", "-w", "/project", *toolchain)
    done = sbx("run", *words, "make", "-j2", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all checks passed\n")


def test_ten_thousand_files_with_the_hosts_python(
    sbx: Sbx, toolchain: list[str], tmp_path: Path
) -> None:
    words = ("-v", f"{tmp_path}:/data", *toolchain, "python3", "-c", MANY_FILES)
    for where in ("/tmp", "/data"):
        done = sbx("run", *words, where, timeout=120)
        assert (done.returncode, done.stdout) == (0, "10000 []\n"), done.stderr


def _ask(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["strict", "default"])
def test_pip_install_of_an_extension(sbx: Sbx, system: Path, tmp_path: Path, policy: str) -> None:
    shutil.copytree(SUPPORT / "sdist", tmp_path / "sdist")
    (tmp_path / "site").mkdir()
    pip = (
        "python3 -m pip install --no-build-isolation --no-index --no-deps --target /site /tmp/sdist"
    )
    script = (
        f"cp -r /sdist /tmp/sdist && {pip} >&2 && "
        "PYTHONPATH=/site python3 -c 'import answer; print(answer.answer(7))'"
    )
    words = [
        "--policy",
        policy,
        "-v",
        f"{tmp_path}/sdist:/sdist:ro",
        "-v",
        f"{tmp_path}/site:/site",
    ]
    done = sbx("run", *words, system, "sh", "-c", script, timeout=300)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert list((tmp_path / "site" / "answer").glob("_answer*.so"))


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_make_of_a_project(sbx: Sbx, system: Path, tmp_path: Path, policy: str) -> None:
    shutil.copytree(SUPPORT / "project", tmp_path / "project")
    words = ("--policy", policy, "-v", f"{tmp_path}/project:/project", "-w", "/project")
    done = sbx("run", *words, system, "make", "-j2", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all checks passed\n")
    assert (tmp_path / "project" / "calc").exists()
    again = sbx("run", *words, system, "make", "clean")
    assert again.returncode == 0, again.stderr
    assert not (tmp_path / "project" / "calc").exists()


MANY_FILES = """
import os, sys
for n in range(10_000):
    folder = f"{sys.argv[1]}/{n % 100}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{n}", "w") as f:
        f.write(str(n) * 10)
total = sum(len(files) for _, _, files in os.walk(sys.argv[1]))
for folder, folders, files in os.walk(sys.argv[1], topdown=False):
    for name in files:
        os.unlink(os.path.join(folder, name))
    if folder != sys.argv[1]:
        os.rmdir(folder)
print(total, os.listdir(sys.argv[1]))
"""


@pytest.mark.parametrize("where", ["/tmp", "/srv", "/data"])
def test_ten_thousand_files(sbx: Sbx, debian_own: Path, tmp_path: Path, where: str) -> None:
    script = f"mkdir -p {where}/many && python3 -c '{MANY_FILES}' {where}/many"
    words = ("-u", "0", "-v", f"{tmp_path}:/data")
    done = sbx("run", *words, debian_own, "sh", "-c", script, timeout=120)
    assert (done.returncode, done.stdout) == (0, "10000 []\n"), done.stderr


@pytest.mark.slow
def test_package_manager_inside(sbx: Sbx, debian_own: Path) -> None:
    """dpkg and apt run as the sandbox's root, on files of many owners."""
    script = (
        "dpkg --audit && apt-get check -qq && dpkg -r --force-depends make >&2 && ! command -v make"
    )
    done = sbx("run", "-u", "0", debian_own, "sh", "-c", script, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- Python's own tests -------------------------------------------------------------------------

# Tests whose outcome differs from the one outside, each with its reason.
ONE_ID = "outside, the user namespace that chroot needs has one id: other owners are invalid"
NO_TCP = "strict lets no program listen on TCP, not even on loopback"
NO_EXEC = "strict's /tmp is noexec, and the test runs a script that it writes there"
FEW_FDS = "strict's limit of 1024 descriptors is low enough for the test to reach, so it runs"
ONE_GROUP = "the test needs two groups, and the payload has one; ONE_ID is why it fails outside"
_DEFAULT = {
    "test_os.ChownFileTests.test_chown_gid": ONE_GROUP,
    "test_os.ChownFileTests.test_chown_without_permission": ONE_ID,
    "test_subprocess.POSIXProcessTestCase.test_group": ONE_ID,
    "test_subprocess.POSIXProcessTestCase.test_user": ONE_ID,
}
_STRICT = {
    "test_os.TestSendfile.test_invalid_offset": NO_TCP,
    "test_os.TestSendfile.test_keywords": NO_TCP,
    "test_os.TestSendfile.test_offset_overflow": NO_TCP,
    "test_os.TestSendfile.test_send_at_certain_offset": NO_TCP,
    "test_os.TestSendfile.test_send_whole_file": NO_TCP,
    "test_subprocess.POSIXProcessTestCase.test_args_string": NO_EXEC,
    "test_subprocess.POSIXProcessTestCase.test_call_string": NO_EXEC,
    "test_subprocess.ProcessTestCase.test_no_leaking": FEW_FDS,
    "test_subprocess.ProcessTestCaseNoPoll.test_no_leaking": FEW_FDS,
}
EXPECTED = {"default": _DEFAULT, "strict": _DEFAULT | _STRICT}

# Strict refuses TCP, so the sockets' tests are no test of it.
TESTED = {"default": PYTHON_TESTS, "strict": tuple(n for n in PYTHON_TESTS if n != "test_socket")}

OUTSIDE = """
set -e
ulimit -Sn 4096
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs none "$1/tmp"
mount -t tmpfs none "$1/mnt"
cp "$2" "$1/mnt/script.py"
mkdir "$1/mnt/etc"
cp -r "$1/etc/." "$1/mnt/etc" 2>/dev/null || true
cp /etc/hosts "$1/mnt/etc/hosts"
mount --bind "$1/mnt/etc" "$1/etc"
root=$1
shift 2
exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp LANG=C.UTF-8 chroot "$root" \
    setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all \
    sh -c 'cd /tmp && exec python3 /mnt/script.py "$@"' sh "$@"
"""


def _outcomes(text: str) -> dict[str, tuple[str, str]]:
    return {
        name: (found, detail) for name, (found, detail) in json.loads(text.splitlines()[-1]).items()
    }


@pytest.fixture(scope="module")
def outside(debian: Path) -> dict[str, tuple[str, str]]:
    """The outcomes without a sandbox: the same interpreter and files, the same user, chroot only.

    The user namespace serves for chroot alone; all its capabilities are dropped before Python.
    """
    command = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"]
    script = SUPPORT / "unittest_outcomes.py"
    done = subprocess.run(
        [*command, OUTSIDE, "sh", str(debian), str(script), *PYTHON_TESTS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return _outcomes(done.stdout)


@pytest.fixture(params=["default", "strict"])
def inside(
    request: pytest.FixtureRequest, sbx: Sbx, debian: Path
) -> tuple[str, dict[str, tuple[str, str]]]:
    """The outcomes under a policy."""
    policy = request.param
    script = SUPPORT / "unittest_outcomes.py"
    words = (
        "--policy",
        policy,
        "-v",
        f"{script}:/script.py:ro",
        "-w",
        "/tmp",
        "-e",
        "HOME=/tmp",
    )
    done = sbx("run", *words, debian, "python3", "/script.py", *TESTED[policy], timeout=280)
    assert done.returncode == 0, done.stderr
    return policy, _outcomes(done.stdout)


@pytest.mark.slow
def test_pythons_own_tests(
    inside: tuple[str, dict[str, tuple[str, str]]], outside: dict[str, tuple[str, str]]
) -> None:
    policy, found = inside
    assert len(outside) > 900
    assert found.keys() == {n for n in outside if n.split(".")[1] in TESTED[policy]}
    differ = {
        name: f"outside {outside[name]}, inside {found[name]}"
        for name in found
        if found[name][0] != outside[name][0]
    }
    surprising = {
        name: text
        for name, text in differ.items()
        if name.partition(".")[2] not in EXPECTED[policy]
    }
    assert not surprising, json.dumps(surprising, indent=1)
