"""Root file systems of host programs: what is collected, refused, copied and replaced."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import RootfsError
from sandbox.host.libraries import LibraryFinder
from sandbox.services.storage import collect, from_host
from sandbox.services.storage.from_host import MARKER, Result, build, is_ours
from sandbox.services.storage.inventory import Inventory
from tests.support.elf_maker import AARCH64, I386, X86_64, write_elf

HOST = {"x86_64": X86_64, "aarch64": AARCH64}[os.uname().machine]
OTHER = AARCH64 if HOST == X86_64 else X86_64


class Maker:
    """A folder of made-up host programs and the root file system that is built from them."""

    def __init__(self, base: Path) -> None:
        self.host = base / "host"
        self.out = base / "out"
        self.host.mkdir()

    def program(self, place: str, **options: object) -> str:
        return str(write_elf(self.host / place, **{"machine": HOST, "dynamic": False, **options}))

    def script(self, place: str, text: str, mode: int = 0o755) -> str:
        path = self.host / place
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def build(
        self,
        *programs: str,
        includes: tuple[tuple[str, str], ...] = (),
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        return build(str(self.out), programs, includes=includes, force=force, progress=progress)

    def problems(self, *programs: str, includes: tuple[tuple[str, str], ...] = ()) -> list[str]:
        with pytest.raises(RootfsError) as caught:
            self.build(*programs, includes=includes)
        assert not self.out.exists()
        assert [p.name for p in self.out.parent.iterdir()] == ["host"]
        return list(caught.value.problems)

    def inside(self, path: str | Path) -> Path:
        return self.out / str(path).lstrip("/")


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_static_program_stands_alone_at_its_own_path(maker: Maker) -> None:
    path = maker.program("app")
    result = maker.build(path)
    assert maker.inside(path).read_bytes() == Path(path).read_bytes()
    assert (result.programs, result.libraries) == (1, 0)
    assert result.out == str(maker.out)


def test_program_where_a_sandbox_mounts_is_told(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = maker.program("app")
    assert ("covered" in "".join(maker.build(app).warnings)) is app.startswith("/tmp/")
    monkeypatch.setattr(from_host, "_COVERED", (f"{maker.host}/",))
    assert maker.build(app, force=True).warnings == (
        f"{app} will be covered by what a sandbox mounts there",
    )


def test_narrow_program_is_told(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_host, "_COVERED", ())
    app = maker.program("app", machine=I386, bits=32)
    if HOST == X86_64:
        (warning,) = maker.build(app).warnings
        assert warning == f"{app}: is for i386, whose system calls seccomp filters refuse"


def test_static_pie_needs_no_interpreter(maker: Maker) -> None:
    maker.build(maker.program("app", dynamic=True))
    assert maker.inside(maker.host / "app").exists()


def test_interpreter_and_libraries_come_along(maker: Maker) -> None:
    loader = maker.program("lib/ld-x.so", dynamic=True)
    library = maker.program("lib/liba.so", dynamic=True, needed=("libb.so",), runpath="$ORIGIN")
    second = maker.program("lib/libb.so", dynamic=True)
    path = maker.program(
        "app", dynamic=True, interp=loader, needed=("liba.so",), runpath="$ORIGIN/lib"
    )
    result = maker.build(path)
    assert result.libraries == 2
    assert all(maker.inside(one).is_file() for one in (loader, library, second))


def test_chain_of_links_is_reproduced(maker: Maker) -> None:
    maker.program("real/app")
    (maker.host / "alias").symlink_to("real")
    (maker.host / "relative").symlink_to("alias/app")
    (maker.host / "absolute").symlink_to(maker.host / "relative")
    maker.build(str(maker.host / "absolute"))
    assert os.readlink(maker.inside(maker.host / "absolute")) == str(maker.host / "relative")
    assert os.readlink(maker.inside(maker.host / "relative")) == "alias/app"
    assert os.readlink(maker.inside(maker.host / "alias")) == "real"
    assert maker.inside(maker.host / "real/app").is_file()


def test_top_level_links_of_the_host_are_reproduced(maker: Maker) -> None:
    maker.build(maker.program("app"))
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            assert os.readlink(maker.out / name) == os.readlink(f"/{name}")
            assert maker.inside(os.path.realpath(f"/{name}")).is_dir()


def test_frame_has_its_modes_and_files(maker: Maker) -> None:
    maker.build(maker.program("app"))
    for path, mode in from_host._DIRECTORIES:
        assert stat.S_IMODE(maker.inside(path).lstat().st_mode) == mode, path
    passwd = maker.inside("/etc/passwd").read_text().splitlines()
    assert [line.split(":")[2] for line in passwd] == ["0", "1000", "65534"]
    assert {line.split(":")[6] for line in passwd} == {"/bin/sh", "/usr/sbin/nologin"}
    assert "passwd: files" in maker.inside("/etc/nsswitch.conf").read_text()
    assert "localhost" in maker.inside("/etc/hosts").read_text()
    assert stat.S_IMODE(maker.out.stat().st_mode) == 0o755


def test_script_brings_its_interpreter(maker: Maker) -> None:
    interpreter = maker.program("interp")
    maker.build(maker.script("tool", f"#!{interpreter} -x\n"))
    assert maker.inside(interpreter).is_file()


def test_env_script_brings_env_and_the_program_from_path(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.program("env")
    program = maker.program("lang")
    monkeypatch.setenv("PATH", str(maker.host))
    maker.build(maker.script("tool", f"#!{maker.host}/env -S lang -w\n"))
    assert maker.inside(program).is_file()
    assert maker.inside(maker.host / "env").is_file()


def test_scripts_may_be_nested_four_deep(maker: Maker) -> None:
    before = maker.program("interp")
    for depth in range(4):
        before = maker.script(f"s{depth}", f"#!{before}\n")
    maker.build(before)
    maker.out.rename(maker.host / "done")
    one_more = maker.script("s4", f"#!{before}\n")
    assert "more than 4 scripts" in maker.problems(one_more)[0]


def test_all_problems_are_gathered(maker: Maker) -> None:
    lost = maker.program("lost", dynamic=True, interp="/no/ld.so", needed=("libnone.so",))
    plain = maker.script("plain", "echo\n")
    blocked = maker.script("blocked", "#!/bin/sh\n", 0o644)
    foreign = maker.program("foreign", machine=OTHER)
    dos = maker.script("dos", "#!/bin/sh\r\n")
    (maker.host / "dangling").symlink_to("gone")
    names = (lost, plain, blocked, foreign, dos, str(maker.host), f"{maker.host}/dangling")
    text = "\n".join(maker.problems(*names, "no-such-program-anywhere", "/absent"))
    assert f"{lost}: its interpreter /no/ld.so is missing on this host" in text
    assert f"{lost}: needs libnone.so, which is nowhere on this host" in text
    assert f"{plain}: is neither an ELF program nor a #! script" in text
    assert f"{blocked}: is not executable (mode 0644)" in text
    assert f"{foreign}: is for " in text
    assert "carriage returns" in text
    assert f"{maker.host}: is a directory" in text
    assert "dangling: is a symbolic link to gone, which is missing" in text
    assert "no-such-program-anywhere: no such program on PATH" in text
    assert "/absent: no such file or directory" in text


def test_library_of_another_machine_is_named(maker: Maker) -> None:
    maker.program("lib/liba.so", machine=I386, bits=32, dynamic=True)
    app = maker.program("app", dynamic=True, needed=("liba.so",), runpath="$ORIGIN/lib")
    (problem,) = maker.problems(app)
    assert "lib/liba.so is for i386 (32-bit)" in problem


def test_unreadable_files_are_named(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = maker.program("secret")
    real = os.access

    def deny(path: str, mode: int, **more: bool) -> bool:
        return real(path, mode, **more) and not (str(path) == secret and mode & os.R_OK)

    monkeypatch.setattr(os, "access", deny)
    (problem,) = maker.problems(secret)
    assert problem == f"{secret}: cannot be read by this user (mode 0755)"


def test_copies_lose_set_id_bits_and_keep_times(maker: Maker) -> None:
    path = maker.program("app")
    os.chmod(path, 0o6755)
    os.utime(path, ns=(10**18, 10**18 + 7))
    maker.build(path)
    made = maker.inside(path).stat()
    assert stat.S_IMODE(made.st_mode) == 0o755
    assert made.st_mtime_ns == 10**18 + 7


def test_hard_links_stay_inside(maker: Maker) -> None:
    first = maker.program("one")
    second = maker.host / "two"
    os.link(first, second)
    maker.build(first, str(second))
    made = maker.inside(first).stat()
    assert made.st_ino == maker.inside(second).stat().st_ino
    assert made.st_nlink == 2
    assert os.stat(first).st_nlink == 2


def test_include_of_folder_and_file(maker: Maker) -> None:
    app = maker.program("app")
    data = maker.host / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("x")
    (data / "link").symlink_to("sub/file")
    (data / "gone").symlink_to("nowhere")
    os.mkfifo(data / "pipe")
    includes = ((str(data), ""), (str(data), "/srv/data"), (str(data / "link"), "/bin/named"))
    result = maker.build(app, includes=includes)
    assert maker.inside(data / "sub/file").read_text() == "x"
    assert (maker.out / "srv/data/link").readlink() == Path("sub/file")
    assert (maker.out / "srv/data/gone").is_symlink()
    assert (
        maker.out / "usr/bin/named" if os.path.islink("/bin") else maker.out / "bin/named"
    ).exists()
    assert any("pipe is neither" in text for text in result.warnings)


def test_include_replaces_a_generated_file(maker: Maker) -> None:
    mine = maker.host / "passwd"
    mine.write_text("me:x:5:5::/:/bin/sh\n")
    maker.build(maker.program("app"), includes=((str(mine), "/etc/passwd"),))
    assert maker.inside("/etc/passwd").read_text() == "me:x:5:5::/:/bin/sh\n"


def test_included_libraries_bring_theirs_and_lacks_are_warnings(maker: Maker) -> None:
    loader = maker.program("ld.so", dynamic=True)
    app = maker.program("app", dynamic=True, interp=loader)
    maker.program(
        "plug/a.so", dynamic=True, needed=("libdep.so", "libnone.so"), runpath="$ORIGIN/.."
    )
    dep = maker.program("libdep.so", dynamic=True)
    result = maker.build(app, includes=((str(maker.host / "plug"), ""),))
    assert maker.inside(dep).is_file()
    assert any("needs libnone.so" in text for text in result.warnings)


def test_a_library_of_the_same_folder_is_no_lack(maker: Maker) -> None:
    loader = maker.program("ld.so", dynamic=True)
    app = maker.program("app", dynamic=True, interp=loader)
    maker.program("home/a.so", dynamic=True, needed=("libvm.so", "libnone.so"))
    maker.program("home/server/libvm.so", dynamic=True)
    result = maker.build(app, includes=((str(maker.host / "home"), ""),))
    lacks = [text for text in result.warnings if "needs" in text]
    assert len(lacks) == 1, lacks
    assert "needs libnone.so" in lacks[0]


def test_java_brings_its_home(maker: Maker) -> None:
    java = maker.program("jdk/bin/java")
    for place in ("lib/jvm.cfg", "lib/modules", "lib/src.zip", "conf/security/policy", "release"):
        path = maker.host / "jdk" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(place)
    (maker.host / "java").symlink_to(java)
    maker.build(str(maker.host / "java"))
    home = maker.inside(maker.host / "jdk")
    assert (home / "lib/modules").read_text() == "lib/modules"
    assert (home / "conf/security/policy").is_file()
    assert (home / "release").is_file()
    assert not (home / "lib/src.zip").exists()


def test_a_program_that_is_only_called_java_brings_nothing(maker: Maker) -> None:
    java = maker.program("bin/java")
    (maker.host / "lib").mkdir()
    (maker.host / "lib/private").write_text("")
    maker.build(java)
    assert not maker.inside(maker.host / "lib").exists()


@pytest.mark.parametrize(
    ("inside", "words"),
    [("relative", "must be absolute"), ("/a/../b", "must be absolute"), ("/", "the root itself")],
)
def test_include_to_a_wrong_place_is_refused(maker: Maker, inside: str, words: str) -> None:
    app = maker.program("app")
    assert words in maker.problems(app, includes=((app, inside),))[0]


def test_include_of_nothing_is_refused(maker: Maker) -> None:
    app = maker.program("app")
    assert "no such file" in maker.problems(app, includes=(("/absent", ""),))[0]


def test_include_that_makes_a_file_a_folder_is_refused(maker: Maker) -> None:
    app = maker.program("app")
    (maker.host / "d").mkdir()
    assert "is both" in maker.problems(app, includes=((str(maker.host / "d"), app),))[0]


def test_existing_target_is_replaced_only_with_force_and_only_ours(maker: Maker) -> None:
    app = maker.program("app")
    maker.build(app)
    (maker.out / "mine").write_text("x")
    with pytest.raises(RootfsError, match="--force"):
        maker.build(app)
    assert (maker.out / "mine").exists()
    maker.build(app, force=True)
    assert not (maker.out / "mine").exists()
    assert sorted(p.name for p in maker.out.parent.iterdir()) == ["host", "out"]


@pytest.mark.parametrize("marker", [None, "other text\n", "link"])
def test_force_spares_what_is_not_ours(maker: Maker, marker: str | None) -> None:
    app = maker.program("app")
    maker.out.mkdir()
    (maker.out / "precious").write_text("x")
    if marker == "link":
        (maker.host / "m").write_text(from_host._MARKER_TEXT)
        (maker.out / MARKER).symlink_to(maker.host / "m")
    elif marker:
        (maker.out / MARKER).write_text(marker)
    with pytest.raises(RootfsError, match="sbx did not make"):
        maker.build(app, force=True)
    assert (maker.out / "precious").read_text() == "x"


def test_empty_folder_is_a_fine_target(maker: Maker) -> None:
    maker.out.mkdir()
    maker.build(maker.program("app"))
    assert is_ours(str(maker.out))


def test_files_and_links_are_no_targets(maker: Maker) -> None:
    app = maker.program("app")
    maker.out.write_text("x")
    with pytest.raises(RootfsError, match="it is a file"):
        maker.build(app, force=True)
    maker.out.unlink()
    maker.out.symlink_to(maker.host)
    with pytest.raises(RootfsError, match="it is a symbolic link"):
        maker.build(app, force=True)


def test_target_without_parent_is_refused(maker: Maker) -> None:
    maker.out = maker.out / "deeper" / "still"
    with pytest.raises(RootfsError, match="is not a directory"):
        maker.build(maker.program("app"))


def test_failure_while_writing_leaves_nothing(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = maker.program("app")
    maker.build(app)
    before = (maker.out / MARKER).stat().st_ino

    def fail(self: Inventory, root: str, progress: object = None) -> None:  # noqa: ARG001 - stands in
        Path(root, "half").write_text("x")
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(Inventory, "write", fail)
    with pytest.raises(RootfsError, match="no space left on device /somewhere"):
        maker.build(app, force=True)
    assert (maker.out / MARKER).stat().st_ino == before
    assert sorted(p.name for p in maker.out.parent.iterdir()) == ["host", "out"]


def test_progress_ends_at_the_whole(maker: Maker) -> None:
    seen: list[tuple[int, int]] = []
    app = maker.program("app")
    result = maker.build(app, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (result.bytes, result.bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_default_set_reports_what_is_absent(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.program("sh")
    monkeypatch.setattr(from_host, "SYSTEM_PATH", str(maker.host))
    monkeypatch.setattr(collect, "SYSTEM_PATH", str(maker.host))
    monkeypatch.setattr(from_host, "DEFAULT_PROGRAMS", ("sh", "absent", "gone"))
    assert "not on this host, left out: absent, gone" in maker.build().warnings
    (maker.host / "sh").unlink()
    maker.out.rename(maker.host / "old")
    assert maker.problems() == ["sh: no such program on PATH"]


def test_loader_cache_is_told_of_folders_in_conf(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = maker.program("ld.so", dynamic=True)
    maker.program("odd/liba.so", dynamic=True)
    conf = maker.host / "conf"
    conf.write_text(f"{maker.host}/odd\n")
    finder = LibraryFinder(conf=str(conf), default_dirs=())
    monkeypatch.setattr(collect, "LibraryFinder", lambda: finder)
    maker.build(maker.program("app", dynamic=True, interp=loader, needed=("liba.so",)))
    assert maker.inside("/etc/ld.so.conf").read_text() == f"{maker.host}/odd\n"


def test_folder_of_shims_is_searched_last(tmp_path: Path) -> None:
    dirs = collect.search_path(f"{tmp_path}/shims:relative:{tmp_path}/bin::{tmp_path}/bin")
    assert dirs[0] == f"{tmp_path}/bin"
    assert dirs[-1] == f"{tmp_path}/shims"
    assert "/usr/bin" in dirs


def test_odd_names_cannot_speak_to_the_terminal(maker: Maker) -> None:
    for problem in maker.problems("/no\x1b[31m", "/no\nsuch\udcff"):
        assert problem.isprintable()


def test_result_is_a_plain_record(maker: Maker) -> None:
    result = maker.build(maker.program("app"))
    assert dict(result)["out"] == str(maker.out)
    assert result.files >= 5
    assert result.directories >= 10
