"""Which files the dynamic loader would load for a program: the rules of glibc and musl.

Owns the search; reading one file is `sandbox.host.elf`. The environment (LD_LIBRARY_PATH,
LD_PRELOAD) and the hardware-specific subfolders are ignored on purpose: what is found must not
depend on the shell or the processor that sbx runs on. Sources: ld.so(8), ldconfig(8), and
musl's manual.
"""

from __future__ import annotations

import glob
import os

from sandbox.host.elf import ElfError, ElfFile, ElfHead, read_elf
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Set

_TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "x32": "x86_64-linux-gnux32",
    "i386": "i386-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
    "ppc64le": "powerpc64le-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "loongarch64": "loongarch64-linux-gnu",
}
_MUSL_OWN = ("c", "pthread", "rt", "m", "dl", "util", "xnet")
_MUSL_DEFAULT = ("/lib", "/usr/local/lib", "/usr/lib")
_INCLUDE_DEPTH = 8


class Library(Record):
    """One loaded file: `path` as the loader opens it, `name` as it was asked for."""

    name: str
    path: str


class Closure(Record):
    """All libraries of one program in loading order, and a line for each that is missing."""

    libraries: tuple[Library, ...]
    problems: tuple[str, ...]


class _Loaded(Record):
    path: str
    origin: str
    elf: ElfFile
    loader: _Loaded | None


class LibraryFinder:
    """Finds libraries on this host; remembers every file it has read.

    `conf` is ld.so.conf, `default_dirs` replaces the loader's built-in folders, `etc` is where
    `ld-musl-ARCH.path` lies.
    """

    def __init__(
        self,
        *,
        conf: str = "/etc/ld.so.conf",
        default_dirs: tuple[str, ...] | None = None,
        etc: str = "/etc",
    ) -> None:
        self._conf_dirs = read_ld_so_conf(conf)
        self._default_dirs = default_dirs
        self._etc = etc
        self._files: dict[str, ElfFile | str | None] = {}

    def read(self, path: str) -> ElfFile | None:
        """`read_elf` with memory. Raises OSError and ElfError the first and every later time."""
        if path not in self._files:
            try:
                self._files[path] = read_elf(path)
            except ElfError as error:
                self._files[path] = str(error)
        found = self._files[path]
        if isinstance(found, str):
            raise ElfError(found)
        return found

    def default_dirs(self, head: ElfHead) -> tuple[str, ...]:
        """The folders that a glibc loader for `head` searches without any configuration."""
        if self._default_dirs is not None:
            return self._default_dirs
        triplet = _TRIPLETS.get(head.machine)
        multiarch = (f"/lib/{triplet}", f"/usr/lib/{triplet}") if triplet else ()
        wide = ("/lib64", "/usr/lib64") if head.bits == 64 else ()
        if head.machine == "x32":
            wide = ("/libx32", "/usr/libx32")
        return (*multiarch, *wide, "/lib", "/usr/lib")

    def closure(
        self, path: str, elf: ElfFile, *, interpreter: str = "", loaded: Set[str] = frozenset()
    ) -> Closure:
        """The libraries of the program (or plugin) at `path`, breadth first as loaders do.

        `interpreter` decides between the rules of glibc and musl; it counts as loaded. Names in
        `loaded` are no problem where no folder has them: the loader takes one that it has already.
        """
        interpreter = interpreter or elf.head.interpreter
        musl = _musl_arch(interpreter)
        main = _Loaded(path, os.path.dirname(os.path.realpath(path)), elf, None)
        names = self._interpreter_names(interpreter)
        queue, problems = [main], list[str]()
        found: dict[str, Library] = {}
        for item in queue:
            for name in item.elf.needed:
                if name in names or (musl and _is_musl_own(name)):
                    continue
                names.add(name)
                hit, skipped = self._search(name, item, musl)
                if hit is None:
                    if name in loaded:
                        continue
                    problems.append(_missing(name, item.path, skipped))
                    continue
                if hit.elf.soname:
                    names.add(hit.elf.soname)
                if hit.path not in found:
                    found[hit.path] = Library(name, hit.path)
                    queue.append(hit)
        return Closure(tuple(found.values()), tuple(problems))

    def _interpreter_names(self, interpreter: str) -> set[str]:
        if not interpreter:
            return set()
        names = {os.path.basename(interpreter)}
        try:
            elf = self.read(interpreter)
        except (OSError, ElfError):
            return names
        return names | {elf.soname} if elf is not None and elf.soname else names

    def _search(self, name: str, item: _Loaded, musl: str) -> tuple[_Loaded | None, list[str]]:
        skipped: list[str] = []
        if "/" in name:
            candidates: Iterator[str] = iter(_expand(name, item))
        else:
            dirs = self._musl_dirs(item, musl) if musl else self._glibc_dirs(name, item)
            candidates = (os.path.join(folder, name) for folder in dirs)
        for candidate in candidates:
            if not candidate.startswith("/") or not os.path.isfile(candidate):
                continue
            try:
                elf = self.read(candidate)
            except (OSError, ElfError) as error:
                text = error.strerror if isinstance(error, OSError) else str(error)
                skipped.append(f"{candidate} cannot be used: {text}")
                continue
            if elf is None:
                skipped.append(f"{candidate} is not an ELF file")
            elif elf.head.family != item.elf.head.family:
                skipped.append(f"{candidate} is for {elf.head.machine} ({elf.head.bits}-bit)")
            else:
                return _Loaded(candidate, os.path.dirname(candidate), elf, item), skipped
        return None, skipped

    def _glibc_dirs(self, name: str, item: _Loaded) -> Iterator[str]:
        # A RUNPATH in the asking object switches the whole chain of RPATHs off, a RUNPATH in
        # one link of the chain only that link's RPATH.
        if not item.elf.runpath:
            link: _Loaded | None = item
            while link is not None:
                if not link.elf.runpath:
                    yield from _expand_all(link.elf.rpath, link)
                link = link.loader
        yield from _expand_all(item.elf.runpath, item)
        defaults = self.default_dirs(item.elf.head)
        usual = {os.path.realpath(folder) for folder in defaults}
        # ldconfig puts only such names into the cache; elsewhere they are not found.
        cached = name.startswith(("lib", "ld-")) and ".so" in name
        for folder in self._conf_dirs if cached else ():
            if not (item.elf.no_default_dirs and os.path.realpath(folder) in usual):
                yield folder
        if not item.elf.no_default_dirs:
            yield from defaults

    def _musl_dirs(self, item: _Loaded, arch: str) -> Iterator[str]:
        link: _Loaded | None = item
        while link is not None:
            yield from _expand_all(link.elf.runpath or link.elf.rpath, link)
            link = link.loader
        yield from read_musl_path(os.path.join(self._etc, f"ld-musl-{arch}.path"))

    def conf_dir_of(self, path: str, head: ElfHead) -> str | None:
        """The folder of ld.so.conf that alone makes `path` findable; None if it is not needed."""
        folder = os.path.dirname(path)
        real = os.path.realpath(folder)
        if real in {os.path.realpath(usual) for usual in self.default_dirs(head)}:
            return None
        return next((one for one in self._conf_dirs if os.path.realpath(one) == real), None)


