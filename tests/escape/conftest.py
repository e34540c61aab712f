"""What the attacks share: the probe, a root file system of one's own, canaries, clean ends."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SbxError
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Mount, Policy
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task
from tests.conftest import Sbx
from tests.support import host_things as things_of_the_host
from tests.support import probe


@pytest.fixture(autouse=True)
def _clean(leaves_nothing: None) -> None:
    """Apply `leaves_nothing` to all tests of this folder."""


@pytest.fixture(scope="session")
def probe_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled probe."""
    out = tmp_path_factory.mktemp("probe") / "probe"
    problem = probe.build(out)
    if problem:
        pytest.skip(problem)
    return out


@pytest.fixture(scope="session")
def probe_rootfs(probe_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that holds the probe; tests do not change it."""
    return probe.make_rootfs(tmp_path_factory.mktemp("probe-rootfs"), probe_program)


@pytest.fixture(scope="session")
def attack_rootfs(probe_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the attacks beside the probe."""
    root = probe.make_rootfs(tmp_path_factory.mktemp("attack-rootfs"), probe_program)
    problem = probe.build(root / "attack", probe.ATTACKS)
    if problem:
        pytest.skip(problem)
    return root


KERNEL = ("core_pattern", "hostname", "domainname", "overflowuid")


def _snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Content and attributes of all below `folder`, and settings that an attack would aim at."""
    fields = ("st_ino", "st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ctime_ns", "st_nlink")
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        seen = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (content, *(getattr(seen, field) for field in fields))
    for name in KERNEL:
        found[name] = (Path("/proc/sys/kernel", name).read_bytes(),)
    return found


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that no attack may read, change, replace or accompany with others."""
    folder = tmp_path / "host"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("the host's secret\n")
    (folder / "link").symlink_to("sub/file")
    path = folder / "canary"
    path.write_text("the host's secret\n")
    before = _snapshot(folder)
    yield path
    assert _snapshot(folder) == before


@dataclass(frozen=True)
class Ended:
    """How one start ended: sbx's exit code, the payload's output, the error's text."""

    code: int
    out: str
    told: str


class Starts:
    """Starts from this process: without a fresh interpreter for each, hundreds take seconds."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._policies: dict[tuple[str, ...], Policy] = {}

    def _policy(self, name: str, storage: str, user: str, group: str) -> Policy:
        key = (name, storage, user, group)
        if key not in self._policies:
            data: dict[str, Any] = {"process": {"timeout": f"{self._deadline_s:g}s"}}
            data["filesystem"] = {"root": storage}
            data["identity"] = {"user": user, "group": group} if user else {}
            layers = [*load_policy(name), Layer("test", data, {})]
            self._policies[key] = build_policy(layers)
        return self._policies[key]

    def __call__(
        self,
        root: Path,
        *argv: str,
        policy: str = "default",
        storage: str = "auto",
        user: str = "",
        group: str = "",
        mounts: tuple[Mount, ...] = (),
    ) -> Ended:
        """Start `argv` in `root`; what is not back by the deadline is an AssertionError."""
        wanted = self._policy(policy, storage, user, group)
        if mounts:
            wanted = wanted.replace(filesystem=wanted.filesystem.replace(mounts=mounts))
        out, err = bytearray(), bytearray()
        began = time.monotonic()
        try:
            options = RunOptions(stdout=out, stderr=err, forward_signals=False)
            code = run_session(wanted, Task(str(root), argv, env=()), options).exit_code
            told = ""
        except SbxError as error:
            code, told = error.exit_code, str(error)
        assert time.monotonic() - began < self._deadline_s
        return Ended(code, out.decode("utf-8", "surrogateescape"), told)


@pytest.fixture
def starts(sbx: Sbx, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Starts with the folders of the installed command, each with a deadline."""
    for name, value in sbx.env.items():
        monkeypatch.setenv(name, value)
    return Starts(20)


@pytest.fixture
def host_things(tmp_path: Path) -> Iterator[things_of_the_host.HostThings]:
    """Things of the host that no sandbox may find."""
    with things_of_the_host.host_things(tmp_path) as things:
        yield things
