"""A held sandbox: its namespaces can be used from outside, and no payload runs yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SbxError, SetupError
from sandbox.launcher.events import KILL_ALL
from sandbox.plan import network as modes
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy
from sandbox.runtime.report import Report
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task
from sandbox.services.network import DRIVERS, Network


class Driver(Network):
    """A driver that only looks; `fails` makes its start or its end fail."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.found: dict[str, str] = {}
        self.files: tuple[tuple[str, bytes], ...] = ()
        self.pid = 0
        self.closed = False

    def __call__(self, policy: Policy, name: str, tell: Callable[[str, str], None]) -> Driver:
        assert policy.network.mode == "none"
        if self.fails == "before":
            raise SetupError("cannot reach the network")
        tell("a driver is at work", f"for {name}")
        self.files = (("/etc/hosts", b"192.0.2.1 elsewhere\n"),)
        return self

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """As a driver's handle."""
        assert not descriptors
        self.pid = pid
        for name in ("net", "user", "pid"):
            self.found[name] = os.readlink(f"/proc/{pid}/ns/{name}")
        self.found["map"] = Path(f"/proc/{pid}/uid_map").read_text().split()[0]
        self.found["children"] = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        self.found["interfaces"] = Path(f"/proc/{pid}/net/dev").read_text()
        if self.fails == "start":
            raise SetupError("cannot reach the network")

    def close(self, *, living: bool) -> None:
        """As a driver's handle."""
        assert not living
        assert not Path(f"/proc/{self.pid}").exists()
        self.closed = True
        if self.fails == "end":
            raise SbxError("cannot remove the link", cause="it is busy")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(modes.MODES, "none", modes.Mode(namespace=True, service=True))
    monkeypatch.setitem(DRIVERS, "none", driver)
    return driver


def run(rootfs: Path, *argv: str, out: bytearray | None = None, **changes: Any) -> Report:
    told = changes.pop("told", None)
    layers = [*load_policy("default"), Layer("test", changes, {})]
    options = RunOptions(stdout=out, forward_signals=False, notify=told)
    return run_session(build_policy(layers), Task(str(rootfs), argv), options)


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("kind", ["keep-id", "single"])
def test_the_driver_sees_the_namespaces_before_the_payload(
    rootfs: Path, held: Driver, kind: str, init: bool
) -> None:
    out = bytearray()
    seen = ["sh", "-c", "readlink /proc/self/ns/net"]
    report = run(rootfs, *seen, out=out, identity={"map": kind}, process={"init": init})
    assert report.exit_code == 0
    assert held.found["net"] == out.decode().strip()
    for name in ("net", "user", "pid"):
        assert held.found[name] != os.readlink(f"/proc/self/ns/{name}")
    assert held.found["map"] == "0"
    assert held.found["children"] == ""
    assert "lo:" in held.found["interfaces"]
    assert held.closed


def test_a_driver_that_fails_ends_the_sandbox(rootfs: Path, held: Driver, tmp_path: Path) -> None:
    held.fails = "start"
    mounts = [{"source": str(tmp_path), "target": "/mnt", "read_only": False}]
    with pytest.raises(SetupError, match="cannot reach the network"):
        run(rootfs, "touch", "/mnt/ran", filesystem={"mounts": mounts})
    assert not Path(f"/proc/{held.pid}").exists()
    assert held.closed
    assert not (tmp_path / "ran").exists()


def test_a_driver_that_cannot_begin_ends_the_run(rootfs: Path, held: Driver) -> None:
    held.fails = "before"
    with pytest.raises(SetupError, match="cannot reach the network"):
        run(rootfs, "true")
    assert not held.pid
    assert not held.closed


def test_files_of_the_network_are_shown_inside(rootfs: Path, held: Driver) -> None:
    out = bytearray()
    told: list[tuple[str, str]] = []
    argv = ["cat", "/etc/hosts"]
    report = run(rootfs, *argv, out=out, told=lambda *words: told.append(words))
    assert report.exit_code == 0
    assert out.decode().startswith("127.0.0.1 localhost ")
    assert out.decode().endswith("192.0.2.1 elsewhere\n")
    assert any(what == "a driver is at work" for what, _ in told)
    assert held.closed


def test_a_driver_that_cannot_clean_up_is_told(rootfs: Path, held: Driver) -> None:
    held.fails = "end"
    told: list[tuple[str, str]] = []
    report = run(rootfs, "true", told=lambda *words: told.append(words))
    assert report.exit_code == 0
    assert ("cannot remove the link", "it is busy") in told


def test_nothing_runs_without_the_release(
    rootfs: Path, held: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.launcher.events.RELEASE", KILL_ALL)
    mounts = [{"source": str(tmp_path), "target": "/mnt", "read_only": False}]
    with pytest.raises(SetupError, match="before the command started"):
        run(rootfs, "touch", "/mnt/ran", filesystem={"mounts": mounts})
    assert held.closed
    assert not (tmp_path / "ran").exists()
