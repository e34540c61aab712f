"""Programs of this host and everything that starting them takes, gathered into an Inventory.

Owns the recursion: program → interpreter or script interpreter → libraries → what the program's
family needs beside them (`evident`). Every problem is kept as one line and none stops the search.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

from sandbox.host.elf import MAGIC, ElfError, ElfFile, env_target, host_runs, read_shebang
from sandbox.host.libraries import LibraryFinder
from sandbox.linux.paths import absolute
from sandbox.services.storage import evident
from sandbox.services.storage.inventory import Inventory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A script may name a script as its interpreter; the kernel gives up after this many.
_SCRIPT_DEPTH = 4
_ASK_TIMEOUT_S = 60.0
_NEVER_ELF = (".py", ".pyc", ".pyi", ".h", ".hpp", ".txt", ".a", ".pm", ".pl", ".pem", ".crt")


def search_path(own: str) -> tuple[str, ...]:
    """The folders of `own` (a PATH), then the system's usual ones.

    Folders of "shims" come last: their programs only choose among others when they are run.
    """
    dirs = [d for d in (*own.split(":"), *SYSTEM_PATH.split(":")) if d.startswith("/")]
    unique = list(dict.fromkeys(os.path.normpath(d) for d in dirs))
    return tuple(sorted(unique, key=lambda d: os.path.basename(d) == "shims"))


class Collector:
    """Gathers programs into `inventory`; `libraries` are the paths of all libraries found."""

    def __init__(self, dirs: tuple[str, ...], finder: LibraryFinder | None = None) -> None:
        self.inventory = Inventory()
        self.libraries: dict[str, None] = {}
        self.programs: dict[str, None] = {}
        self.interpreters: dict[tuple[str, int, bool], str] = {}
        self.folders_of_libraries: dict[str, None] = {}
        self._dirs = dirs
        self._finder = finder or LibraryFinder()
        self._machine = os.uname().machine
        self._done: set[str] = set()

    @property
    def is_glibc(self) -> bool:
        """Whether any program uses glibc's loader, which reads /etc/ld.so.cache."""
        return any("ld-musl-" not in path for path in self.interpreters.values())

    def find(self, name: str) -> str | None:
        """The absolute path of an executable `name`; a name with a slash is taken as a path."""
        if "/" in name:
            return absolute(name)
        for folder in self._dirs:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def ask(self, *argv: str) -> str:
        """What a program of a known family prints about itself; "" (and a warning) on failure."""
        env = {"PATH": ":".join(self._dirs), "LC_ALL": "C", "HOME": "/"}
        try:
            done = subprocess.run(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_ASK_TIMEOUT_S,
                check=True,
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError) as error:
            self.inventory.warnings.append(f"{argv[0]}: cannot ask it for its files: {error}")
            return ""
        return os.fsdecode(done.stdout)

    def add_program(self, name: str, *, asker: str = "", optional: bool = False) -> bool:
        """Add a program by name or path, with all that it needs. False when there is none.

        A missing one is a problem, or for an `optional` one nothing. `asker` is who needs it.
        """
        path = self.find(name)
        prefix = f"{asker}: needs " if asker else ""
        if path is None or (optional and not os.path.exists(path)):
            if not optional:
                self.inventory.problems.append(f"{prefix}{name}: no such program on PATH")
            return False
        problem = self._why_not_runnable(path)
        if problem:
            self.inventory.problems.append(f"{prefix}{path}: {problem}")
            return False
        self._add_executable(path, 0)
        return True

    def _why_not_runnable(self, path: str) -> str:
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if os.path.islink(path) and isinstance(error, FileNotFoundError):
                return f"is a symbolic link to {os.readlink(path)}, which is missing"
            return (error.strerror or "cannot be read").lower()
        if stat.S_ISDIR(mode):
            return "is a directory"
        if not stat.S_ISREG(mode):
            return "is not a regular file"
        if not mode & 0o111:
            return f"is not executable (mode {stat.S_IMODE(mode):04o})"
        return ""

    def _add_executable(self, path: str, depth: int) -> None:
        real = self.inventory.add(path)
        if real in self._done or not os.access(real, os.R_OK):
            return
        self._done.add(real)
        self.programs[path] = None
        with open(real, "rb") as file:
            head = file.read(256)
        script = read_shebang(head)
        if script is not None:
            self._add_script(path, *script, depth)
        elif head[:4] == MAGIC:
            self._add_elf(path, self.inventory.problems)
        else:
            self.inventory.problems.append(f"{path}: is neither an ELF program nor a #! script")
            return
        evident.add_for_program(self, path, real)

    def _add_script(self, path: str, interpreter: str, argument: str, depth: int) -> None:
        problems = self.inventory.problems
        if not interpreter:
            problems.append(f"{path}: its #! line names no interpreter")
            return
        if depth >= _SCRIPT_DEPTH:
            problems.append(f"{path}: more than {_SCRIPT_DEPTH} scripts interpret each other")
            return
        why = "must be an absolute path" if not interpreter.startswith("/") else ""
        why = why or self._why_not_runnable(interpreter)
        if why:
            hint = " (the file has carriage returns)" if interpreter.endswith("\r") else ""
            shown = interpreter.rstrip("\r")
            problems.append(f"{path}: its script interpreter {shown}: {why}{hint}")
            return
        self._add_executable(interpreter, depth + 1)
        started = interpreter
        if os.path.basename(interpreter) == "env":
            named = env_target(argument)
            found = self.find(named) if named else None
            if found is None or self._why_not_runnable(found):
                problems.append(f"{path}: needs {named or 'a program'}, which is not on PATH")
                return
            self._add_executable(found, depth + 1)
            started = found
        evident.add_for_script(self, path, started)

    def _add_elf(self, path: str, complaints: list[str], beside: Set[str] = frozenset()) -> None:
        """Add the loader and the libraries of one ELF file; complaints go where they belong.

        `beside` are names of libraries that come along and that a program may have loaded first.
        """
        try:
            elf = self._finder.read(path)
        except (OSError, ElfError) as error:
            complaints.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
            return
        if elf is None:
            return
        head = elf.head
        if not host_runs(head.machine, self._machine):
            complaints.append(f"{path}: is for {head.machine}, this host is {self._machine}")
            return
        if not head.runnable:
            return
        if head.machine in ("i386", "x32", "arm") and head.machine != self._machine:
            text = f"{path}: is for {head.machine}, whose system calls seccomp filters refuse"
            self.inventory.warnings.append(text)
        if head.interpreter:
            self._add_loader(path, elf, complaints)
        loader = head.interpreter or self.interpreters.get(head.family, "")
        closure = self._finder.closure(path, elf, interpreter=loader, loaded=beside)
        complaints += closure.problems
        for library in closure.libraries:
            self._add_library(library.path, elf)

    def _add_loader(self, path: str, elf: ElfFile, complaints: list[str]) -> None:
        loader = elf.head.interpreter
        try:
            found = self._finder.read(loader)
            wrong = found is None or found.head.family != elf.head.family
            if wrong:
                complaints.append(f"{path}: its interpreter {loader} is for another machine")
            self.inventory.add(loader)
        except FileNotFoundError:
            complaints.append(f"{path}: its interpreter {loader} is missing on this host")
        except (OSError, ElfError) as error:
            complaints.append(f"{path}: its interpreter {loader} cannot be used: {error}")
        else:
            self.interpreters.setdefault(elf.head.family, loader)
        if "ld-musl-" in loader:
            arch = os.path.basename(loader).removeprefix("ld-musl-").split(".so", 1)[0]
            self.inventory.add_if_present(f"/etc/ld-musl-{arch}.path")

    def _add_library(self, path: str, asker: ElfFile) -> None:
        if path in self.libraries:
            return
        self.libraries[path] = None
        self.inventory.add(path)
        folder = self._finder.conf_dir_of(path, asker.head)
        if folder is not None:
            self.inventory.add(folder)
            self.folders_of_libraries[folder] = None
        evident.add_for_library(self, path)

    def add_file(self, path: str) -> None:
        """Add one file that a program evidently needs, if it exists; libraries come along."""
        if os.path.isfile(path) and os.access(path, os.R_OK):
            self.inventory.add(path)
            self._add_plugins([path])

    def add_tree(
        self, path: str, *, skip: Callable[[str], bool] = lambda _: False, inside: str = ""
    ) -> None:
        """Add a directory (or file) with the libraries of the ELF files in it.

        Libraries that are missing there are warnings: plugins that are never loaded are common.
        """
        if os.path.exists(path):
            self._add_plugins(self.inventory.add_tree(path, skip=skip, inside=inside))

    def _add_plugins(self, files: Sequence[str]) -> None:
        beside = {os.path.basename(path) for path in files}
        for path in files:
            real = os.path.realpath(path)
            if real in self._done or path.endswith(_NEVER_ELF):
                continue
            self._done.add(real)
            try:
                with open(path, "rb") as file:
                    is_elf = file.read(4) == MAGIC
            except OSError:
                continue
            if is_elf:
                self._add_elf(path, self.inventory.warnings, beside)

    def add_link_target(self, name: str) -> None:
        """Add a program found next to others under another name, if this host has it."""
        path = shutil.which(name, path=":".join(self._dirs))
        if path is not None:
            self._add_executable(path, 0)
