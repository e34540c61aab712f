"""Fixtures of all tests: the installed sbx with a deadline, root file systems, what is left over.

With SBX_CI set a test that skips is a failure: the set-up must have made everything.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from tests.support import capabilities
from tests.support.fuzzing import FACTOR, examples
from tests.support.user import Belongings, adopting_orphans, wait_until_gone

# What only root can do is tried apart, as root: setup.sh pytest-root.
collect_ignore = [] if os.geteuid() == 0 else ["kernel/privileged"]

DEADLINE_S = 120
SLOW_DEADLINE_S = 600
HOST_PROGRAMS = (
    "sh cat ls id env pwd hostname uname mount umount touch rm mkdir chmod chown dd sleep head "
    "tail seq stat tty stty sort uniq wc tr cp mv ln true false grep sed readlink find test date "
    "setsid"
)


# The tree may be read-only, and what a test tries must not depend on what an earlier run found.
settings.register_profile(
    "sbx",
    database=None,
    deadline=None,
    derandomize="SBX_CI" in os.environ,
    max_examples=examples(100),
)
settings.load_profile("sbx")


def _refuse_skip(report: Any) -> None:
    if os.environ.get("SBX_CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"nothing may skip when SBX_CI is set: {reason}"


def pytest_configure() -> None:
    """A shell starts what stands before `&` with both ignored (POSIX); the tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into a failure in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure in CI."""
    report = yield
    _refuse_skip(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what looks for counter-examples, for `make fuzz`."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")


@pytest.fixture(autouse=True)
def deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that hangs, with the place where it hangs."""
    limit = SLOW_DEADLINE_S if request.node.get_closest_marker("slow") else DEADLINE_S
    limit *= FACTOR

    def expire(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"the test took more than {limit} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(limit)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def descriptors_closed() -> Iterator[None]:
    """Fail when a test leaves a descriptor open in this process."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


@dataclass(frozen=True)
class Sbx:
    """The installed command. Calling it runs one command line to its end."""

    path: str
    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The value of XDG_CACHE_HOME."""
        return self.home / "cache"

    def __call__(
        self,
        *args: object,
        input: str | bytes | None = None,
        timeout: float = 60,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `sbx ARGS`; output is text in which odd bytes survive as surrogates."""
        done = subprocess.run(
            [self.path, *(arg if isinstance(arg, bytes) else str(arg) for arg in args)],
            input=input.encode() if isinstance(input, str) else input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            env={**self.env, **(env or {})},
            pass_fds=pass_fds,
            cwd=cwd,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )

    def start(self, *args: object, **more: Any) -> subprocess.Popen[bytes]:
        """Start `sbx ARGS` with pipes; the caller ends it."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([self.path, *map(str, args)], env=self.env, **{**pipes, **more})


@pytest.fixture(scope="session")
def sbx(tmp_path_factory: pytest.TempPathFactory) -> Sbx:
    """The installed `sbx`, with folders of its own for cache and configuration."""
    beside = Path(sys.executable).parent / "sbx"
    path = os.environ.get("SBX_TEST_SBX") or (
        str(beside) if beside.exists() else shutil.which("sbx")
    )
    if not path:
        pytest.skip("sbx is not installed; run: make setup")
    home = tmp_path_factory.mktemp("home")
    kept = {
        k: v
        for k, v in os.environ.items()
        if k.startswith("COVERAGE_") or k in {"HOME", "USER", "LANG", "PATH"}
    }
    folders = {
        f"XDG_{name.upper()}_HOME": str(home / name) for name in ("cache", "config", "state")
    }
    return Sbx(path, home, {**kept, **folders})


@pytest.fixture(scope="session")
def rootfs(sbx: Sbx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of host programs, made by `sbx rootfs from-host`."""
    out = tmp_path_factory.mktemp("from-host") / "rootfs"
    done = sbx("rootfs", "from-host", out, *HOST_PROGRAMS.split())
    assert done.returncode == 0, done.stderr
    return out


def _debian(variable: str) -> Path:
    missing = capabilities.debian(variable)
    if missing:
        pytest.skip(missing)
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian root file system that belongs to the host's root."""
    return _debian("SBX_TEST_DEBIAN")


@pytest.fixture(scope="session")
def debian_own() -> Path:
    """The same in the ids of the user who runs the tests."""
    return _debian("SBX_TEST_DEBIAN_OWN")


@pytest.fixture
def leaves_nothing(sbx: Sbx) -> Iterator[None]:
    """Fail when a test leaves a process, a mount or a folder behind."""
    before = Belongings.look(sbx.cache)
    with adopting_orphans():
        yield
        left = wait_until_gone(before, sbx.cache)
    assert not left, f"left behind: {left}"
