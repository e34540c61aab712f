"""Fixtures for tests that run things in sandboxes.

    @pytest.mark.sandbox(policy="strict", timeout=10)
    def test_tool(sandbox):
        assert sandbox.run(["tool", "--version"]).returncode == 0

The marker's keywords are those of sandbox.Sandbox; without `rootfs` it is that of the ini option
`sandbox_rootfs`. Where sandboxes cannot run the test skips with the reason, and a failing test
shows the reports of its last commands.
"""

from __future__ import annotations

import pytest

from sandbox.api.box import Sandbox
from sandbox.api.host import Host
from sandbox.errors import SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import Any, Unpack

    from sandbox.api.call import Result
    from sandbox.api.held import ExecKeywords
    from sandbox.api.wishes import Word
    from sandbox.runtime.report import Report

_SHOWN = 3
_REPORTS = pytest.StashKey[list[tuple[str, "Report"]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini("sandbox_rootfs", "The root file system of sandboxes that name none.")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    words = "sandbox(rootfs=…, policy=…, timeout=…, …): what the `sandbox` fixture is made with"
    config.addinivalue_line("markers", words)


class _Recorded(Sandbox):
    """A Sandbox that remembers the reports of its commands for the test's own report."""

    reports: list[tuple[str, Report]]

    def run(self, argv: Sequence[Word], **keywords: Unpack[ExecKeywords]) -> Result:
        """As Sandbox.run."""
        try:
            result = super().run(argv, **keywords)
        except SbxError as error:
            failed = getattr(error, "result", None)
            if failed is not None:
                self.reports.append((" ".join(failed.args), failed.report))
            raise
        self.reports.append((" ".join(result.args), result.report))
        return result


@pytest.fixture(scope="session")
def _sandboxes_can_run() -> str:
    """Why sandboxes cannot run here, "" when they can."""
    host = Host.probe()
    if host.usable:
        return ""
    failures = [found for found in host.findings() if found.verdict == "fail"]
    return f"{failures[0].name}: {failures[0].detail}" if failures else host.reason


@pytest.fixture
def sandbox_factory(
    request: pytest.FixtureRequest, _sandboxes_can_run: str
) -> Iterator[Callable[..., Sandbox]]:
    """Make and start sandboxes that end with the test; keywords as for sandbox.Sandbox."""
    if _sandboxes_can_run:
        pytest.skip(_sandboxes_can_run)
    marker = request.node.get_closest_marker("sandbox")
    defaults: dict[str, Any] = dict(marker.kwargs) if marker else {}
    configured = request.config.getini("sandbox_rootfs")
    if configured:
        defaults.setdefault("rootfs", request.config.rootpath / configured)
    made: list[Sandbox] = []
    reports = request.node.stash.setdefault(_REPORTS, [])

    def make(**keywords: Any) -> Sandbox:
        wanted = {**defaults, **keywords}
        if "rootfs" not in wanted:
            pytest.fail("name a rootfs: in the marker, in the call, or as sandbox_rootfs", False)
        box = _Recorded(**wanted)
        box.reports = reports
        made.append(box)
        box.start()
        return box

    yield make
    while made:
        made.pop().close()


@pytest.fixture
def sandbox(sandbox_factory: Callable[..., Sandbox]) -> Sandbox:
    """A running sandbox.Sandbox of the test's own, as its marker wants it."""
    return sandbox_factory()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last reports beside what failed."""
    found = yield
    reports = item.stash.get(_REPORTS, [])
    if found.when == "call" and found.failed and reports:
        lines = []
        for words, report in reports[-_SHOWN:]:
            shown = (f"$ {words}", *(f"  {line}" for line in report.people()))
            lines += [line if line.isprintable() else ascii(line)[1:-1] for line in shown]
        found.sections.append(("sandbox", "\n".join(lines)))
    return found
