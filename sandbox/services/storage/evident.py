"""What programs and libraries need at run time without linking to it, as small tables.

Owns knowledge of families: Python's standard library, Perl's modules, a compiler's passes, start
files and headers, git's subcommands, Java's modules, terminal descriptions, certificates.
Programs of a known family are run with fixed arguments to learn where their files are; no other
program is ever run.
"""

from __future__ import annotations

import os
import re

from sandbox.services.storage.inventory import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.services.storage.collect import Collector

    ProgramNeed = Callable[[Collector, str], None]

_TERMS = ("dumb", "linux", "screen", "screen-256color", "tmux", "vt100", "xterm", "xterm-256color")
_TERMINFO_DIRS = ("/etc/terminfo", "/lib/terminfo", "/usr/lib/terminfo", "/usr/share/terminfo")
_CERTIFICATES = (
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/usr/lib/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
)
_MAGIC = ("/etc/magic", "/etc/magic.mime", "/usr/share/misc/magic.mgc", "/usr/share/file/magic.mgc")

# The C library's headers and development files, as glibc and the kernel's user API install them.
_LIBC_HEADERS = words(
    """aio aliases alloca ar argp argz assert byteswap complex cpio crypt ctype dirent dlfcn elf
    endian envz err errno error execinfo fcntl features-time64 features fenv fmtmsg fnmatch fstab
    fts ftw gconv getopt glob gnu-versions grp gshadow iconv ifaddrs inttypes langinfo lastlog
    libgen libintl limits link locale malloc math mcheck memory mntent monetary mqueue netdb
    nl_types nss obstack paths poll printf proc_service pthread pty pwd re_comp regex regexp
    resolv sched search semaphore setjmp sgtty shadow signal spawn stab stdc-predef stdint stdio
    stdio_ext stdlib string strings syscall sysexits syslog tar termio termios tgmath thread_db
    threads time ttyent uchar ucontext ulimit unistd utime utmp utmpx values wait wchar wctype
    wordexp zlib zconf"""
)
_LIBC_HEADER_DIRS = words(
    """arpa asm asm-generic bits gnu linux misc mtd net netash netatalk netax25 neteconet netinet
    netipx netiucv netpacket netrom netrose nfs protocols rdma rpc scsi sound sys video xen"""
)
_LIBC_DEV = re.compile(
    r"(?:[MSgr]|gr|rc|gc)?crt[1in]\.o|libc_nonshared\.a|libpthread_nonshared\.a|"
    r"lib(?:c|m|m-[\d.]+|mvec|pthread|dl|rt|util|resolv|crypt|anl|g|z)\.(?:a|so)"
)
_OTHER_LANGUAGES = re.compile(
    r"/(?:lto-dump|f951|gnat1|d21|go1|cc1obj|cc1objplus|gm2|crab1|cc1gm2|"
    r"lib(?:asan|tsan|lsan|ubsan|hwasan)(?:_preinit)?\.(?:a|o|so)|"
    r"libobjc\w*\.a|libgo\w*\.a|libgphobos\.a|libgdruntime\.a|libgfortran\.a|plugin|finclude|"
    r"adalib|adainclude)$"
)
_LINKER_SCRIPT_PATH = re.compile(rb"(?<![\w.])/[\w./+-]+")

_ASK_PYTHON = """
import os, sys, sysconfig
paths = sysconfig.get_paths()
version = "python%d.%d" % sys.version_info[:2]
multiarch = sysconfig.get_config_var("MULTIARCH") or "."
for name in ("stdlib", "platstdlib"):
    print("tree", paths[name])
for name in ("include", "platinclude"):
    print("tree", paths[name])
print("tree", os.path.join("/usr/include", multiarch, version) if multiarch != "." else "")
print("file", os.path.join(sys.prefix, "pyvenv.cfg"))
if sys.prefix != sys.base_prefix:
    print("program", getattr(sys, "_base_executable", "") or "")
"""

