"""Switching measures off: an sbx that lacks some, for the tests that must then turn red.

A measure of the launcher goes by an edit of its source, compiled apart; one of the plan by an
edit of the operations on their way to the launcher; one of sbx itself by a patch of a module.
The release is built from sources that know nothing of this.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2]
HELPERS = SOURCE / "helpers"
# What a pytest is to do without in its own process: names with "|" between, and its launcher.
VARIABLE = "SBX_TEST_WITHOUT"
LAUNCHER_VARIABLE = "SBX_TEST_LAUNCHER"

LANDLOCK_IOCTL_DEV = 1 << 15

Ops = list[Any]
Edit = Callable[[Ops], Ops]


@dataclass(frozen=True)
class Probe:
    """A check of the probe, in a run with these options."""

    check: str
    options: tuple[str, ...] = ("--policy", "strict")

    def __str__(self) -> str:
        words = [word for word in self.options if word != "--policy"]
        return f"probe {self.check} ({' '.join(words)})"


def probe(check: str, policy: str = "strict", *options: str) -> Probe:
    """A check under a policy, with more options."""
    return Probe(check, ("--policy", policy, *options))


@dataclass(frozen=True)
class Measure:
    """One measure: how it is switched off, and all that must be red then.

    `red` are probe checks, and tests as pytest names them. `launcher` are edits of a source:
    (file, text, what stands there instead), the text in as many places as there are. Without a
    measure that the kernel needs itself nothing `starts`.
    """

    name: str
    red: tuple[Probe | str, ...]
    launcher: tuple[tuple[str, str, str], ...] = ()
    plan: Edit | None = None
    patch: Callable[[], None] | None = None
    starts: bool = True


def drop(*kinds: str, **fields: object) -> Edit:
    """Leave out the operations of these classes whose fields have these values."""

    def edit(ops: Ops) -> Ops:
        return [op for op in ops if not _is(op, kinds, fields)]

    return edit


def change(kind: str, how: Callable[[Any], dict[str, object]], **fields: object) -> Edit:
    """Replace fields of the operations of this class: `how` gives the new values."""

    def edit(ops: Ops) -> Ops:
        return [op.replace(**how(op)) if _is(op, (kind,), fields) else op for op in ops]

    return edit


def both(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(ops: Ops) -> Ops:
        for each in edits:
            ops = each(ops)
        return ops

    return edit


def _is(op: object, kinds: tuple[str, ...], fields: dict[str, object]) -> bool:
    named = type(op).__name__ in kinds
    return named and all(getattr(op, name) == value for name, value in fields.items())


def without_namespace(flag: int) -> Edit:
    """Do not make one namespace."""
    return change("Namespaces", lambda op: {"flags": op.flags & ~flag})


def without_attribute(bit: int, kind: str = "Filesystem") -> Edit:
    """Take a MOUNT_ATTR_ bit away."""
    return change(kind, lambda op: {"attributes": op.attributes & ~bit})


def without_option(start: str, **fields: object) -> Edit:
    """Take options of file systems away."""

    def shorter(op: Any) -> dict[str, object]:
        return {"options": tuple(text for text in op.options if not text.startswith(start))}

    return change("Filesystem", shorter, **fields)


def without_ioctl_rules(ops: list[Any]) -> list[Any]:
    """Let Landlock handle no ioctl of devices."""
    kept = []
    for op in ops:
        kind = type(op).__name__
        if kind == "LandlockRuleset":
            kept.append(op.replace(handled_fs=op.handled_fs & ~LANDLOCK_IOCTL_DEV))
        elif kind != "LandlockPath" or op.access != LANDLOCK_IOCTL_DEV:
            kept.append(op)
    return kept


# ---- the launcher --------------------------------------------------------------------------------


def edited(edits: tuple[tuple[str, str, str], ...]) -> dict[str, str]:
    """The launcher's sources that the edits change, by file name.

    Raises LookupError when a text is not there: then the source has changed, and the measure's
    entry must follow it.
    """
    found: dict[str, str] = {}
    for name, old, new in edits:
        text = found.get(name) or (HELPERS / "launcher" / name).read_text()
        if old not in text:
            raise LookupError(f"helpers/launcher/{name} no longer has {old!r}")
        found[name] = text.replace(old, new)
    return found


def build_launcher(folder: Path, edits: tuple[tuple[str, str, str], ...]) -> Path:
    """Compile the launcher from edited sources."""
    tree = folder / "helpers"
    shutil.copytree(HELPERS, tree)
    for name, text in edited(edits).items():
        (tree / "launcher" / name).write_text(text)
    parts = sorted(map(str, (tree / "launcher").glob("*.c")))
    words = ["-static", "-w", "-O1", *parts, str(tree / "newuidmap_wrapper/idmap.c")]
    # A musl toolchain has no kernel headers of its own: the host's stand behind its C library's.
    words += ["-idirafter", "/usr/include"]
    words += ["-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]
    out = folder / "sbx-launcher"
    compiler = "musl-gcc" if shutil.which("musl-gcc") else "gcc"
    done = subprocess.run(
        [compiler, *words, "-o", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


# ---- sbx -----------------------------------------------------------------------------------------


def make_command(folder: Path, measures: list[Measure]) -> Path:
    """An `sbx` without these measures, as an executable file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    edits = tuple(edit for measure in measures for edit in measure.launcher)
    launcher = str(build_launcher(folder, edits)) if edits else ""
    names = [measure.name for measure in measures]
    path = folder / "sbx"
    path.write_text(
        f"#!{sys.executable} -B\nimport sys\nsys.path.insert(0, {str(SOURCE)!r})\n"
        f"from tests.support.measures import switch_off\nswitch_off({names!r}, {launcher!r})\n"
        "from sandbox.cli.main import main\nsys.exit(main())\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def patch_sbx(measures: list[Measure], launcher: str) -> None:
    """Switch measures off in this process; what they concern must not be imported yet."""
    from sandbox.linux import paths
    from sandbox.plan import wire

    if launcher:
        paths.native = lambda name: launcher  # noqa: ARG005
    for measure in measures:
        if measure.patch:
            measure.patch()
    edits = [measure.plan for measure in measures if measure.plan]
    if edits:
        encode, edit = wire.encode, both(*edits)
        wire.encode = lambda ops: encode(edit(list(ops)))
