"""Root file systems of host programs really work: tried with chroot in a user namespace."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.host.elf import ElfError
from sandbox.host.libraries import LibraryFinder
from sandbox.services.storage import collect
from sandbox.services.storage.from_host import build
from tests.support import capabilities

pytestmark = pytest.mark.skipif(
    bool(capabilities.user_namespace()), reason=capabilities.user_namespace()
)

_ENTER = 'mount --rbind /dev "$0/dev" && mount -t tmpfs t "$0/tmp" && exec chroot "$0" "$@"'
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_inside(root: Path, *argv: str) -> str:
    """Run a command in `root` as root of a user namespace; its output, when it succeeds."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _ENTER, str(root), *argv],
        env={"PATH": _PATH, "HOME": "/tmp", "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def everyday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("everyday") / "root"
    assert not any("missing" in text for text in build(str(root)).warnings)
    return root


@pytest.fixture(scope="module")
def compilers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compilers") / "root"
    build(str(root), ["sh", "cat", "rm", "mkdir", "gcc", "make"])
    return root


def test_shell_pipeline_runs(everyday: Path) -> None:
    script = "printf '%s\\n' b a c | sort | head -n 2 | tr a-z A-Z | awk '{print NR \":\" $0}'"
    assert run_inside(everyday, "/bin/sh", "-c", script) == "1:A\n2:B\n"


def test_paths_of_both_layouts_work(everyday: Path) -> None:
    assert run_inside(everyday, "/bin/bash", "-c", "echo $((6 * 7))") == "42\n"
    assert run_inside(everyday, "/usr/bin/env", "true") == ""


def test_names_of_users_are_known(everyday: Path) -> None:
    assert run_inside(everyday, "id", "-un") == "root\n"
    assert run_inside(everyday, "id", "-u", "nobody") == "65534\n"
    assert "localhost" in run_inside(everyday, "cat", "/etc/hosts")


def test_every_program_finds_its_libraries(everyday: Path) -> None:
    finder = LibraryFinder()
    for path in sorted((everyday / "usr/bin").iterdir()):
        try:
            elf = finder.read(str(path.resolve() if not path.is_symlink() else path))
        except (OSError, ElfError):
            continue
        if elf is not None and elf.head.interpreter:
            inside = f"/usr/bin/{path.name}"
            run_inside(everyday, elf.head.interpreter, "--verify", inside)
            if path.name in ("bash", "tar", "ps", "find"):
                assert "not found" not in run_inside(
                    everyday, elf.head.interpreter, "--list", inside
                )


def test_default_python_runs_with_its_library(everyday: Path) -> None:
    if not shutil.which("python3", path=_PATH):
        pytest.skip("python3 is not installed")
    code = "import ssl, sqlite3, ctypes, json, subprocess; print(subprocess.getoutput('echo yes'))"
    assert run_inside(everyday, "python3", "-c", code) == "yes\n"


def test_terminal_descriptions_come_with_curses(everyday: Path) -> None:
    if not shutil.which("python3", path=_PATH):
        pytest.skip("python3 is not installed")
    code = "import curses; [curses.setupterm(t, 1) for t in ('xterm', 'linux', 'xterm-256color')]"
    run_inside(everyday, "python3", "-c", code)


def test_perl_brings_its_modules(tmp_path: Path) -> None:
    root = tmp_path / "root"
    build(str(root), ["perl"])
    code = "use POSIX; use strict; use List::Util 'sum'; print sum(1, 2, POSIX::floor(3.5))"
    assert run_inside(root, "perl", "-e", code) == "6"


@pytest.mark.parametrize("flags", ["", "-O2 -static", "-flto", "-static-pie"])
def test_c_compiler_compiles_links_and_the_program_runs(compilers: Path, flags: str) -> None:
    script = f"""cd /tmp && cat > a.c <<'END'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <linux/types.h>
int main(int argc, char **argv) {{ (void)argv; printf("%.0f\\n", sqrt(16.0 * argc)); return 0; }}
END
gcc -Wall -Werror {flags} a.c -o a -lm -lpthread && ./a"""
    assert run_inside(compilers, "/bin/sh", "-c", script) == "4\n"


def test_make_runs_recipes(compilers: Path) -> None:
    script = (
        r"cd /tmp && printf 'all: a b\na b:\n\techo $@ > $@\n' > Makefile && make -s -j2 && cat a b"
    )
    assert run_inside(compilers, "/bin/sh", "-c", script) == "a\nb\n"


def test_library_from_a_folder_of_conf_is_found_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (tmp_path / "l.c").write_text("int answer(void) { return 42; }\n")
    (tmp_path / "m.c").write_text("int answer(void); int main(void) { return answer() != 42; }\n")
    library = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libodd.so.1", "l.c", "-o", "odd/libodd.so.1"]
    program = ["gcc", "m.c", "odd/libodd.so.1", "-o", "program"]
    for command in (library, program):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    conf = tmp_path / "conf"
    conf.write_text(f"{odd}\n")
    finder = LibraryFinder(conf=str(conf))
    monkeypatch.setattr(collect, "LibraryFinder", lambda: finder)
    out = tmp_path / "out"
    result = build(str(out), [str(tmp_path / "program"), "sh", "cp"])
    assert not any("will not be found" in text for text in result.warnings)
    assert str(odd) in (out / "etc/ld.so.conf").read_text()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "chroot", str(out), str(tmp_path / "program")],
        env={"PATH": _PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_search_agrees_with_the_loader(tmp_path: Path) -> None:
    finder = LibraryFinder()
    compared = 0
    for path in sorted(Path("/usr/bin").iterdir())[::7]:
        real = str(path.resolve())
        try:
            elf = finder.read(real)
        except (OSError, ElfError):
            continue
        if elf is None or not elf.head.interpreter or "musl" in elf.head.interpreter:
            continue
        closure = finder.closure(real, elf)
        listed = subprocess.run(
            [elf.head.interpreter, "--list", real],
            env={},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        theirs = {
            os.path.realpath(line.split()[2])
            for line in listed.splitlines()
            if " => /" in line and os.path.basename(elf.head.interpreter) not in line
        }
        ours = {os.path.realpath(one.path) for one in closure.libraries}
        assert ours == theirs, real
        assert bool(closure.problems) == ("not found" in listed), real
        compared += 1
    assert compared > 5
