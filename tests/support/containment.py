"""Runs the probe under sbx and its peers and prints docs/containment.md.

Use: python -m tests.support.containment SBX. Run as an ordinary user; peers that are not installed,
or that do not run here, are left out and named.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support import probe
from tests.support.host_things import HostThings, host_things, run_hostile

HEAD = """\
# Containment, measured

The program `tests/support/probe.c` runs as the payload and tries one thing a line: does it reach,
see or change what it should not? This table holds what it found under sbx's policies and under
other programs on one machine. `make containment` makes it anew; what is not installed is left out.

`ok`: held. `leak`: reached. `-`: the probe did not come that far. Not every leak is a fault: a
policy for builds leaves a writable root and a debugger, and the other programs are building blocks
whose callers add what they leave out. They run with the flags shown below, and the caller is a
careless one: descriptors left open, a secret in the environment, signals ignored.
"""


@dataclass(frozen=True)
class Column:
    """One sandbox: its name, the command before the probe's own words, and what was found."""

    name: str
    words: tuple[str, ...]
    found: dict[str, str]


def peers(root: Path, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, command line) of every peer that is installed."""
    path = os.fspath(root)
    bwrap = f"bwrap --unshare-all --bind {path} / --proc /proc --dev /dev --tmpfs /tmp"
    yield "bwrap", (*bwrap.split(), "/probe")
    hard = "--unshare-all --unshare-user --disable-userns --new-session --die-with-parent"
    hard += f" --clearenv --cap-drop ALL --ro-bind {path} / --proc /proc --dev /dev --tmpfs /tmp"
    yield "bwrap, hardened", ("bwrap", *hard.split(), "/probe")
    script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    around = ("unshare", "--user", "--map-root-user", "--mount", "--cgroup", "sh", "-c", script)
    crun = f"crun --cgroup-manager=disabled --root {folder}/crun run --bundle {folder} probe"
    yield "crun", (*around, "sh", *crun.split())
    podman = "podman run --rm --network none --cgroups=disabled --log-driver none --rootfs"
    yield "podman", (*podman.split(), path, "/probe")
    yield "firejail", ("firejail", "--quiet", f"{path}/probe")


def write_bundle(root: Path, folder: Path, words: tuple[str, ...]) -> None:
    """crun's own template for rootless containers, with the probe as its command."""
    subprocess.run(["crun", "spec", "--rootless"], cwd=folder, check=True)
    config = folder / "config.json"
    spec = json.loads(config.read_text())
    spec["process"] |= {"terminal": False, "args": ["/probe", *words]}
    spec["root"] = {"path": os.fspath(root), "readonly": False}
    one = [{"containerID": 0, "hostID": 0, "size": 1}]
    spec["linux"] |= {"uidMappings": one, "gidMappings": one}
    config.write_text(json.dumps(spec))


def read(output: str) -> dict[str, str]:
    """Each check's leak, "" for none, as far as the probe came."""
    found = {}
    for line in output.splitlines():
        name, colon, result = line.partition(": ")
        if colon and (result == "ok" or result.startswith("LEAK ")):
            found[name] = "" if result == "ok" else result.removeprefix("LEAK ")
    return found


def measure(
    name: str, words: tuple[str, ...], more: tuple[str, ...], things: HostThings
) -> Column | str:
    """Run the probe; a column, or why there is none."""
    env = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    try:
        done = run_hostile([*words, *more], things, env)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}: {error}"
    found = read(done.stdout)
    if not found:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"{name}: does not run here: {said[-1] if said else 'no word'}"
    return Column(name, words, found)


def table(columns: list[Column]) -> Iterator[str]:
    """The rows in the probe's own order, under a row of sums."""
    checks = max((list(column.found) for column in columns), key=len)
    yield f"| check | {' | '.join(column.name for column in columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    found = [column.found.values() for column in columns]
    cells = [f"**{sum(leak == '' for leak in leaks)} of {len(leaks)}**" for leaks in found]
    yield f"| **held** | {' | '.join(cells)} |"
    for check in checks:
        words = {None: "-", "": "ok"}
        cells = [words.get(column.found.get(check), "leak") for column in columns]
        yield f"| {check} | {' | '.join(cells)} |"


def measure_all(sbx: str, folder: Path, things: HostThings) -> list[Column | str]:
    """Every column, or why there is none: sbx, its peers, and no sandbox at all."""
    root = probe.make_rootfs(folder / "rootfs", folder / "probe")
    tried: list[Column | str] = []
    for policy in ("strict", "default", "ci", "permissive"):
        ours = (sbx, "run", "--policy", policy, str(root), "/probe")
        tried.append(measure(f"sbx {policy}", ours, things.words, things))
    (folder / "bundle").mkdir()
    for name, words in peers(root, folder / "bundle"):
        program = name.partition(",")[0]
        if not shutil.which(program):
            tried.append(f"{name}: is not installed")
            continue
        if program == "crun":
            write_bundle(root, folder / "bundle", things.words)
        tried.append(measure(name, words, () if program == "crun" else things.words, things))
    tried.append(measure("no sandbox", (str(folder / "probe"),), things.words, things))
    return tried


def main(sbx: str) -> int:
    """Print the document; 1 when there is no probe or sbx itself does not run."""
    with tempfile.TemporaryDirectory(prefix="containment-") as name, ExitStack() as stack:
        folder = Path(name)
        problem = probe.build(folder / "probe")
        if problem:
            print(problem, file=sys.stderr)
            return 1
        (folder / "host/things").mkdir(parents=True)
        things = stack.enter_context(host_things(folder / "host/things"))
        tried = measure_all(sbx, folder, things)
    columns = [column for column in tried if isinstance(column, Column)]
    print(HEAD)
    print("\n".join(table(columns)))
    release = ".".join(os.uname().release.split(".")[:2])
    print(f"\n## What ran\n\nLinux {release}, as an ordinary user.\n")
    for column in columns:
        words = " ".join(column.words).replace(str(folder), "DIR").replace(sbx, "sbx")
        print(f"* {column.name}: `{words}`")
    for line in tried:
        if isinstance(line, str):
            print(f"* {line}".replace(str(folder), "DIR"))
    return 0 if sum(column.name.startswith("sbx ") for column in columns) == 4 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
