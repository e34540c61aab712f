"""Imports go one way, and a plain run imports only what it uses."""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.linux.paths import native, policies_dir
from tests.support.living import living

PACKAGE = Path(sandbox.__file__).parent

# Each room and the rooms that it may import from.
LEAVES = {"errors", "record"}
LINUX = LEAVES | {"linux"}
POLICY = LINUX | {"policy"}
TABLE = {
    "errors": {"errors"},
    "record": {"record"},
    "linux": LINUX,
    "policy": POLICY,
    "host": POLICY | {"host"},
    "seccomp": POLICY | {"seccomp"},
    "plan": POLICY | {"host", "seccomp", "plan"},
    "launcher": POLICY | {"host", "seccomp", "plan", "launcher"},
    "services": POLICY | {"host", "seccomp", "plan", "launcher", "services"},
    "runtime": POLICY | {"host", "seccomp", "plan", "launcher", "services", "runtime"},
}
BELOW = set(TABLE)
TABLE |= {"oci": BELOW | {"oci"}, "cli": BELOW | {"oci", "cli"}, "api": BELOW | {"oci", "api"}}
TABLE |= {"__init__": {*BELOW, "api"}, "__main__": {"cli"}}

# What starting a sandbox must never import: each costs more than the launcher's whole work.
HEAVY = {
    *(
        "argparse",
        "asyncio",
        "click",
        "contextlib",
        "ctypes",
        "dataclasses",
        "datetime",
        "elftools",
    ),
    *("enum", "hashlib", "importlib.metadata", "inspect", "json", "logging", "msgspec", "pathlib"),
    *("re", "selectors", "shutil", "socket", "subprocess", "tempfile", "threading", "tomllib"),
    "typing",
}

# Of sbx-idmap, which is the payload here: any static program will do.
PAYLOAD_SAYS = "sbx-idmap: command: expected -- COMMAND"

# Modules of ours that a plain run with a warm cache uses, and no others; then those of others.
START_PATH = Path(__file__).parent / "start_path.txt"
LIVING_PATHS = {name: START_PATH.with_name(f"start_path_{name}.txt") for name in ("ps", "exec")}
# Commands that do without click, and their exit codes.
OTHERS = (
    *((f"{words} imports", 0) for words in ("inspect", "logs", "top", "kill -s WINCH")),
    *((f"{words} imports", 0) for words in ("pause", "unpause", "rename imports")),
    *((f"{words} nobody", 125) for words in ("stop -t 0", "rm", "wait")),
)


def sources() -> list[Path]:
    """Every module of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def room(path: Path) -> str:
    """The room of a file: its first folder below the package, or its own name."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            if node.module == "sandbox":
                for alias in node.names:
                    yield node.lineno, f"sandbox.{alias.name}"
            elif node.module:
                yield node.lineno, node.module


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = room(path)
    wrong = []
    for line, module in imported(path):
        parts = module.split(".")
        target = parts[1] if parts[0] == "sandbox" and len(parts) > 1 else ""
        if target and target not in TABLE[own]:
            wrong.append(f"{path}:{line}: {own} may not import {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["policy", "plan"])
def test_the_pure_rooms_touch_nothing(name: str) -> None:
    refused = {"subprocess", "ctypes", "socket", "tempfile", "shutil"}
    if name == "plan":
        refused |= {"tomllib", "fcntl"}
    for path in sources():
        if room(path) == name:
            found = {module.partition(".")[0] for _, module in imported(path)}
            assert not found & refused, path


def run_imports(script: str, *, said: str = "") -> set[str]:
    """The modules that are loaded after `script`, in a fresh interpreter without coverage; what is
    `said` on stderr has to be."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    whole = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{script}\n"
        "print('MODULES', *sorted(sys.modules))"
    )
    command = [sys.executable, "-I", "-S", "-c", whole]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.fixture(scope="module")
def run_modules(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of one plain run with warm caches."""
    home = tmp_path_factory.mktemp("imports")
    home.chmod(0o755)  # root's sandbox is another user
    (home / "bin").mkdir()
    shutil.copy(native("sbx-idmap"), home / "bin" / "payload")
    script = f"""
import os
os.environ.update(HOME={str(home)!r}, XDG_CACHE_HOME={str(home / "cache")!r}, PATH="/usr/bin:/bin")
from sandbox.cli.main import main
def once():
    return main(["run", "--quiet", "--policy", "strict", {str(home)!r}, "/bin/payload"])
"""
    first = run_imports(script + "once()", said=PAYLOAD_SAYS)
    assert "sandbox.cli.commands.run" in first
    # A policy file that has only just been installed is not cached: it may change again unseen.
    newest = max(path.stat().st_ctime for path in Path(policies_dir()).glob("*.toml"))
    while time.time() < newest + 2:
        time.sleep(0.05)
    run_imports(script + "once()", said=PAYLOAD_SAYS)
    return run_imports(script + "once()", said=PAYLOAD_SAYS)


def test_a_run_imports_nothing_heavy(run_modules: set[str]) -> None:
    base = run_imports("")
    heavy = (run_modules - base) & HEAVY
    assert not heavy


def test_the_modules_of_a_run_are_these(run_modules: set[str]) -> None:
    own = sorted(name for name in run_modules if name.partition(".")[0] == "sandbox")
    expected = START_PATH.read_text().split()
    assert own == expected, f"if this is wanted, {START_PATH.name} is to hold: {own}"


@pytest.fixture(scope="module")
def living_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """The modules of commands that act on a living sandbox, each in a process of its own."""
    home = tmp_path_factory.mktemp("living")
    (home / "bin").mkdir()
    shutil.copy(native("sbx-idmap"), home / "bin" / "payload")
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PATH": "/usr/bin:/bin"}
    script = f"""
import os
os.environ.update({places!r})
os.environ.pop("XDG_RUNTIME_DIR", None)
from sandbox.cli.main import main
"""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places.items():
            patch.setenv(name, value)
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        with living(home, name="imports"):
            yield {
                "ps": run_imports(script + "assert main(['ps', '-a']) == 0"),
                "exec": run_imports(
                    script + "main(['exec', 'imports', '/bin/payload'])", said=PAYLOAD_SAYS
                ),
                "others": run_imports(
                    f"{script}for words, code in {OTHERS!r}: assert main(words.split()) == code"
                ),
            }


def test_commands_on_the_living_import_nothing_heavy(
    living_modules: dict[str, set[str]],
) -> None:
    base = run_imports("")
    for name in ("ps", "exec"):
        assert not (living_modules[name] - base) & HEAVY, name
    assert "click" not in living_modules["others"]


@pytest.mark.parametrize("name", sorted(LIVING_PATHS))
def test_the_modules_of_commands_on_the_living_are_these(
    living_modules: dict[str, set[str]], name: str
) -> None:
    own = sorted(one for one in living_modules[name] if one.partition(".")[0] == "sandbox")
    expected = LIVING_PATHS[name].read_text().split()
    assert own == expected, f"if this is wanted, {LIVING_PATHS[name].name} is to hold: {own}"


def test_importing_the_package_is_light() -> None:
    heavy = (run_imports("import sandbox") - run_imports("")) & HEAVY
    assert not heavy
