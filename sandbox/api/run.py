"""`sandbox.run`: the Python face of one run. Reads its arguments, calls, hands back the result.

Safe in threads: it forks nothing, catches no signals and keeps no state.
"""

from __future__ import annotations

import os

from sandbox.api.call import Call, split_keywords
from sandbox.api.wishes import policy_for, wished, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    from sandbox.api.call import Result, RunKeywords
    from sandbox.api.wishes import PolicyRef, Wishes, Word
    from sandbox.policy import model
    from sandbox.runtime.report import Report
    from sandbox.runtime.supervise import Turns
    from sandbox.runtime.task import Task


def run(
    argv: Sequence[Word],
    *,
    rootfs: Word,
    policy: PolicyRef = "strict",
    name: str = "",
    pass_fds: Iterable[int] = (),
    **keywords: Unpack[RunKeywords],
) -> Result:
    """Run `argv` in a sandbox whose root is `rootfs`, wait for its end, return a Result.

    Like subprocess.run, with its keywords `input`, `capture_output`, `text`, `encoding`,
    `errors`, `check`, `stdin`, `stdout`, `stderr`, and these differences: without `stdin` and
    `input` the command reads an empty input, never the caller's; output passes through pipes, up
    to the policy's output limit, and `on_stdout`, `on_stderr` are called with each piece of it.
    On top of `policy` (a name, a path, or a Policy): `timeout` in seconds, 0 for none; `env`,
    added to the policy's, for nothing is inherited; `cwd`, `user`, `mounts`, `network`, `pids`.

    Raises TimeoutExpired (`result` holds what was captured; nothing of the sandbox lives any
    more), CommandFailed with `check`, CommandNotFound, CommandNotExecutable, and the other kinds
    of SbxError when nothing ran.
    """
    from sandbox.runtime.supervise import drive

    call, turns = begin("sandbox.run", argv, rootfs, policy, name, pass_fds, keywords)
    return call.finish(drive(turns))


def begin(
    origin: str,
    argv: Sequence[Word],
    rootfs: Word,
    policy: PolicyRef,
    name: str,
    pass_fds: Iterable[int],
    keywords: RunKeywords,
) -> tuple[Call, Turns[Report]]:
    """A run that is ready to be driven. Raises SbxError for bad arguments."""
    from sandbox.runtime.session import RunOptions, session_turns

    calling, wishes = split_keywords(keywords)
    call = Call(words_of(argv), **calling)
    wanted, task = understand(origin, call.words, rootfs, policy, name, pass_fds, wishes)
    options = RunOptions(
        stdin=call.stdin,
        stdout=call.stdout,
        stderr=call.stderr,
        merge_stderr=call.merge_stderr,
        forward_signals=False,
    )
    return call, session_turns(wanted, task, options)


def understand(
    origin: str,
    words: tuple[str, ...],
    rootfs: Word,
    policy: PolicyRef,
    name: str,
    pass_fds: Iterable[int],
    wishes: Wishes,
) -> tuple[model.Policy, Task]:
    """What is wanted and what to run. Raises SbxError for bad arguments."""
    from sandbox.runtime.task import Task

    wanted = policy_for(origin, policy, wished(origin, wishes))
    return wanted, Task(os.fspath(rootfs), words, name, None, tuple(pass_fds))
