"""Times whole commands: one started process each, interleaved rounds, checked exit codes."""

import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Runner = Callable[[], int]


@dataclass
class Entry:
    """One row of a table: `run` starts it once and returns its exit code.

    `every` thins out rounds of slow ones. `times` are seconds.
    """

    name: str
    run: Runner
    expected_code: int = 0
    every: int = 1
    times: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def median_s(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.times)


def spawn(argv: list[str], env: dict[str, str]) -> Runner:
    """A runner of one program, with nothing to read and its output dropped."""
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]

    def run() -> int:
        pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsigdef=[signal.SIGPIPE])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


def measure(entries: list[Entry], rounds: int) -> None:
    """Fill in the times; an entry whose exit code is wrong is dropped, with the reason."""
    for entry in entries:
        for _ in range(2):
            _check(entry, entry.run())
    for number in range(rounds):
        # The other way round every second time, so that no entry always follows the same one.
        for entry in entries if number % 2 else reversed(entries):
            if entry.problem or number % entry.every:
                continue
            began = time.perf_counter()
            code = entry.run()
            entry.times.append(time.perf_counter() - began)
            _check(entry, code)


def _check(entry: Entry, code: int) -> None:
    if code != entry.expected_code and not entry.problem:
        entry.problem = f"exit code {code} instead of {entry.expected_code}"


def table(title: str, entries: list[Entry], base: str, targets: dict[str, float]) -> None:
    """Print medians, minima and ratios to the entry named `base`."""
    print(f"\n{title}\n")
    print(f"{'':<44} {'median':>9} {'min':>9} {'ratio':>7}  target")
    reference = next((e for e in entries if e.name == base and e.times and not e.problem), None)
    for entry in entries:
        if entry.problem or not entry.times:
            print(f"{entry.name:<44} does not run here: {entry.problem or 'no rounds'}")
            continue
        ratio = entry.median_s / reference.median_s if reference else float("nan")
        verdict = ""
        if entry.name in targets and reference:
            met = "met" if ratio <= targets[entry.name] else "MISSED"
            verdict = f"<= {targets[entry.name]:.2f} {met}"
        shown = f"{entry.median_s * 1e3:7.2f}ms {min(entry.times) * 1e3:7.2f}ms {ratio:7.2f}"
        print(f"{entry.name:<44} {shown}  {verdict}")


@dataclass
class Comparison:
    """One row: a figure of ours beside `base`, what it is compared with; `target` is the most."""

    name: str
    ours: float
    base_name: str
    base: float
    unit: str
    target: float


def comparisons(title: str, rows: list[Comparison]) -> None:
    """Print figures of different kinds, each beside its own base."""
    print(f"\n{title}\n")
    print(f"{'':<34} {'':>11}   {'beside':<30} {'':>11} {'ratio':>6}  target")
    for row in rows:
        ratio = row.ours / row.base
        verdict = f"<= {row.target:.2f} {'met' if ratio <= row.target else 'MISSED'}"
        figures = [f"{value:8.1f} {row.unit:<3}" for value in (row.ours, row.base)]
        print(
            f"{row.name:<34} {figures[0]}  {row.base_name:<30} {figures[1]} {ratio:6.2f}  {verdict}"
        )
