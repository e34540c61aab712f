"""All streams of one sandbox together: what the supervisor's loop moves.

Owns the caller's endpoints, our ends of the payload's pipes, and the pty master when there is
one. Opened before anything else of a run, while 0, 1 and 2 are still the caller's.
"""

from __future__ import annotations

import os

from sandbox.runtime.endpoint import Endpoint, open_endpoint
from sandbox.runtime.output import Budget, Inflow, Outflow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox.launcher.spawn import Launched
    from sandbox.runtime.pty import Pty

    Input = int | bytes | None
    Output = int | bytearray | Callable[[bytes], object] | None


class Streams:
    """`stdin` is a descriptor to relay, bytes to feed, or None for an empty input; `stdout` and
    `stderr` a descriptor to relay to, a bytearray to fill, a function to call with each piece
    as it comes, or None to drop what comes.

    `limit_bytes` bounds both outputs together; what comes after is read, counted and dropped.
    """

    def __init__(self, stdin: Input, stdout: Output, stderr: Output, limit_bytes: int) -> None:
        self.budget = Budget(limit_bytes)
        self.master = -1
        self._pty: Pty | None = None
        self._endpoints: list[Endpoint] = []
        self._stdin = self._open(stdin, writing=False) if isinstance(stdin, int) else stdin
        self._stdout = self._open(stdout, writing=True) if isinstance(stdout, int) else stdout
        self._stderr = self._open(stderr, writing=True) if isinstance(stderr, int) else stderr
        self._shown = self._stdout if self.one_output else self._stderr
        self._outflows: list[Outflow] = []
        self._inflow: Inflow | None = None
        self._begun = False
        self._from_master: Outflow | None = None

    def _open(self, fd: int, *, writing: bool) -> Endpoint | None:
        endpoint = open_endpoint(fd, writing=writing)
        if endpoint:
            self._endpoints.append(endpoint)
        return endpoint

    @property
    def one_output(self) -> bool:
        """Whether both outputs of the caller are one file: one pipe then keeps their order."""
        ends = [end for end in (self._stdout, self._stderr) if isinstance(end, Endpoint)]
        found = {(info.st_dev, info.st_ino) for info in (os.fstat(end.fd) for end in ends)}
        return len(ends) == 2 and len(found) == 1

    def attach(self, launched: Launched, *, terminal: bool) -> None:
        """Take over the pipes. With a `terminal` the input waits for its master.

        May come again for another launcher, when the first one ended without `begin_input`.
        """
        held = launched.held
        stdin = held.give(launched.stdin)
        self._inflow = Inflow(None if terminal else self._stdin, stdin)
        self._outflows.append(Outflow(held.give(launched.stdout), self._stdout, self.budget))
        if launched.stderr >= 0:
            self._outflows.append(Outflow(held.give(launched.stderr), self._stderr, self.budget))

    def attach_terminal(self, master: int) -> None:
        """Relay the pty `master`, which is ours from now on."""
        from sandbox.runtime.pty import Pty

        self.master = master
        self._pty = Pty(master)
        self._from_master = Outflow(master, self._stdout, self.budget, pty=self._pty)
        self._outflows.append(self._from_master)
        self._inflow = Inflow(self._stdin, master, pty=self._pty)

    def begin_input(self) -> None:
        """The payload runs: from now on the caller's input is read, and not a byte before."""
        self._begun = True

    def interest(self) -> Iterator[tuple[int, int]]:
        """Every (descriptor, poll mask) pair that some stream waits for."""
        for flow in self._outflows:
            yield from flow.interest()
        if self._inflow and self._begun:
            yield from self._inflow.interest()

    def step(self, ready: Mapping[int, int]) -> None:
        """Let every stream move what it can."""
        if self._inflow and self._begun:
            self._inflow.step(ready)
        for flow in self._outflows:
            flow.step(ready)
        if self._from_master and not self._from_master.open:
            self._hang_up()

    def _hang_up(self) -> None:
        self.master = -1
        if self._inflow:
            self._inflow.end()
        if self._pty:
            self._pty.close()

    @property
    def wake_at(self) -> float:
        """When `step` is wanted whatever happens (time.monotonic()), 0.0 for never."""
        return self._inflow.wake_at if self._inflow and self._begun else 0.0

    @property
    def eager(self) -> bool:
        """Whether some stream can be read without waiting."""
        return any(flow.eager for flow in self._outflows)

    @property
    def drained(self) -> bool:
        """Whether all output has arrived."""
        return not any(flow.open for flow in self._outflows)

    def finish(self) -> None:
        """The sandbox is dead: stop feeding it and read on to what it left, no further."""
        if self._inflow:
            self._inflow.end()
        for flow in self._outflows:
            flow.finish()

    def abandon(self) -> None:
        """Give up the output that is still under way; it is counted as dropped."""
        for flow in self._outflows:
            if flow.open:
                flow.abandon()

    def end_line(self) -> None:
        """End the line that the payload has left unfinished where standard error goes, before
        something of ours is said there."""
        if isinstance(self._shown, Endpoint) and self._shown.unfinished:
            self._shown.unfinished = False
            try:
                os.write(2, b"\n")
            except OSError:  # nobody is there to be told
                pass

    def errors(self) -> list[OSError]:
        """What kept output from being written, other than a reader that went away."""
        return [flow.error for flow in self._outflows if flow.error]

    def close(self) -> None:
        """Close everything; the caller's descriptors stay open and unchanged."""
        if self._inflow:
            self._inflow.end()
        for flow in self._outflows:
            flow.end()
        if self._pty:
            self._pty.close()
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
