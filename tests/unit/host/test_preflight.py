"""What a failed execve is explained as, on made-up and on hostile root file systems."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.host.preflight import explain_exec_failure
from tests.support.elf_maker import AARCH64, I386, OBJECT, X86_64, elf_bytes, write_elf
from tests.support.fuzzing import examples

PATH = "/usr/bin:/bin"
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}
HOST = MACHINES[os.uname().machine]
OTHER = AARCH64 if HOST == X86_64 else X86_64


class Root:
    """A root file system to fill, and the explanation for a command in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, place: str, content: bytes | str, mode: int = 0o755) -> Path:
        path = self.path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def program(self, place: str, **options: object) -> Path:
        return write_elf(self.path / place, **{"machine": HOST, **options})

    def cause(self, command: str, number: int = errno.ENOENT, path: str = PATH) -> str:
        return explain_exec_failure(str(self.path), command, path, number)[1]

    def hint(self, command: str, number: int = errno.ENOENT) -> str:
        return explain_exec_failure(str(self.path), command, PATH, number)[2]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/bin").symlink_to("usr/bin")
    return Root(tmp_path / "root")


def test_missing_interpreter_is_named(root: Root) -> None:
    root.program("usr/bin/app", interp="/lib/ld-musl-x86_64.so.1")
    what, cause, hint = explain_exec_failure(str(root.path), "app", PATH, errno.ENOENT)
    assert what == "cannot run app"
    assert cause == "the interpreter /lib/ld-musl-x86_64.so.1 is missing"
    assert "musl" in hint


def test_missing_glibc_interpreter_has_another_hint(root: Root) -> None:
    root.program("usr/bin/app", interp="/lib64/ld-linux-x86-64.so.2")
    assert "C library" in root.hint("app")


def test_dangling_interpreter_shows_the_link(root: Root) -> None:
    root.program("usr/bin/app", interp="/ld.so")
    (root.path / "ld.so").symlink_to("/lib/real.so")
    assert "it is a symbolic link to /lib/real.so, which is missing" in root.cause("app")


def test_unusable_interpreters(root: Root) -> None:
    root.program("usr/bin/app", interp="/ld.so")
    root.file("ld.so", "text")
    assert "is not an ELF program" in root.cause("app", errno.ELIBBAD)
    root.program("ld.so", machine=OTHER)
    assert "is not an ELF program for" in root.cause("app", errno.ELIBBAD)
    (root.path / "ld.so").chmod(0o644)
    assert "is not executable: mode 0644" in root.cause("app", errno.EACCES)
    (root.path / "ld.so").unlink()
    (root.path / "ld.so").mkdir()
    assert "is not a regular file" in root.cause("app", errno.EACCES)


def test_missing_script_interpreter_is_named(root: Root) -> None:
    root.file("usr/bin/tool", "#!/usr/bin/python\nprint(1)\n")
    assert root.cause("/bin/tool") == "script interpreter /usr/bin/python is missing"


def test_similar_script_interpreter_is_proposed(root: Root) -> None:
    root.file("usr/bin/tool", "#!/usr/local/bin/bash\n")
    root.program("usr/bin/bash")
    assert root.hint("tool") == "did you mean /usr/bin/bash"


def test_nested_script_reaches_the_missing_loader(root: Root) -> None:
    root.file("usr/bin/a", "#!/usr/bin/b\n")
    root.file("usr/bin/b", "#!/usr/bin/c -x\n")
    root.program("usr/bin/c", interp="/ld.so")
    expected = (
        "script interpreter /usr/bin/b: script interpreter /usr/bin/c: the interpreter /ld.so"
    )
    assert root.cause("a").startswith(expected)


def test_scripts_in_a_circle_end(root: Root) -> None:
    root.file("usr/bin/a", "#!/usr/bin/a\n")
    assert "too many levels of script interpreters" in root.cause("a", errno.ELOOP)


def test_env_script_names_the_program(root: Root) -> None:
    root.file("usr/bin/a", "#!/usr/bin/env -S ruby -w\n")
    root.program("usr/bin/env")
    assert root.cause("a") == "the script needs ruby, which is missing"