# Top-level modules that a script imports, with the distributions that they belong to and their
# requirements: what of site-packages this script can reach.
_ASK_PYTHON_SCRIPT = """
import ast, importlib.metadata, importlib.util, re, sys
with open(sys.argv[1], "rb") as file:
    nodes = list(ast.walk(ast.parse(file.read())))
modules = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
modules += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level]
modules = {name.split(".")[0] for name in modules}
if "pip" in modules:
    modules |= {"setuptools", "wheel"}  # what pip builds source distributions with
homes = importlib.metadata.packages_distributions()
todo = [home for name in modules for home in homes.get(name, ())]
seen = set()
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    print("tree", getattr(found, "_path", ""))
    modules.update(top for top, owners in homes.items() if found.metadata["Name"] in owners)
    for line in found.requires or ():
        if "extra" not in line.partition(";")[2]:
            todo.append(re.match(r"[A-Za-z0-9._-]+", line).group())
for name in sorted(modules - set(sys.stdlib_module_names)):
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        continue
    for place in (spec.submodule_search_locations or [spec.origin]) if spec else ():
        print("tree", place)
"""


def add_for_program(collector: Collector, path: str, real: str) -> None:
    """Add what the program at `path`, really `real`, needs by its family's rules."""
    names = {os.path.basename(path), os.path.basename(real)}
    for pattern, add in _PROGRAM_NEEDS:
        if any(pattern.fullmatch(name) for name in names):
            add(collector, path)
            return


def add_for_script(collector: Collector, path: str, interpreter: str) -> None:
    """Add the modules that the script at `path` imports from outside its standard library."""
    name = os.path.basename(os.path.realpath(interpreter))
    if _PYTHON.fullmatch(name):
        _add_answer(collector, collector.ask(interpreter, "-I", "-c", _ASK_PYTHON_SCRIPT, path))
    elif _PERL.fullmatch(name):
        for folder in _perl_dirs(collector, interpreter):
            collector.add_tree(folder)


def add_for_library(collector: Collector, path: str) -> None:
    """Add the data files of one library in the closure."""
    name = os.path.basename(path)
    for prefixes, paths in _LIBRARY_NEEDS:
        if name.startswith(prefixes):
            for needed in paths:
                collector.add_tree(needed) if os.path.isdir(needed) else collector.add_file(needed)
    if name.startswith("libc.so."):
        collector.add_file(os.path.join(os.path.dirname(path), "libnss_files.so.2"))
        collector.add_file(os.path.join(os.path.dirname(path), "libnss_dns.so.2"))
        # Threads that end or are cancelled load it by name.
        collector.add_file(os.path.join(os.path.dirname(path), "libgcc_s.so.1"))


def _add_answer(collector: Collector, answer: str) -> None:
    for line in answer.splitlines():
        kind, _, path = line.partition(" ")
        if not path.startswith("/") or not os.path.exists(path):
            continue
        if kind == "program":
            collector.add_program(path)
        elif kind == "tree" and not os.path.isfile(path):
            collector.add_tree(path, skip=_is_optional_python)
        else:
            collector.add_file(path)


def _is_optional_python(path: str) -> bool:
    name = os.path.basename(path)
    if name in ("site-packages", "dist-packages"):
        return True
    in_stdlib = re.fullmatch(r"python3\.\d+t?", os.path.basename(os.path.dirname(path))) is not None
    return name.endswith(".a") or (in_stdlib and name in ("test", "idlelib", "turtledemo"))


def _add_python(collector: Collector, path: str) -> None:
    _add_answer(collector, collector.ask(path, "-I", "-c", _ASK_PYTHON))
    _add_shell(collector, path)


def _perl_dirs(collector: Collector, path: str) -> tuple[str, ...]:
    lines = collector.ask(path, "-e", r'print "$_\n" for @INC').splitlines()
    return tuple(line for line in lines if line.startswith("/") and os.path.isdir(line))


def _add_perl(collector: Collector, path: str) -> None:
    # Modules of other packages are what a script asks for, not the interpreter.
    keys = "sitelibexp sitearchexp vendorlibexp vendorarchexp"
    ask = f'use Config; print "$Config{{$_}}\\n" for qw({keys})'
    added = set(collector.ask(path, "-e", ask).splitlines())
    for folder in _perl_dirs(collector, path):
        if folder not in added and not folder.startswith("/usr/local/"):
            collector.add_tree(folder, skip=lambda name: name.endswith((".pod", ".a")))
    _add_shell(collector, path)


def _add_shell(collector: Collector, path: str) -> None:
    collector.add_program("/bin/sh", asker=path)


def _add_git(collector: Collector, path: str) -> None:
    folder = collector.ask(path, "--exec-path").strip()
    if folder.startswith("/"):
        collector.add_tree(folder)
    collector.add_tree("/usr/share/git-core/templates")
    _add_shell(collector, path)


