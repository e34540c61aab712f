"""What cannot be inside is refused while nothing is made yet; what cannot be told is not."""

import os
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.policy.merge import Layer, build_policy
from sandbox.runtime.gather import _bind_sources
from sandbox.runtime.places import check_places


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with a folder, a file and links."""
    made = tmp_path / "root"
    (made / "folder").mkdir(parents=True)
    (made / "file").write_text("")
    (made / "run").mkdir()
    (made / "to-run").symlink_to("/run")
    (made / "to-folder").symlink_to("folder")
    (made / "loop").symlink_to("loop")
    (made / "out").symlink_to(tmp_path)
    (tmp_path / "volume" / "sub").mkdir(parents=True)
    (tmp_path / "volume" / "link").symlink_to("/folder")
    (tmp_path / "plain").write_text("")
    return made


def check(
    root: Path,
    *mounts: str,
    tmpfs: tuple[str, ...] = (),
    cwd: str | None = None,
    bind: bool = False,
    files: dict[str, object] | None = None,
) -> None:
    """`mounts`: SOURCE:TARGET[:ro], the source below the root's parent."""
    entries = []
    for text in mounts:
        source, target, *ro = text.split(":")
        entries.append(
            {"source": f"{root.parent}/{source}", "target": target, "read_only": bool(ro)}
        )
    data = {
        "filesystem": {"mounts": entries, "tmpfs": [{"target": t} for t in tmpfs], **(files or {})},
        "process": {"cwd": cwd} if cwd else {},
    }
    policy = build_policy([Layer("mine.toml", data)])
    check_places(policy, str(root), _bind_sources(policy), bind=bind)


@pytest.mark.parametrize(
    ("mounts", "tmpfs", "cwd", "words"),
    [
        (
            (),
            (),
            "/nope",
            "cannot start in /nope\ncause: there is no such folder inside, from mine",
        ),
        ((), (), "/nope/below", "there is no such folder"),
        ((), (), "/file", "it is not a folder"),
        ((), (), "/file/below", "it is not a folder"),
        ((), (), "/out", "there is no such folder"),
        ((), ("/tmp",), "/tmp/x", "there is no such folder"),
        (("plain:/x",), (), "/x", "it is not a folder"),
        (("volume:/data",), (), "/data/none", "there is no such folder"),
        (("plain:/folder",), (), None, "a folder is there, the source is a file, from mine.toml"),
        (("plain:/to-folder",), (), None, "a folder is there"),
        (("volume:/file",), (), None, "a file is there, the source is a folder"),
        (("volume:/file/x",), (), None, "not a folder"),
        (("volume:/data:ro", "plain:/data/x"), (), None, "/data is a read-only volume, which has"),
        (("volume:/data:ro",), ("/data/x/y",), None, "volume/x/y on the host"),
        (("volume:/data", "plain:/data/sub"), (), None, "a folder is there"),
        ((), ("/file",), None, "cannot mount a tmpfs on /file\ncause: a file is there"),
    ],
)
def test_what_cannot_be(
    root: Path, mounts: tuple[str, ...], tmpfs: tuple[str, ...], cwd: str | None, words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        check(root, *mounts, tmpfs=tmpfs, cwd=cwd)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("mounts", "tmpfs", "cwd"),
    [
        ((), (), "/folder"),
        ((), (), "/to-folder/"),
        ((), (), "/"),
        ((), (), "/loop"),
        ((), (), "/dev/shm"),
        ((), ("/tmp",), "/tmp"),
        (("volume:/job/src",), (), "/job"),
        (("volume:/job",), (), "/job/sub"),
        (("volume:/job",), (), "/job/link"),
        (("volume:/run/x",), (), "/to-run/x/sub"),
        (("plain:/new/file", "volume:/folder"), ("/new/folder",), None),
        (("volume:/data", "plain:/data/x"), (), None),
        (("volume:/data:ro", "volume:/data/sub"), (), None),
        (("plain:/to-run/folder",), ("/run",), None),
    ],
)
def test_what_can_be_or_is_left_to_the_launcher(
    root: Path, mounts: tuple[str, ...], tmpfs: tuple[str, ...], cwd: str | None
) -> None:
    (root / "run" / "folder").mkdir()
    check(root, *mounts, tmpfs=tmpfs, cwd=cwd)


def test_all_are_named(root: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        check(root, "plain:/folder", "volume:/file", cwd="/nope")
    assert [line.split(":")[0] for line in caught.value.problems] == [
        f"cannot mount {root.parent}/volume on /file",
        f"cannot mount {root.parent}/plain on /folder",
        "cannot start in /nope",
    ]


def test_a_root_that_is_shown_read_only(root: Path) -> None:
    files: dict[str, object] = {"root": "bind", "read_only": True}
    check(root, "volume:/new", bind=True)
    check(root, "volume:/folder", bind=True, files=files)
    with pytest.raises(PolicyError, match="this root is shown read-only"):
        check(root, "volume:/new", bind=True, files=files)


def test_a_kept_layer_may_have_changed_everything(root: Path) -> None:
    files: dict[str, object] = {"persist": f"{root.parent}/layer"}
    check(root, "plain:/folder", cwd="/nope", files=files)
    with pytest.raises(PolicyError, match="/data is a read-only volume"):
        check(root, "volume:/data:ro", "plain:/data/x", files=files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root searches every folder")
def test_a_folder_that_cannot_be_searched(root: Path) -> None:
    (root / "closed").mkdir(mode=0)
    check(root, cwd="/closed/x")