def test_carriage_return_is_recognised(root: Root) -> None:
    root.file("usr/bin/a", "#!/bin/sh\r\necho\r\n")
    root.program("usr/bin/sh")
    assert "carriage return" in root.cause("a")
    assert "Unix line endings" in root.hint("a")


def test_other_machine_is_named(root: Root) -> None:
    root.program("usr/bin/app", machine=OTHER)
    other = "aarch64" if OTHER == AARCH64 else "x86_64"
    assert (
        root.cause("app", errno.ENOEXEC) == f"it is for {other}, this host is {os.uname().machine}"
    )


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "exec format error: the file is empty"),
        (b"echo hello\n", "exec format error: neither ELF nor #!"),
        (b"#!\n", "exec format error: its #! line names no interpreter"),
        (b"\x7fELF\x02\x01", "exec format error: the ELF header is cut off or invalid"),
        (elf_bytes(machine=HOST, kind=OBJECT), "exec format error: it is an ELF file, but not a "),
    ],
)
def test_exec_format_errors(root: Root, content: bytes, cause: str) -> None:
    root.file("usr/bin/app", content)
    assert root.cause("app", errno.ENOEXEC).startswith(cause)


def test_mode_is_shown(root: Root) -> None:
    root.file("usr/bin/app", "#!/bin/sh\n", 0o644)
    assert root.cause("/usr/bin/app", errno.EACCES) == "permission denied: mode 0644"
    assert root.cause("app", errno.EACCES) == "permission denied: mode 0644"
    assert root.hint("app", errno.EACCES) == "make it executable: chmod +x /usr/bin/app"


def test_directory_is_named(root: Root) -> None:
    assert root.cause("/usr/bin", errno.EACCES) == "it is a directory"


def test_absent_command_names_where_it_was_sought(root: Root) -> None:
    root.program("usr/bin/python3")
    assert root.cause("pythn3") == "no such program in /usr/bin, /bin"
    assert root.hint("pythn3") == "did you mean /usr/bin/python3"
    assert root.hint("zzz") == ""


def test_absent_path_is_named(root: Root) -> None:
    root.program("usr/bin/bash")
    assert root.cause("/usr/local/bin/bash") == "no such file or directory"
    assert root.hint("/usr/local/bin/bash") == "did you mean /usr/bin/bash"


def test_program_outside_path_is_proposed(root: Root) -> None:
    root.program("usr/sbin/ip")
    assert root.hint("ip") == "did you mean /usr/sbin/ip"


def test_empty_path_and_empty_command(root: Root) -> None:
    assert root.cause("ls", path="") == "no such program in an empty PATH"
    assert root.cause("") == "the command is empty"


def test_dangling_command_shows_the_link(root: Root) -> None:
    (root.path / "usr/bin/app").symlink_to("../gone")
    assert root.cause("/bin/app") == "it is a symbolic link to ../gone, which is missing"
    assert root.cause("app") == "it is a symbolic link to ../gone, which is missing"


def test_later_folder_of_path_wins_over_an_unusable_file(root: Root) -> None:
    root.file("usr/bin/app", "x", 0o644)
    root.program("opt/app", interp="/gone")
    assert "/gone is missing" in root.cause("app", path="/usr/bin:/opt")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.E2BIG, "too long"), (errno.ETXTBSY, "open for writing"), (errno.EIO, "input/output")],
)
def test_errno_that_the_files_do_not_explain_is_believed(
    root: Root, number: int, words: str
) -> None:
    root.program("usr/bin/app")
    assert words in root.cause("app", number)
    assert words in root.cause("/elsewhere/app", number)


def test_script_in_a_volume_without_a_first_line(root: Root) -> None:
    _, cause, hint = explain_exec_failure(str(root.path), "/volume/s", PATH, errno.ENOEXEC)
    assert cause == "exec format error"
    assert "#!/bin/sh" in hint