def read_ld_so_conf(path: str, depth: int = 0) -> tuple[str, ...]:
    """The folders that ld.so.conf lists, its `include` globs followed; () when it is missing."""
    dirs: dict[str, None] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    for line in lines:
        text = line.split("#", 1)[0].strip()
        word, _, rest = text.replace("\t", " ").partition(" ")
        if word == "include" and depth < _INCLUDE_DEPTH:
            for pattern in rest.split():
                full = os.path.join(os.path.dirname(path), pattern)
                for included in sorted(glob.glob(full)):
                    dirs.update(dict.fromkeys(read_ld_so_conf(included, depth + 1)))
        elif word not in ("include", "hwcap"):
            for folder in text.replace(":", " ").replace(",", " ").split():
                if folder.startswith("/"):
                    dirs[folder.split("=", 1)[0].rstrip("/") or "/"] = None
    return tuple(dirs)


def read_musl_path(path: str) -> tuple[str, ...]:
    """The folders of an `ld-musl-ARCH.path` file (split at newline and ":"), or musl's own."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return _MUSL_DEFAULT
    return tuple(folder for folder in text.replace("\n", ":").split(":") if folder)


def _musl_arch(interpreter: str) -> str:
    """The ARCH of a musl loader's path, "" for other loaders."""
    base = os.path.basename(interpreter)
    if base.startswith("ld-musl-") and ".so" in base:
        return base.removeprefix("ld-musl-").split(".so", 1)[0]
    return ""


def _is_musl_own(name: str) -> bool:
    """Whether musl's loader itself stands for this library."""
    return name.startswith("lib") and name[3:].split(".", 1)[0] in _MUSL_OWN and "." in name


def _expand_all(entries: tuple[str, ...], item: _Loaded) -> Iterator[str]:
    for entry in entries:
        yield from _expand(entry, item)


def _expand(text: str, item: _Loaded) -> tuple[str, ...]:
    """Replace $ORIGIN, $LIB and $PLATFORM; $LIB has one value per distribution: try all."""
    for word, value in (("ORIGIN", item.origin), ("PLATFORM", item.elf.head.machine)):
        text = text.replace(f"${{{word}}}", value).replace(f"${word}", value)
    if "$" not in text:
        return (text,) if text else ()
    head = item.elf.head
    triplet = _TRIPLETS.get(head.machine)
    values = [f"lib/{triplet}"] if triplet else []
    values += ["lib64", "lib"] if head.bits == 64 else ["lib"]
    return tuple(
        dict.fromkeys(text.replace("${LIB}", value).replace("$LIB", value) for value in values)
    )


def _missing(name: str, asker: str, skipped: list[str]) -> str:
    why = f" ({'; '.join(skipped[:4])})" if skipped else ""
    return f"{asker}: needs {name}, which is nowhere on this host{why}"
