"""Links on a path, and the places where mounts show it."""

import os
from pathlib import Path

import pytest

from sandbox.linux import ways


def test_every_link_on_the_way_is_found(tmp_path: Path) -> None:
    base = Path(os.path.realpath(tmp_path))
    (base / "real/deep").mkdir(parents=True)
    (base / "one").symlink_to("./real/../two")
    (base / "two").symlink_to(base / "real")
    (base / "real/three").symlink_to("deep")
    found = ways.links(f"{base}/real/../one//three/not/there")
    assert found == [f"{base}/one", f"{base}/two", f"{base}/real/three"]
    (base / "loop").symlink_to("loop")
    assert set(ways.links(f"{base}/loop")) == {f"{base}/loop"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/u/.config", ["/home/u/.config", "/srv/a b/.config", "/data/u/.config"]),
        ("/srv/a b", ["/srv/a b", "/data/u", "/home/u"]),
        ("/data", ["/data"]),
        ("/etc", ["/etc"]),
        ("/covered/x", ["/covered/x"]),
    ],
)
def test_places(monkeypatch: pytest.MonkeyPatch, path: str, found: list[str]) -> None:
    mounts = [
        ("8:1", "/", "/"),
        ("8:2", "/", "/covered"),
        ("8:3", "/", "/data"),
        ("8:3", "/u", "/home/u"),
        ("8:3", "/u", "/srv/a b"),
        ("8:9", "/", "/covered"),
    ]
    monkeypatch.setattr(ways, "_mounts", lambda: mounts[::-1])
    assert sorted(ways.places(path)) == sorted(found)
    assert ways.places(path)[0] == path


def test_the_mount_table_is_read() -> None:
    mounts = ways._mounts()
    assert any(point == "/" for _, _, point in mounts)
    assert ways._plain("/a\\040b\\134040") == "/a b\\040"