def _add_java(collector: Collector, path: str) -> None:
    home = os.path.dirname(os.path.dirname(os.path.realpath(path)))
    if not os.path.isfile(os.path.join(home, "lib/jvm.cfg")):
        return
    collector.add_tree(os.path.join(home, "lib"), skip=lambda name: name.endswith("/src.zip"))
    collector.add_tree(os.path.join(home, "conf"))
    collector.add_file(os.path.join(home, "release"))


def _add_compiler(collector: Collector, path: str) -> None:
    is_cplusplus = "++" in os.path.basename(os.path.realpath(path))
    passes = ("cc1", "collect2", "lto-wrapper", "lto1", "as", "ld")
    for name in (*passes, "cc1plus") if is_cplusplus else passes:
        found = collector.ask(path, f"-print-prog-name={name}").strip()
        collector.add_program(found or name, asker=path, optional=True)
    for name in ("crtbegin.o", "crt1.o", "liblto_plugin.so"):
        found = collector.ask(path, f"-print-file-name={name}").strip()
        if not os.path.isabs(found):
            continue
        folder = os.path.dirname(found)
        if name == "crtbegin.o":
            collector.add_tree(folder, skip=lambda p: _is_other_compiler(p, is_cplusplus))
        elif name == "crt1.o":
            _add_libc_files(collector, folder)
        else:
            collector.add_file(found)
    if "clang" in os.path.basename(os.path.realpath(path)):
        resources = collector.ask(path, "-print-resource-dir").strip()
        collector.add_tree(os.path.join(resources, "include"))
    machine = collector.ask(path, "-dumpmachine").strip()
    for tool in ("g++", "c++") if is_cplusplus else ("gcc",):
        collector.add_link_target(f"{machine}-{tool}")
    _add_headers(collector, path, "c++" if is_cplusplus else "c")


def _is_other_compiler(path: str, is_cplusplus: bool) -> bool:
    if not is_cplusplus and os.path.basename(path) in (
        "cc1plus",
        "g++-mapper-server",
        "libstdc++.a",
        "libstdc++fs.a",
        "libsupc++.a",
    ):
        return True
    return _OTHER_LANGUAGES.search(path) is not None


def _add_libc_files(collector: Collector, folder: str) -> None:
    for name in sorted(os.listdir(folder)):
        if not _LIBC_DEV.fullmatch(name):
            continue
        path = os.path.join(folder, name)
        collector.add_file(path)
        with open(path, "rb") as file:
            text = file.read(4096)
        # A linker script names the real files; archives and objects start with a magic number.
        if text[:2] == b"/*" or text[:5] == b"GROUP":
            for found in _LINKER_SCRIPT_PATH.findall(text):
                collector.add_file(os.fsdecode(found))


def _add_headers(collector: Collector, path: str, language: str) -> None:
    shown = collector.ask(path, "-E", "-v", "-x", language, os.devnull)
    listing = shown.partition("#include <...>")[2].partition("End of search list")[0]
    for line in listing.splitlines()[1:]:
        folder = os.path.normpath(line.strip())
        if not os.path.isdir(folder) or folder.startswith("/usr/local/"):
            continue
        if "/gcc/" in folder or "/clang/" in folder or "/c++/" in folder:
            collector.add_tree(folder)
            continue
        for name in sorted(os.listdir(folder)):
            if name.removesuffix(".h") in _LIBC_HEADERS or name in _LIBC_HEADER_DIRS:
                collector.add_tree(os.path.join(folder, name))


_PYTHON = re.compile(r"python(?:3(?:\.\d+)?t?)?")
_PERL = re.compile(r"perl(?:5[\d.]*)?")
_PROGRAM_NEEDS: tuple[tuple[re.Pattern[str], ProgramNeed], ...] = (
    (_PYTHON, _add_python),
    (_PERL, _add_perl),
    (re.compile(r"git"), _add_git),
    (re.compile(r"java|javac|javadoc|javap|jar|jdeps|jlink|jshell|keytool"), _add_java),
    (re.compile(r"(?:[\w-]+-)?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-\d+)?"), _add_compiler),
    (re.compile(r"g?make|[mg]?awk|vi|vim[\w.]*|man|xargs|nvi"), _add_shell),
)
_LIBRARY_NEEDS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("libtinfo", "libncurses"),
        tuple(f"{folder}/{term[0]}/{term}" for folder in _TERMINFO_DIRS for term in _TERMS),
    ),
    (("libssl.", "libgnutls."), _CERTIFICATES),
    (("libmagic.",), _MAGIC),
)