def test_denied_though_all_looks_well(root: Root) -> None:
    root.program("usr/bin/app")
    assert root.cause("app", errno.EACCES) == "permission denied"
    assert "noexec" in root.hint("app", errno.EACCES) or "without exec" in root.hint(
        "app", errno.EACCES
    )


def test_nothing_outside_the_root_is_looked_at(root: Root, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("#!/secret\n")
    (tmp_path / "outside").chmod(0o755)
    (root.path / "usr/bin/a").symlink_to(tmp_path / "outside")
    (root.path / "usr/bin/b").symlink_to("../../../outside")
    for name in "ab":
        assert "secret" not in root.cause(name)
        assert "is missing" in root.cause(name)


def test_loops_pipes_and_devices_do_not_hold_it_up(root: Root) -> None:
    (root.path / "usr/bin/loop").symlink_to("loop")
    os.mkfifo(root.path / "usr/bin/pipe", 0o755)
    assert "too many levels of symbolic links" in root.cause("/bin/loop", errno.ELOOP)
    assert "not a regular file" in root.cause("/bin/pipe", errno.EACCES)
    root.program("usr/bin/app", interp="/usr/bin/pipe")
    assert root.cause("app", errno.EACCES) == "the interpreter /usr/bin/pipe is not a regular file"


def test_names_from_inside_cannot_speak_to_the_terminal(root: Root) -> None:
    root.file("usr/bin/a", b"#!/\x1b[31m\xff" + b"x" * 240)
    root.program("usr/bin/b", interp="/" + "l" * 3000)
    for text in explain_exec_failure(str(root.path), "a\x1b\n", PATH, errno.ENOENT):
        assert text.isprintable()
    assert root.cause("a").isprintable()
    assert len(root.cause("b")) < 300


@pytest.mark.parametrize(
    "command", ["a\0b", "/" * 5000, "x" * 70000, "../" * 2000 + "etc", "\udcff"]
)
def test_odd_commands_are_explained(root: Root, command: str) -> None:
    what, cause, _ = explain_exec_failure(str(root.path), command, PATH, errno.ENOENT)
    assert what.startswith("cannot run ")
    assert cause
    assert len(what) + len(cause) < 1000


def test_missing_root_is_no_crash(tmp_path: Path) -> None:
    assert explain_exec_failure(str(tmp_path / "none"), "ls", PATH, errno.ENOENT)[1]


def test_the_kernel_agrees_about_a_missing_interpreter(root: Root) -> None:
    app = root.program("usr/bin/app", interp="/lib/no-such-loader.so.1")
    with pytest.raises(FileNotFoundError):
        subprocess.run([str(app)], check=True)
    assert root.cause("app") == "the interpreter /lib/no-such-loader.so.1 is missing"


def test_the_narrow_kind_is_not_called_foreign(root: Root) -> None:
    if HOST == X86_64:
        root.program("usr/bin/app", machine=I386, bits=32, interp="/lib/ld-linux.so.2")
        assert root.cause("app") == "the interpreter /lib/ld-linux.so.2 is missing"


_HOSTILE = st.one_of(
    st.binary(max_size=600),
    st.binary(max_size=600).map(lambda rest: b"#!" + rest),
    st.binary(max_size=600).map(lambda rest: b"\x7fELF\x02\x01\x01" + rest),
    st.tuples(st.integers(0, 170), st.binary(min_size=1, max_size=8)).map(
        lambda cut: (
            (whole := elf_bytes(machine=HOST, interp="/usr/bin/app"))[: cut[0]]
            + cut[1]
            + whole[cut[0] + len(cut[1]) :]
        )
    ),
)


@settings(
    max_examples=examples(400),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=_HOSTILE,
    number=st.sampled_from([errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ELOOP, errno.EINVAL]),
)
def test_any_file_is_explained(root: Root, content: bytes, number: int) -> None:
    root.file("usr/bin/app", content)
    texts = explain_exec_failure(str(root.path), "app", PATH, number)
    assert all(text.isprintable() and len(text) < 1500 for text in texts)
    assert texts[1]
