"""`sandbox.SandboxExecutor`: concurrent.futures with a sandbox of its own for each job."""

from __future__ import annotations

import builtins
import os
import sys
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

from sandbox.api.plain import loads
from sandbox.api.policy import Policy
from sandbox.api.run import run
from sandbox.api.wiring import PIPE
from sandbox.api.wishes import absolute_mount, layer_of, layers_of, wished
from sandbox.errors import SbxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Unpack

    from sandbox.api.call import Result
    from sandbox.api.wishes import PolicyRef, Wishes, Word
    from sandbox.runtime.report import Report

_MODULES = "/run/sandbox"  # where worker.py looks for cloudpickle


class WorkerEnded(SbxError, BrokenExecutor):
    """A callable's sandbox ended without an answer; `report` says how. Other jobs go on."""

    def __init__(self, what: str, *, cause: str = "", report: Report) -> None:
        super().__init__(what, cause=cause)
        self.report = report


class RemoteError(SbxError):
    """A callable raised what cannot be made anew here; `kind` is the name of its class, and
    `trace` what Python said inside. Both are the sandbox's words."""

    def __init__(self, what: str, *, kind: str = "", trace: str = "") -> None:
        super().__init__(what)
        self.kind = kind
        self.trace = trace


class SandboxExecutor(Executor):
    """Runs each job in a fresh sandbox, at most `max_workers` at once.

    `submit(["cmd", …], **keywords)` gives the Result of `sandbox.run` with those keywords.
    `submit(function, *args, **keywords)` calls it by the `python` of the root file system, which
    must be of the same version as this one; needs the extra "executor" (cloudpickle). What it
    returns must be plain: None, bool, int, float, str, bytes, and lists, tuples, sets and
    dictionaries of them. Exceptions come back as those of Python itself, or as RemoteError; a job
    that gave no answer raises WorkerEnded, a BrokenExecutor with the `report`.

    With `trust_results` any object may come back, as a pickle: whoever controls the sandbox then
    runs code in this process. Leave it unless you trust what runs inside as yourself.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        rootfs: Word,
        policy: PolicyRef = "strict",
        python: str = "python3",
        trust_results: bool = False,
        **wishes: Unpack[Wishes],
    ) -> None:
        layer = layer_of("SandboxExecutor", wished("SandboxExecutor", wishes))
        self._policy = Policy((*layers_of(policy), layer))
        self._policy.check()
        self._rootfs = rootfs
        self._python = python
        self._trusted = trust_results
        workers = max_workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox-job")

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule a command (a list of words) or a callable. Raises UsageError for neither."""
        if callable(fn):
            return self._pool.submit(self._call, fn, args, kwargs)
        if args or not isinstance(fn, list | tuple):
            raise UsageError("a job is a list of words with keywords, or a callable")
        return self._pool.submit(self._run, list(fn), kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; `cancel_futures` drops those that have not begun."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, argv: list[Word], keywords: dict[str, Any]) -> Result:
        return run(argv, rootfs=self._rootfs, policy=self._policy, **keywords)

    def _call(self, function: Callable[..., Any], args: Any, keywords: Any) -> Any:
        cloudpickle = _cloudpickle()
        job = cloudpickle.dumps((function, args, keywords))
        request = cloudpickle.dumps((tuple(sys.version_info[:2]), self._trusted, job))
        result = run(
            [self._python, "-I", "-B", "-c", _program()],
            rootfs=self._rootfs,
            policy=self._with_cloudpickle(cloudpickle.__file__),
            input=request,
            stdout=PIPE,
        )
        return self._value(result)

    def _with_cloudpickle(self, file: str) -> Policy:
        from sandbox.policy.model import Mount

        mount = Mount(os.path.dirname(file), f"{_MODULES}/cloudpickle", read_only=True)
        layer = layer_of("SandboxExecutor", {"filesystem": {"mounts": [absolute_mount(mount)]}})
        return Policy((*self._policy.layers, layer))

    def _value(self, result: Result) -> Any:
        try:
            answer = loads(result.stdout)
        except ValueError:
            answer = None
        if isinstance(answer, tuple) and len(answer) == 2 and answer[0] == "result":
            return self._trust(answer[1])
        if isinstance(answer, tuple) and len(answer) == 6 and answer[0] == "error":
            raise _error(*answer[1:])
        report = result.report
        own = f"exit code {report.code}" if report.code is not None else f"signal {report.signal}"
        raise WorkerEnded(
            "a job ended without an answer", cause=f"{report.reason}, {own}", report=report
        )

    def _trust(self, value: object) -> Any:
        if not self._trusted:
            return value
        import pickle

        if not isinstance(value, bytes):
            raise ValueError("no pickle")
        return pickle.loads(value)  # noqa: S301 (trust_results)


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError as error:
        raise UsageError(
            "callables need cloudpickle",
            cause=str(error),
            hint="install the extra: pip install 'sbx-runner[executor]'",
        ) from error
    return cloudpickle


def _program() -> str:
    """The worker's source, with `plain` before it."""
    folder = os.path.dirname(__file__)
    texts = []
    for name in ("plain", "worker"):
        with open(f"{folder}/{name}.py") as file:
            texts.append(file.read().replace("from __future__ import annotations\n", ""))
    return "\n".join(texts)


def _shown(text: object) -> str:
    """The sandbox's words without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def _error(module: object, name: object, args: Any, text: object, trace: object) -> BaseException:
    """The exception to raise: a class of Python's own with plain arguments, or a RemoteError."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    remote = RemoteError(
        _shown(f"{name}: {text}"), kind=_shown(f"{module}.{name}"), trace=_shown(trace)
    )
    if module == "builtins" and isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(*(_shown(arg) if isinstance(arg, str) else arg for arg in args))
        except TypeError:
            return remote
        error.__cause__ = remote
        return error
    return remote
