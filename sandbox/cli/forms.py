"""What each command accepts: its options, its arguments, and the function that it starts.

Both readers of a command line derive from it: `parse` (plain and fast) and `front` (click: help,
usage errors, completion). Commands that are not here are click's own. A function takes the Parsed
line and returns the exit code; its docstring is the help.
"""

from __future__ import annotations

import sys

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from sandbox.cli.parse import Parsed
    from sandbox.cli.values import Reader

    OptionKind = Literal["flag", "value", "repeat", "negatable"]
    Completion = Literal["", "file", "dir", "policy", "sandbox", "living"]


class Option(Record):
    """One option. `names`: the first long name identifies it, all are accepted.

    `kind`: "flag" takes no value; "value" takes one, the last given counts; "repeat" takes one
    each time; "negatable" is a flag that also exists as --no-NAME.
    `read` gives settings of the policy; `convert` checks the value of an option without one.
    `closed`: there is no value but those of `choices`, else they are what completion offers.
    """

    names: tuple[str, ...]
    kind: OptionKind
    group: str
    help: str
    metavar: str = ""
    read: Reader | None = None
    convert: Callable[[str], object] | None = None
    choices: tuple[str, ...] = ()
    complete: Completion = ""
    closed: bool = False

    @property
    def name(self) -> str:
        """The long name that stands for the option in messages and origins."""
        return next(name for name in self.names if name.startswith("--"))

    @property
    def takes_value(self) -> bool:
        """Whether a value follows."""
        return self.kind in {"value", "repeat"}

    @property
    def negative(self) -> str:
        """The name that switches a negatable option off."""
        return f"--no-{self.name[2:]}"


class Argument(Record):
    """What stands beside the options: one word, one or more ("some"), or none or more ("any")."""

    metavar: str
    count: Literal["one", "some", "any"] = "one"
    complete: Completion = ""


class Form(Record):
    """One command. `start` is "MODULE.FUNCTION" below sandbox.cli.commands.

    Where options are `free` they may stand anywhere; else they end at the first argument.
    """

    name: str
    start: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...] = ()
    free: bool = True

    def load(self) -> Callable[[Parsed], int]:
        """Import the function."""
        module, _, function = f"sandbox.cli.commands.{self.start}".rpartition(".")
        __import__(module)
        found: Callable[[Parsed], int] = getattr(sys.modules[module], function)
        return found


def _flag(names: str, help: str) -> Option:
    return Option(tuple(names.split()), "flag", "", help)


def _value(names: str, metavar: str, help: str, **more: object) -> Option:
    return Option(tuple(names.split()), "value", "", help, metavar, **more)  # type: ignore[arg-type]


def _format(*choices: str) -> Option:
    """--format, of which the first choice is what is shown without it."""
    return _value("--format", "|".join(choices), "How it is shown.", choices=choices, closed=True)


_DEBUG = _flag("--debug", "Show tracebacks and times.")
_SIGNALS = ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT", "WINCH")
_LIVING, _KNOWN = Argument("SANDBOX", complete="living"), Argument("SANDBOX", complete="sandbox")
_SOME_LIVING = Argument("SANDBOX...", "some", "living")
_SOME_KNOWN = Argument("SANDBOX...", "some", "sandbox")

_FORMS = (
    Form(
        "exec",
        "exec.main",
        (
            _flag("-d --detach", "Leave the command running in the background."),
            _flag("-i --interactive", "Connect the caller's standard input."),
            _flag("-t --tty", "Give the command a terminal of the sandbox's own."),
            Option(("-e", "--env"), "repeat", "", "Set a variable.", "NAME[=VALUE]"),
            _value("-w --workdir", "DIR", "The current folder inside."),
            _value("-u --user", "USER[:GROUP]", "The user inside."),
            _DEBUG,
        ),
        (_LIVING, Argument("COMMAND [ARG]...", "some")),
        free=False,
    ),
    Form(
        "attach",
        "attach.main",
        (
            _flag("--no-stdin", "Do not connect standard input."),
            _value(
                "--detach-keys",
                "KEYS",
                "What to type to leave it running; ctrl-p,ctrl-q when nothing is given.",
            ),
            _DEBUG,
        ),
        (_LIVING,),
    ),
    Form("wait", "control.wait", (_DEBUG,), (_SOME_KNOWN,)),
    Form(
        "kill",
        "control.kill",
        (
            _value(
                "-s --signal",
                "SIGNAL",
                "A name or a number; KILL when none is given.",
                choices=_SIGNALS,
            ),
            _DEBUG,
        ),
        (_SOME_LIVING,),
    ),
    Form(
        "stop",
        "control.stop",
        (
            _value(
                "-t --time --timeout",
                "SECONDS",
                "How long a command may take to end by itself; 10 when nothing is given.",
            ),
            _DEBUG,
        ),
        (_SOME_KNOWN,),
    ),
    Form("pause", "control.pause", (_DEBUG,), (_SOME_LIVING,)),
    Form("unpause", "control.unpause", (_DEBUG,), (_SOME_LIVING,)),
    Form("rename", "control.rename", (_DEBUG,), (_KNOWN, Argument("NAME"))),
    Form(
        "rm",
        "control.rm",
        (
            _flag(
                "-f --force", "Kill those that run; a SANDBOX that is not there is no error."
            ),
            _DEBUG,
        ),
        (_SOME_KNOWN,),
    ),
    Form("prune", "control.prune", (_flag("-f --force", "Do not ask."), _DEBUG)),
    Form(
        "ps",
        "ps.main",
        (
            _flag("-a --all", "Show those too that have ended."),
            _flag("-q --quiet", "Show ids alone."),
            _format("table", "json"),
            _DEBUG,
        ),
    ),
    Form(
        "logs",
        "logs.main",
        (
            _flag("-f --follow", "Go on until the sandbox has ended."),
            _value("-n --tail", "N|all", "Show the last N lines alone of what is there."),
            _value("--since", "TIME", "Show what came since then: 10m (ago) or a date."),
            _flag("-t --timestamps", "Show when each line began."),
            _flag("--raw", "Show control characters to the terminal as they are."),
            _DEBUG,
        ),
        (_KNOWN,),
    ),
    Form("inspect", "look.inspect", (_format("json", "text"), _DEBUG), (_SOME_KNOWN,)),
    Form("top", "look.top", (_format("table", "json"), _DEBUG), (_LIVING,)),
    Form(
        "stats",
        "look.stats",
        (
            _flag("--no-stream", "Show it once instead of every second."),
            _format("table", "json"),
            _DEBUG,
        ),
        (Argument("[SANDBOX]...", "any", "living"),),
    ),
    Form("port", "look.port", (_DEBUG,), (_KNOWN, Argument("[PORT[/PROTOCOL]]", "any"))),
)  # fmt: skip
_BY_NAME = {form.name: form for form in _FORMS}
LAUNCHING = ("run", "explain")
NAMES = (*LAUNCHING, *_BY_NAME)


def find_form(name: str) -> Form | None:
    """The form of a command; None for one of click's own, or none at all."""
    if name in LAUNCHING:
        from sandbox.cli.options import RUN_FORM  # with what a policy knows

        return RUN_FORM if name == "run" else RUN_FORM.replace(name=name, start="explain.main")
    return _BY_NAME.get(name)
