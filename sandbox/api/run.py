"""`sandbox.run`: the Python face of one run. Reads its arguments, calls, hands back the result.

Owns the likeness to subprocess.run; everything else is runtime's. Safe in threads: it forks
nothing, catches no signals and keeps no state.
"""

from __future__ import annotations

import os

from sandbox.errors import TimeoutExpired, UsageError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Protocol

    from sandbox.policy.model import Mount, Policy
    from sandbox.runtime.report import Report
    from sandbox.runtime.streams import Input, Output

    class HasFileno(Protocol):
        """A file object."""

        def fileno(self) -> int:
            """The number of its descriptor."""

    Stream = int | HasFileno | None

# The same numbers as in subprocess, so that either module's names may be used.
PIPE = -1
STDOUT = -2
DEVNULL = -3

_ORIGIN = "sandbox.run"


class Result(Record):
    """What came of a command: as subprocess.CompletedProcess, with the report of the run.

    `returncode` is the exit code, or minus the number of the signal that ended the command; 125
    for a success whose output could not be written.
    `stdout`, `stderr` are bytes (str in text mode) where captured, else None.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: Any
    stderr: Any
    report: Report

    def check_returncode(self) -> None:
        """Raise CommandFailed unless the command succeeded."""
        if self.returncode:
            from sandbox.api.failed import CommandFailed

            end = "exit code" if self.returncode > 0 else "signal"
            what = f"{self.args[0]!r} failed with {end} {abs(self.returncode)}"
            raise CommandFailed(what, result=self)


class _Text(Record):
    """How captured bytes become text; `active` False leaves bytes."""

    active: bool
    encoding: str | None
    errors: str | None

    def _codec(self) -> tuple[str, str]:
        import locale

        return self.encoding or locale.getencoding(), self.errors or "strict"

    def encode(self, given: Any) -> bytes:
        """The bytes to feed."""
        if isinstance(given, str):
            if not self.active:
                raise UsageError("input must be bytes without text=True")
            return given.encode(*self._codec())
        return bytes(given)

    def decode(self, captured: bytearray | None) -> Any:
        """What the caller gets, with newlines as in text files."""
        if captured is None:
            return None
        if not self.active:
            return bytes(captured)
        text = captured.decode(*self._codec())
        return text.replace("\r\n", "\n").replace("\r", "\n")


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    rootfs: str | os.PathLike[str],
    policy: str | os.PathLike[str] = "strict",
    input: bytes | str | None = None,
    capture_output: bool = False,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    timeout: float | None = None,
    check: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: int | str | None = None,
    mounts: Iterable[Mount] = (),
    network: str | None = None,
    name: str = "",
    pass_fds: Iterable[int] = (),
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
) -> Result:
    """Run `argv` in a sandbox whose root is `rootfs`, wait for its end, return a Result.

    Like subprocess.run, with these differences: without `stdin` and `input` the command reads
    an empty input, never the caller's; `env` is added to the policy's environment, for nothing
    is inherited; output passes through pipes, up to the policy's output limit; a time limit may
    also come from the policy. `timeout` is in seconds, 0 for none.

    Raises TimeoutExpired (`result` holds what was captured), CommandFailed with `check`,
    CommandNotFound, CommandNotExecutable, and the other kinds of SbxError when nothing ran.
    """
    from sandbox.runtime.session import RunOptions, run_session
    from sandbox.runtime.task import Task

    decoder = _Text(bool(text or encoding or errors), encoding, errors)
    out, err, merged = _outputs(stdout, stderr, capture=capture_output)
    overrides = _overrides(
        timeout=timeout, env=env, cwd=cwd, user=user, mounts=mounts, network=network
    )
    words = _words(argv)
    report = run_session(
        _policy(os.fspath(policy), overrides),
        Task(os.fspath(rootfs), words, name, None, tuple(pass_fds)),
        RunOptions(
            stdin=_input(stdin, input, decoder),
            stdout=out,
            stderr=err,
            merge_stderr=merged,
            forward_signals=False,
        ),
    )
    result = Result(
        words,
        _returncode(report),
        decoder.decode(out if isinstance(out, bytearray) else None),
        decoder.decode(err if isinstance(err, bytearray) else None),
        report,
    )
    if report.reason == "timeout":
        seconds = round(report.wall_s, 1)
        raise TimeoutExpired(f"{words[0]!r} was ended after {seconds} seconds", result=result)
    if check:
        result.check_returncode()
    return result


def _words(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(argv, str | bytes):
        raise UsageError(
            "the command must be a list of words",
            cause=f"found {type(argv).__name__}",
            hint='for a shell line: ["sh", "-c", line]',
        )
    return tuple(os.fspath(word) for word in argv)


def _returncode(report: Report) -> int:
    if report.code is not None:
        return report.code or (report.exit_code if report.reason == "output-lost" else 0)
    return -(report.signal or report.exit_code - 128)


def _descriptor(stream: int | HasFileno) -> int:
    return stream if isinstance(stream, int) else stream.fileno()


def _input(stdin: Stream, given: bytes | str | None, text: _Text) -> Input:
    if given is not None:
        if stdin is not None:
            raise UsageError("input and stdin cannot be used together")
        return text.encode(given)
    # A pipe that nobody can write to is an empty input.
    if stdin is None or stdin in (PIPE, DEVNULL):
        return None
    return _descriptor(stdin)


def _outputs(stdout: Stream, stderr: Stream, *, capture: bool) -> tuple[Output, Output, bool]:
    """(stdout, stderr, whether stderr goes the way of stdout)."""
    if capture:
        if stdout is not None or stderr is not None:
            raise UsageError("capture_output cannot be used together with stdout or stderr")
        stdout = stderr = PIPE
    if stdout == STDOUT:
        raise UsageError("STDOUT is for stderr only")
    merged = stderr == STDOUT
    return _output(stdout, 1), None if merged else _output(stderr, 2), merged


def _output(stream: Stream, default: int) -> Output:
    if stream is None:
        return default
    if stream == PIPE:
        return bytearray()
    return None if stream == DEVNULL else _descriptor(stream)


def _overrides(
    *,
    timeout: float | None,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: int | str | None,
    mounts: Iterable[Mount],
    network: str | None,
) -> dict[str, dict[str, Any]]:
    """The arguments as a layer of a policy: only what was given."""
    values: dict[tuple[str, str], Any] = {
        ("process", "timeout"): timeout,
        ("process", "env"): dict(env) if env else None,
        ("process", "cwd"): cwd,
        ("identity", "user"): user,
        ("filesystem", "mounts"): [_mount(mount) for mount in mounts] or None,
        ("network", "mode"): network,
    }
    sections: dict[str, dict[str, Any]] = {}
    for (section, key), value in values.items():
        if value is not None:
            sections.setdefault(section, {})[key] = value
    return sections


def _mount(mount: Mount) -> dict[str, object]:
    return {**dict(mount), "source": os.path.abspath(mount.source)}


def _policy(ref: str, overrides: dict[str, dict[str, Any]]) -> Policy:
    from sandbox.policy.load import Layer, load_policy
    from sandbox.policy.merge import build_policy

    origins: dict[str, str] = {}
    for section, values in overrides.items():
        for key, value in values.items():
            origins[f"{section}.{key}"] = _ORIGIN
            if isinstance(value, dict):
                origins |= {f"{section}.{key}.{item}": _ORIGIN for item in value}
    return build_policy([*load_policy(ref), Layer(_ORIGIN, overrides, origins)])
