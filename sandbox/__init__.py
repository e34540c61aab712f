"""Run commands in sandboxes, as a normal user, on a root file system of your own.

    result = sandbox.run(["python3", "-c", "print(1)"], rootfs="./rootfs", capture_output=True)

`run` and `Popen` mirror subprocess, `Sandbox` keeps one sandbox for many commands, `arun`, `apopen`
and `AsyncSandbox` are the same for asyncio; policies, reports and errors are those of `sbx`.
Everything is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.aio import AsyncPopen, apopen, arun
    from sandbox.api.box import AsyncSandbox, Sandbox
    from sandbox.api.call import Result
    from sandbox.api.executor import RemoteError, SandboxExecutor, WorkerEnded
    from sandbox.api.failed import CommandFailed, TimeoutExpired
    from sandbox.api.host import Explanation, Host, explain
    from sandbox.api.policy import Policy
    from sandbox.api.popen import Popen
    from sandbox.api.run import run
    from sandbox.api.wiring import DEVNULL, PIPE, STDOUT
    from sandbox.errors import (
        CommandNotExecutable,
        CommandNotFound,
        HostError,
        PolicyError,
        RootfsError,
        SbxError,
        SetupError,
        StateError,
        UsageError,
    )
    from sandbox.policy.model import Mount
    from sandbox.runtime.report import Report
    from sandbox.runtime.usage import Usage

__all__ = (
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AsyncPopen",
    "AsyncSandbox",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "Explanation",
    "Host",
    "HostError",
    "Mount",
    "Policy",
    "PolicyError",
    "Popen",
    "RemoteError",
    "Report",
    "Result",
    "RootfsError",
    "Sandbox",
    "SandboxExecutor",
    "SbxError",
    "SetupError",
    "StateError",
    "TimeoutExpired",
    "Usage",
    "UsageError",
    "WorkerEnded",
    "apopen",
    "arun",
    "explain",
    "run",
)

_HOMES = {
    "sandbox.api.aio": ("AsyncPopen", "apopen", "arun"),
    "sandbox.api.box": ("AsyncSandbox", "Sandbox"),
    "sandbox.api.call": ("Result",),
    "sandbox.api.executor": ("RemoteError", "SandboxExecutor", "WorkerEnded"),
    "sandbox.api.failed": ("CommandFailed", "TimeoutExpired"),
    "sandbox.api.host": ("Explanation", "Host", "explain"),
    "sandbox.api.policy": ("Policy",),
    "sandbox.api.popen": ("Popen",),
    "sandbox.api.run": ("run",),
    "sandbox.api.wiring": ("DEVNULL", "PIPE", "STDOUT"),
    "sandbox.policy.model": ("Mount",),
    "sandbox.runtime.report": ("Report",),
    "sandbox.runtime.usage": ("Usage",),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = next((home for home, names in _HOMES.items() if name in names), "sandbox.errors")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
