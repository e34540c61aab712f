"""The copy of a root file system in the caller's id map, beside an overlay of the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import RootfsError, SbxError
from sandbox.host.facts import HostFacts
from sandbox.host.probe import host_facts
from sandbox.linux.paths import native
from sandbox.services.storage import mapped, remove_tree
from sandbox.services.storage.prepared import copy_rootfs
from tests.support import capabilities, trees

IS_ROOT = os.geteuid() == 0
PACKAGE = str(Path(mapped.__file__).parents[3])
COPY = str(Path(mapped.__file__).with_name("copy.py"))
REMOVE = "import sys; sys.path.insert(0, sys.argv[1]); import sandbox.services.storage.remove as r"
DEADLINE_S = 60

Description = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def facts() -> HostFacts:
    missing = "" if IS_ROOT else capabilities.subordinate_ids()
    if missing:
        pytest.skip(missing)
    return host_facts()


def in_map(facts: HostFacts, *command: str, single: bool = False) -> str:
    """What `command` prints as root of a user namespace with the caller's ids."""
    argv = [native("sbx-idmap")]
    for option, extents in zip(("--uid", "--gid"), mapped.maps(facts, single=single), strict=True):
        for extent in extents:
            argv += [option, ":".join(map(str, extent))]
    argv += ["--", *command]
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8", "surrogateescape")


def describe(facts: HostFacts, path: Path) -> Description:
    found: Description = json.loads(
        in_map(facts, sys.executable, "-I", "-S", trees.__file__, "describe", str(path))
    )
    return found


def describe_overlay(facts: HostFacts, lower: Path) -> Description:
    """The same through an overlay in memory, as a sandbox has it."""
    script = (
        'mount -t tmpfs t "$0" && mkdir "$0/u" "$0/w" "$0/m" && cd "$0" && '
        'mount -t overlay -o "userxattr,lowerdir=$1,upperdir=u,workdir=w" o m && shift && '
        'exec "$@" "$0/m"'
    )
    reader = [sys.executable, "-I", "-S", trees.__file__, "describe"]
    with_mounts = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", script]
    place = lower.parent / "mounts"
    place.mkdir()
    text = in_map(facts, *with_mounts, str(place), str(lower), *reader)
    found: Description = json.loads(text)
    return found


def expected_copy(description: Description) -> Description:
    description = deepcopy(description)
    for entry in description.values():
        for name in list(entry.get("xattrs", {})):
            if name.startswith("user.overlay."):
                del entry["xattrs"][name]
    return description


@pytest.fixture
def place(tmp_path: Path, facts: HostFacts) -> Iterator[Path]:
    """A folder that everyone may search, emptied with all rights afterwards."""
    yield tmp_path
    for name in os.listdir(tmp_path):
        remove_tree(str(tmp_path / name), facts)


@pytest.fixture
def source(place: Path, facts: HostFacts) -> Path:
    in_map(facts, sys.executable, "-I", "-S", trees.__file__, "build", str(place / "source"))
    return place / "source"


def test_copy_is_equal(source: Path, place: Path, facts: HostFacts) -> None:
    before = describe(facts, source)
    assert copy_rootfs(str(source), str(place / "copy"), facts, single=False) == ()
    after = describe(facts, place / "copy")
    assert after == expected_copy(before)
    assert describe(facts, source) == before
    # Guards of the test itself: the tree has what it is said to have.
    assert after["/closed"]["size"] == 8
    assert after["/closed"]["owner"] == [1000, 1000]
    assert after["/hole"]["sparse"]
    assert after["/setuid"]["mode"] == "0o104755"
    assert "security.capability" in after["/big"]["xattrs"]
    assert len(after["/three"]["linked"]) == 3


def test_copy_and_overlay_look_the_same(source: Path, place: Path, facts: HostFacts) -> None:
    missing = capabilities.overlay()
    if missing:
        pytest.skip(missing)
    # In a lower layer these are marks for the overlay, in a copy they are nothing.
    for name, mark in (("many", "opaque"), ("empty", "whiteout")):
        code = f"import os; os.removexattr({str(source / name)!r}, 'user.overlay.{mark}')"
        in_map(facts, sys.executable, "-I", "-S", "-c", code)
    copy_rootfs(str(source), str(place / "copy"), facts, single=False)
    copied, shown = describe(facts, place / "copy"), describe_overlay(facts, source)
    # The root of an overlay shows the attributes of its upper folder, not of the lower one.
    copied[""] = shown[""]
    assert copied == shown


@pytest.mark.slow
def test_copy_of_debian_and_overlay_look_the_same(
    debian_own: Path, place: Path, facts: HostFacts
) -> None:
    notes = copy_rootfs(str(debian_own), str(place / "copy"), facts, single=False)
    assert notes == ()
    copied, original = describe(facts, place / "copy"), describe(facts, debian_own)
    assert copied == original
    (place / "lower").symlink_to(debian_own)
    shown = describe_overlay(facts, place / "lower")
    shown[""] = copied[""]
    assert copied == shown


@pytest.mark.slow
@pytest.mark.skipif(IS_ROOT, reason="root reads every file")
def test_files_of_foreign_owners_get_stand_ins(debian: Path, place: Path, facts: HostFacts) -> None:
    (what, cause), *others = copy_rootfs(str(debian), str(place / "copy"), facts, single=False)
    assert others == []
    assert what.endswith("unreadable files are empty in the copy")
    assert "etc/shadow" in cause or cause.endswith("…")
    after = describe(facts, place / "copy")
    assert after["/etc/shadow"]["mode"] == "0o100000"
    assert after["/etc/shadow"]["size"] == 0
    assert after["/etc/passwd"]["owner"] == [0, 0]


