"""The completion scripts, loaded by the shells themselves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Sbx

# What the shell offers for a line, whose words are the arguments, one candidate a line.
BASH = """
eval "$(sbx completion bash)" || exit 9
complete -p sbx >/dev/null || exit 8
compopt() { echo "<$2>"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_sbx_completion sbx "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
autoload -Uz compinit; compinit -D -u
eval "$(sbx completion zsh)" || exit 9
[[ $_comps[sbx] == _sbx_completion ]] || exit 8
compadd() { print -l -- ${(P)@[-1]} }
_describe() { print -l -- ${${(P)3}%%:*} }
_path_files() { print -- "<$1>" }
words=("$@"); CURRENT=$#
_sbx_completion
"""
FISH = """
sbx completion fish | source || exit 9
complete -C (string join -- ' ' $argv) | string replace -r '\\t.*' ''
true
"""
SHELLS = {"bash": (BASH, "--norc"), "zsh": (ZSH, "-f"), "fish": (FISH, "--no-config")}


def offered(sbx: Sbx, shell: str, line: list[str], cwd: Path) -> list[str]:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script, bare = SHELLS[shell]
    path = f"{Path(sbx.path).parent}{os.pathsep}{os.environ['PATH']}"
    zero = [] if shell == "fish" else ["sh"]
    done = subprocess.run(
        [shell, bare, "-c", script, *zero, "sbx", *line], env={**sbx.env, "PATH": path},
        capture_output=True, text=True, cwd=cwd, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ru", ["run"]),
        ("run --polic", ["--policy"]),
        ("run --policy stri", ["strict"]),
        ("run -it --network h", ["host"]),
        ("policy sho", ["show"]),
        ("policy show stri", ["strict"]),
        ("help ru", ["run"]),
        ("run --storage co", ["copy"]),
        ("run --cap-add NET_A", ["NET_ADMIN"]),
        ("run --security-opt no", ["no-new-privileges"]),
    ],
)
def test_words(sbx: Sbx, tmp_path: Path, shell: str, line: str, wanted: list[str]) -> None:
    assert offered(sbx, shell, line.split(), tmp_path) == wanted


@pytest.mark.parametrize(
    ("shell", "line", "wanted"),
    [
        ("bash", ["run", "--policy", "=", "stri"], "strict"),
        ("zsh", ["run", "--policy=stri"], "--policy=strict"),
        ("fish", ["run", "--policy=stri"], "--policy=strict"),
    ],
)
def test_value_behind_an_equals_sign(
    sbx: Sbx, tmp_path: Path, shell: str, line: list[str], wanted: str
) -> None:
    assert offered(sbx, shell, line, tmp_path) == [wanted]


def test_name_and_value(sbx: Sbx, tmp_path: Path) -> None:
    """bash: "=" parts words, and no blank goes between a name and its value."""
    line = ["run", "--ulimit", "nof"]
    assert offered(sbx, "bash", line, tmp_path) == ["<nospace>", "nofile="]
    line = ["run", "--security-opt", "seccomp", "=", "un"]
    assert offered(sbx, "bash", line, tmp_path) == ["unconfined"]


@pytest.mark.parametrize(
    ("shell", "folder", "file"),
    [("bash", "<dirnames>", "<default>"), ("zsh", "<-/>", "<-f>"), ("fish", "root/", "rook")],
)
def test_paths(sbx: Sbx, tmp_path: Path, shell: str, folder: str, file: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "rook").write_text("")
    assert offered(sbx, shell, ["run", "ro"], tmp_path)[0] == folder
    assert file in offered(sbx, shell, ["run", "root", "ro"], tmp_path)
    assert "--policy" not in offered(sbx, shell, ["run", "root", "ls", "--pol"], tmp_path)
