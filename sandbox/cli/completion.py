"""Completion in bash, zsh and fish: the scripts, the answers, and what an argument may be.

Click knows the commands and options; here is what the shells need besides.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from sandbox.cli import render
from sandbox.cli.groups import Command
from sandbox.errors import SbxError

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType

VARIABLE = "_SBX_COMPLETE"


def files(incomplete: str, kind: str = "file") -> list[CompletionItem]:
    """Let the shell itself complete a path; `kind` is "file" or "dir"."""
    return [CompletionItem(incomplete, type=kind)]


class Text(_ParamType):
    """Text taken as it stands; only completion knows what kind it is."""

    def __init__(self, name: str, choices: tuple[str, ...] = (), complete: str = "") -> None:
        self.name = name
        self.choices = choices
        self.complete = complete

    def convert(self, value: Any, _param: object, _ctx: object) -> Any:
        return value

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if self.complete in {"file", "dir"}:
            return files(incomplete, self.complete)
        choices = self.choices
        if self.complete == "policy":
            choices = _policy_names()
            if "/" in incomplete:
                return files(incomplete)
        if self.complete in {"sandbox", "living"}:
            choices = _sandbox_names(dead=self.complete == "sandbox")
        return [CompletionItem(name) for name in choices if name.startswith(incomplete)]


def _sandbox_names(*, dead: bool) -> tuple[str, ...]:
    registry = import_module("sandbox.runtime.registry")
    names = []
    for folder in registry.everyone():
        if dead or folder.lives():
            names.append(folder.name)
        folder.close()
    return tuple(names)


def _policy_names() -> tuple[str, ...]:
    load = import_module("sandbox.policy.load")
    return tuple(load.names(load.search_path()))


class _Answer(ShellComplete):
    """What all shells share: `help` completes like the command that it is about."""

    # Whether the shell takes --name=value as one word, which a completion replaces.
    whole_words = True

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        if args[:1] == ["help"]:
            args = args[1:]
        found = super().get_completions(args, incomplete)
        name, equals, _value = incomplete.partition("=")
        if self.whole_words and equals and name.startswith("--"):
            for item in found:
                item.value = f"{name}={item.value}" if item.type == "plain" else item.value
        return found


class _Bash(_Answer, BashComplete):
    whole_words = False
    # What is to follow NAME= follows at once.
    source_template = BashComplete.source_template.replace(
        "    return 0", '    [[ "${COMPREPLY[*]}" != *= ]] || compopt -o nospace\n    return 0'
    )

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        # What stands before the last "=" or ":" is a word that stays.
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        before = value[: max(value.rfind("="), value.rfind(":")) + 1]
        found = super().get_completions(args, incomplete)
        for item in found:
            item.value = item.value.removeprefix(before) if item.type == "plain" else item.value
        return found

    def _check_version(self) -> None:  # type: ignore[override]
        """Starts no bash to ask: the script needs 4.4, of 2016."""

    def get_completion_args(self) -> tuple[list[str], str]:
        # bash takes "=" and ":" for words of their own (COMP_WORDBREAKS).
        given = os.environ["COMP_WORDS"].split("\n")[1 : int(os.environ["COMP_CWORD"]) + 1]
        words = ["".join(split_arg_string(word)) for word in given]
        joined: list[str] = []
        for index, word in enumerate(words):
            glued = index and (word in {"=", ":"} or words[index - 1] in {"=", ":"})
            if glued and joined:
                joined[-1] += word
            else:
                joined.append(word)
        return joined[:-1], joined[-1] if joined else ""


class _Zsh(_Answer, ZshComplete):
    pass


class _Fish(_Answer, FishComplete):
    # The description may hold a comma as well.
    source_template = FishComplete.source_template.replace(
        'string split "," $completion', 'string split --max 1 "," $completion'
    )


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def answer(group: click.Group) -> int:
    """Answer the request that is in the environment; a wrong line has no completions."""
    shell, _, instruction = os.environ[VARIABLE].partition("_")
    if shell not in SHELLS or instruction != "complete":
        return 1
    try:
        text = SHELLS[shell](group, {}, "sbx", VARIABLE).complete()
    except (SbxError, click.ClickException, KeyError, ValueError):
        return 1
    render.show_text(text)
    return 0


@click.command("completion", cls=Command, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print the completion script of SHELL.

    \b
    bash:  eval "$(sbx completion bash)"
    zsh:   eval "$(sbx completion zsh)"
    fish:  sbx completion fish | source
    """
    asked = SHELLS[shell](click.Group(), {}, "sbx", VARIABLE)
    render.show_text(asked.source())
    return 0