def test_one_id_is_enough_for_own_files(place: Path, facts: HostFacts) -> None:
    trees.build(str(place / "source"), owners=False)
    before = describe(facts, place / "source")
    notes = copy_rootfs(str(place / "source"), str(place / "copy"), facts, single=True)
    # The access lists name a user who does not exist in such a map.
    assert [what for what, _ in notes] == (
        [] if IS_ROOT else ["2 extended attributes are left out"]
    )
    expected = expected_copy(before)
    if not IS_ROOT:
        expected["/many/7"]["xattrs"] = expected["/sticky"]["xattrs"] = {}
    assert describe(facts, place / "copy") == expected


def test_failure_names_the_entries_and_leaves_nothing(
    source: Path, place: Path, facts: HostFacts
) -> None:
    small = place / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=1m t "$0" && exec "$@"'
    argv = ["unshare", "--mount", "--", "sh", "-ec", script, str(small)]
    copying = [sys.executable, "-I", "-S", COPY, str(source), f"{small}/copy"]
    found = json.loads(in_map(facts, *argv, "sh", "-c", '"$@" || test $? = 1', "sh", *copying))
    assert found["errors"] == 1
    assert found["problems"][0][1] == "No space left on device"

    (place / "copy").mkdir()
    with pytest.raises(RootfsError) as caught:
        copy_rootfs(str(source), str(place / "copy"), facts, single=False)
    assert caught.value.what == f"cannot copy one entry of {source}"
    assert caught.value.problems == (f"{place}/copy: file exists",)


def test_missing_python_or_map_is_told_in_the_helpers_words(
    source: Path, place: Path, facts: HostFacts
) -> None:
    if IS_ROOT:
        pytest.skip("root needs no map")
    wrong = facts.replace(subuids=((1, 1000),))
    with pytest.raises(RootfsError) as caught:
        copy_rootfs(str(source), str(place / "copy"), wrong, single=False)
    assert caught.value.cause.startswith("sbx-idmap: newuidmap: uid range [1-1001) -> [1-1001)")


def test_mounts_in_the_source_stay_out(source: Path, place: Path, facts: HostFacts) -> None:
    (place / "other").mkdir()
    (place / "other" / "file").write_text("x")
    script = (
        'cd "$0" && mount --bind other source/sticky && mount --bind other/file source/empty && '
        'exec "$@"'
    )
    argv = ["unshare", "--mount", "--", "sh", "-ec", script, str(place)]
    copying = [sys.executable, "-I", "-S", COPY, str(source), str(place / "copy")]
    found = json.loads(in_map(facts, *argv, *copying))
    assert (found["errors"], found["mounts_skipped"]) == (0, 2)
    after = describe(facts, place / "copy")
    assert "/sticky" in after
    assert "/sticky/file" not in after
    assert "/empty" not in after


def test_removal_reaches_files_of_subordinate_ids(
    source: Path, place: Path, facts: HostFacts
) -> None:
    if not IS_ROOT:
        with pytest.raises(OSError, match=r"[Pp]ermi"):
            shutil.rmtree(source)
    remove_tree(str(source), facts)
    remove_tree(str(source), facts)
    assert os.listdir(place) == []


def test_removal_names_what_it_cannot_remove(place: Path, facts: HostFacts) -> None:
    (place / "top" / "mounted").mkdir(parents=True)
    (place / "kept").mkdir()
    (place / "kept" / "file").write_text("x")
    script = 'cd "$0" && mount --bind kept top/mounted && exec "$@"'
    argv = ["unshare", "--mount", "--", "sh", "-ec", script, str(place)]
    python = [sys.executable, "-I", "-S", "-c", f"{REMOVE}; r.main(sys.argv[2:])", PACKAGE]
    assert in_map(facts, *argv, *python, str(place / "top")) == (
        "mounted: device or resource busy\n"
    )
    assert (place / "kept" / "file").exists()
    if not IS_ROOT:
        with pytest.raises(SbxError) as caught:
            remove_tree("/proc/self/fdinfo", facts)
        assert caught.value.problems


def cmdlines() -> list[str]:
    """The command lines of all living processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_goes_on_after_the_caller(place: Path, number: int) -> None:
    (place / "source").mkdir()
    for folder in range(40):
        (place / "source" / str(folder)).mkdir()
        for file in range(100):
            (place / "source" / str(folder) / str(file)).write_bytes(b"x" * 20000)
    target = str(place / "copy")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sandbox.host.probe import host_facts\n"
        "from sandbox.services.storage.prepared import copy_rootfs\n"
        "copy_rootfs(sys.argv[2], sys.argv[3], host_facts(), single=False)\n"
    )
    argv = [sys.executable, "-c", script, PACKAGE, str(place / "source"), target]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as caller:
        wait_until(lambda: os.path.isdir(f"{target}/3"))
        caller.send_signal(number)
        caller.wait(DEADLINE_S)
    wait_until(lambda: not any(target in line for line in cmdlines()))
    assert caller.returncode != 0
    assert os.path.exists(target) == (number == signal.SIGKILL)
