"""The search rules of the loaders of glibc and musl, on made-up files."""

from pathlib import Path

import pytest

from sandbox.host.libraries import (
    Closure,
    LibraryFinder,
    read_ld_so_conf,
    read_musl_path,
)
from tests.support.elf_maker import AARCH64, I386, write_elf


class Host:
    """A made-up host: folders below `root`, a program that asks for libraries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "ld.so.conf"
        self.defaults = (str(root / "default"),)

    def add_library(self, place: str, **options: object) -> str:
        return str(write_elf(self.root / place, **options))

    def closure(
        self, place: str = "bin/program", interp: str = "/ld.so", **more: object
    ) -> Closure:
        path = str(write_elf(self.root / place, interp=interp, **more))
        finder = LibraryFinder(
            conf=str(self.conf), default_dirs=self.defaults, etc=str(self.root / "etc")
        )
        elf = finder.read(path)
        assert elf is not None
        return finder.closure(path, elf)

    def found(self, place: str = "bin/program", **options: object) -> list[str]:
        closure = self.closure(place, **options)  # type: ignore[arg-type]
        assert closure.problems == ()
        return [str(Path(one.path).relative_to(self.root)) for one in closure.libraries]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_libraries_of_libraries_follow_breadth_first(host: Host) -> None:
    host.add_library("default/liba.so", needed=("libc.so",))
    host.add_library("default/libb.so", needed=("liba.so",))
    host.add_library("default/libc.so")
    found = host.found(needed=("liba.so", "libb.so"))
    assert found == ["default/liba.so", "default/libb.so", "default/libc.so"]


def test_a_cycle_ends(host: Host) -> None:
    host.add_library("default/liba.so", needed=("libb.so",))
    host.add_library("default/libb.so", needed=("liba.so",))
    assert host.found(needed=("liba.so",)) == ["default/liba.so", "default/libb.so"]


def test_a_loaded_soname_satisfies_later_names(host: Host) -> None:
    host.add_library("default/liba.so", soname="libz.so.1")
    assert host.found(needed=("liba.so", "libz.so.1")) == ["default/liba.so"]


def test_the_interpreter_counts_as_loaded(host: Host) -> None:
    loader = host.add_library("ld/ld-x.so.2", soname="ld-linux.so.2")
    assert host.found(interp=loader, needed=("ld-linux.so.2", "ld-x.so.2")) == []


@pytest.mark.parametrize("origin", ["$ORIGIN", "${ORIGIN}"])
def test_origin_is_where_the_asking_file_really_lies(host: Host, origin: str) -> None:
    host.add_library("app/lib/liba.so", runpath=origin, needed=("libb.so",))
    host.add_library("app/lib/libb.so")
    host.closure("app/bin/program", runpath=f"{origin}/../lib", needed=("liba.so",))
    (host.root / "link").symlink_to(host.root / "app/bin/program")
    finder = LibraryFinder(conf=str(host.conf), default_dirs=())
    elf = finder.read(str(host.root / "link"))
    assert elf is not None
    closure = finder.closure(str(host.root / "link"), elf)
    assert closure.problems == ()
    assert len(closure.libraries) == 2


def test_rpath_reaches_the_libraries_of_libraries(host: Host) -> None:
    host.add_library("r/liba.so", needed=("libb.so",))
    host.add_library("r/libb.so")
    assert host.found(rpath=str(host.root / "r"), needed=("liba.so",)) == ["r/liba.so", "r/libb.so"]


def test_runpath_reaches_only_direct_needs(host: Host) -> None:
    host.add_library("r/liba.so", needed=("libb.so",))
    host.add_library("r/libb.so")
    closure = host.closure(runpath=str(host.root / "r"), needed=("liba.so",))
    assert len(closure.problems) == 1
    assert "needs libb.so" in closure.problems[0]


def test_runpath_of_the_asking_file_switches_the_chain_of_rpaths_off(host: Host) -> None:
    host.add_library("r/liba.so", runpath="/nowhere", needed=("libb.so",))
    host.add_library("r/libb.so")
    assert host.closure(rpath=str(host.root / "r"), needed=("liba.so",)).problems


def test_rpath_beside_runpath_is_ignored(host: Host) -> None:
    host.add_library("r/liba.so")
    host.add_library("default/liba.so")
    found = host.found(rpath=str(host.root / "r"), runpath="/nowhere", needed=("liba.so",))
    assert found == ["default/liba.so"]


def test_rpath_comes_before_conf_before_default(host: Host) -> None:
    host.conf.write_text(f"{host.root}/conf\n")
    for place in ("default", "conf", "r"):
        host.add_library(f"{place}/liba.so")
    host.add_library("default/libb.so")
    host.add_library("conf/libb.so")
    host.add_library("default/libd.so")
    found = host.found(rpath=str(host.root / "r"), needed=("liba.so", "libb.so", "libd.so"))
    assert found == ["r/liba.so", "conf/libb.so", "default/libd.so"]


def test_the_cache_knows_no_odd_names(host: Host) -> None:
    host.conf.write_text(f"{host.root}/conf\n")
    host.add_library("conf/plugin.so")
    assert host.closure(needed=("plugin.so",)).problems


def test_no_default_lib_is_obeyed(host: Host) -> None:
    host.conf.write_text(f"{host.defaults[0]}\n")
    host.add_library("default/liba.so")
    assert host.closure(flags_1=0x800, needed=("liba.so",)).problems


def test_lib_and_platform_are_replaced(host: Host) -> None:
    host.add_library("app/lib/x86_64-linux-gnu/liba.so")
    host.add_library("app/x86_64/libb.so")
    runpath = "$ORIGIN/../$LIB:$ORIGIN/../$PLATFORM"
    found = host.found("app/bin/program", runpath=runpath, needed=("liba.so", "libb.so"))
    assert len(found) == 2


def test_a_need_with_a_slash_is_a_path(host: Host) -> None:
    path = host.add_library("odd/name")
    assert host.found(needed=(path,)) == ["odd/name"]


def test_other_machines_are_passed_over_and_named_when_nothing_fits(host: Host) -> None:
    host.add_library("r/liba.so", machine=AARCH64)
    host.add_library("r/libb.so", machine=I386, bits=32)
    host.add_library("default/liba.so")
    closure = host.closure(rpath=str(host.root / "r"), needed=("liba.so", "libb.so"))
    assert [one.name for one in closure.libraries] == ["liba.so"]
    assert len(closure.problems) == 1
    assert "r/libb.so is for i386 (32-bit)" in closure.problems[0]


def test_text_and_damaged_files_are_passed_over_and_named(host: Host) -> None:
    (host.root / "default").mkdir()
    (host.root / "default/liba.so").write_text("GROUP ( libc.so.6 )")
    (host.root / "default/libb.so").write_bytes(b"\x7fELF")
    first, second = host.closure(needed=("liba.so", "libb.so")).problems
    assert "is not an ELF file" in first
    assert "cannot be used" in second


def test_every_missing_library_is_named(host: Host) -> None:
    problems = host.closure(needed=("liba.so", "libb.so")).problems
    assert "needs liba.so, which is nowhere on this host" in problems[0]
    assert "needs libb.so, which is nowhere on this host" in problems[1]


def test_conf_follows_includes_and_comments(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/b.conf").write_text("/b # comment\n/shared\n")
    (tmp_path / "conf.d/a.conf").write_text("/a/\n\nhwcap 1 nosegneg\nrelative\n")
    conf = tmp_path / "ld.so.conf"
    conf.write_text("# first\ninclude conf.d/*.conf\n/shared:/c,/d=libc6\ninclude missing/*\n")
    assert read_ld_so_conf(str(conf)) == ("/a", "/b", "/shared", "/c", "/d")


def test_conf_that_includes_itself_ends(tmp_path: Path) -> None:
    conf = tmp_path / "ld.so.conf"
    conf.write_text("/a\ninclude ld.so.conf\n")
    assert read_ld_so_conf(str(conf)) == ("/a",)


def test_musl_reads_its_own_path_file_and_stands_for_libc(host: Host) -> None:
    (host.root / "etc").mkdir()
    (host.root / "etc/ld-musl-x86_64.path").write_text(f"/none:{host.root}/m\n{host.root}/n\n")
    host.add_library("m/liba.so", needed=("libc.so", "libpthread.so.0", "libc.musl-x86_64.so.1"))
    host.add_library("n/libb.so")
    host.add_library("default/libb.so")
    found = host.found(interp="/lib/ld-musl-x86_64.so.1", needed=("liba.so", "libb.so"))
    assert found == ["m/liba.so", "n/libb.so"]


def test_musl_hands_runpath_down(host: Host) -> None:
    host.add_library("r/liba.so", needed=("libb.so",))
    host.add_library("r/libb.so")
    interp = "/lib/ld-musl-x86_64.so.1"
    found = host.found(interp=interp, runpath=str(host.root / "r"), needed=("liba.so",))
    assert found == ["r/liba.so", "r/libb.so"]


def test_musl_has_defaults_without_a_path_file(tmp_path: Path) -> None:
    assert read_musl_path(str(tmp_path / "none")) == ("/lib", "/usr/local/lib", "/usr/lib")


def test_only_folders_beside_the_default_ones_need_a_conf(host: Host) -> None:
    host.conf.write_text(f"{host.root}/conf\n{host.root}/default\n")
    finder = LibraryFinder(conf=str(host.conf), default_dirs=host.defaults)
    elf = finder.read(host.add_library("conf/liba.so"))
    assert elf is not None
    assert finder.conf_dir_of(f"{host.root}/conf/liba.so", elf.head) == f"{host.root}/conf"
    assert finder.conf_dir_of(f"{host.root}/default/liba.so", elf.head) is None
    assert finder.conf_dir_of(f"{host.root}/else/liba.so", elf.head) is None
