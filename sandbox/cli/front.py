"""The click side: help, usage errors, completion, and the commands that need no fast start.

Most commands are built from the same forms that `parse` reads. Click's own words never
reach the user: every error becomes a UsageError and is printed where all errors are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from sandbox.cli import completion, foreign
from sandbox.cli.forms import LAUNCHING, find_form
from sandbox.cli.groups import Command, CommandGroup, usage_hint
from sandbox.cli.options import GROUPS, RUN_OPTIONS
from sandbox.cli.parse import make_parsed
from sandbox.errors import UsageError

if TYPE_CHECKING:
    from sandbox.cli.forms import Argument, Form, Option
    from sandbox.cli.parse import Parsed, Raw


_RUN_HELP = """Run COMMAND in a sandbox whose root is the folder ROOTFS.

ROOTFS is never written. Options end at ROOTFS; everything after COMMAND belongs to it.
"""
_RUN_EPILOG = """\b
Exit codes: the command's own; 128+N when signal N ended it; 124 time limit;
125 sbx failed before the command ran, or its output could not be written;
126 not executable; 127 not found; 2 wrong usage.

\b
Examples:
  sbx run --policy strict ./rootfs python3 -c 'print(1)'
  sbx run -v ./src:/src -w /src ./rootfs make -j2
  sbx run -it ./rootfs bash
"""
_EXPLAIN_HELP = """Show what `sbx run` with the same arguments would do, and start nothing.

Every step names where it came from: a policy, an option, or sbx itself.
"""
_HELP = {"run": (_RUN_HELP, _RUN_EPILOG), "explain": (_EXPLAIN_HELP, "")}
# Sections of the help: each command, and what it does.
_SECTIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Run",
        (
            ("run", "Run a command in a sandbox."),
            ("exec", "Run a further command in a running sandbox."),
            ("cp", "Copy files into and out of a running sandbox."),
            ("explain", "Show the plan of a run and where each step comes from."),
        ),
    ),
    (
        "Living sandboxes",
        (
            ("attach", "Connect to the command of a sandbox in the background."),
            ("wait", "Wait for the end of sandboxes; print their exit codes."),
            ("stop", "End sandboxes, after a while by force."),
            ("kill", "Send a signal to sandboxes, KILL to all their processes."),
            ("pause", "Stop all processes of sandboxes for a while."),
            ("unpause", "Let paused sandboxes go on."),
            ("rename", "Give a sandbox another name."),
            ("rm", "Remove what is kept of sandboxes that have ended."),
            ("prune", "Remove all sandboxes that have ended."),
        ),
    ),
    (
        "Look",
        (
            ("ps", "List sandboxes."),
            ("logs", "Show the output of a sandbox in the background."),
            ("inspect", "Show everything that is known of sandboxes."),
            ("top", "List the processes of a sandbox."),
            ("stats", "Show what sandboxes use."),
            ("port", "List the published ports of a sandbox."),
            ("events", "Show what happens to sandboxes."),
        ),
    ),
    (
        "Files and policies",
        (
            ("rootfs", "Make root file systems."),
            ("layer", "Handle what runs with --persist have kept."),
            ("policy", "List, show and check policies."),
            ("network", "Make, list and remove networks of the host's (as root)."),
        ),
    ),
    (
        "This machine",
        (
            ("doctor", "Find out what this machine can do, with cures for what it cannot."),
            ("version", "Show the version."),
            ("completion", "Print the completion script of a shell."),
        ),
    ),
)
_SHORT_HELP = {name: text for _, rows in _SECTIONS for name, text in rows}


def _identifier(option: Option) -> str:
    return option.name[2:].replace("-", "_")


def _click_option(option: Option) -> click.Option:
    shared: dict[str, Any] = {"help": option.help, "default": None}
    if option.kind == "flag":
        return click.Option([*option.names, _identifier(option)], is_flag=True, **shared)
    if option.kind == "negatable":
        names = [f"{option.name}/{option.negative}", _identifier(option)]
        return click.Option(names, is_flag=True, **shared)
    text = completion.Text(option.metavar, option.choices, option.complete)
    return click.Option(
        [*option.names, _identifier(option)],
        type=click.Choice(option.choices) if option.closed else text,
        metavar=None if option.closed else option.metavar,
        multiple=option.kind == "repeat",
        **shared,
    )


def _place(argument: Argument) -> str:
    """The name of an argument: of COMMAND [ARG]... and [SANDBOX]... the first word in it."""
    return argument.metavar.partition(" ")[0].strip("[].").lower()


def _click_argument(argument: Argument) -> click.Argument:
    return click.Argument(
        [_place(argument)],
        nargs=1 if argument.count == "one" else -1,
        required=argument.count != "any",
        type=completion.Text(argument.metavar, complete=argument.complete),
        metavar=argument.metavar,
    )


class _FormCommand(Command):
    """A command with a form; options that have groups are shown in them."""

    def __init__(self, form: Form, **more: Any) -> None:
        super().__init__(form.name, **more)
        self.form = form

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        # What follows the first argument may belong to the command, also what looks like an option.
        if not self.form.free and ctx.params.get(_place(self.form.arguments[0])):
            return self.params[-1].shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.form.name not in LAUNCHING:
            super().format_options(ctx, formatter)
            return
        shown = {p.name: p for p in self.params}
        for group in GROUPS:
            found = [shown[_identifier(o)] for o in RUN_OPTIONS if o.group == group]
            help_option = self.get_help_option(ctx)
            if group == GROUPS[-1] and help_option:
                found.append(help_option)
            with formatter.section(group):
                formatter.write_dl([r for p in found if (r := p.get_help_record(ctx))])


def parsed_values(values: dict[str, Any], form: Form) -> Parsed:
    """Return what `parse` gives for the same line."""
    words: list[str] = []
    for argument in form.arguments:
        value = values[_place(argument)]
        words += [value] if argument.count == "one" else value
    found = ((option.name, values[_identifier(option)]) for option in form.options)
    given: dict[str, Raw] = {name: raw for name, raw in found if raw is not None and raw != ()}
    return make_parsed(given, words, form)


def _form_command(form: Form) -> click.Command:
    start = form.load()

    def run(**values: Any) -> Any:
        return start(parsed_values(values, form))

    text, epilog = _HELP.get(form.name, (start.__doc__, ""))
    settings: dict[str, Any] = {"allow_interspersed_args": form.free}
    if any("-h" in option.names for option in form.options):
        settings["help_option_names"] = ["--help"]
    return _FormCommand(
        form,
        params=[*map(_click_option, form.options), *map(_click_argument, form.arguments)],
        callback=run,
        help=text,
        short_help=_SHORT_HELP[form.name],
        epilog=epilog,
        options_metavar="[OPTIONS]",
        context_settings=settings,
    )


class _Commands(CommandGroup):
    """The commands by name; each is imported when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_SHORT_HELP)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        form = find_form(cmd_name)
        if form:
            return _form_command(form)
        if cmd_name == "completion":
            return completion.command
        if cmd_name not in _SHORT_HELP:
            return None
        command: click.Command = import_module(f"sandbox.cli.commands.{cmd_name}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _SHORT_HELP))
        for title, rows in _SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import_module("sandbox.cli.commands.version").show_version(as_json=False)
        ctx.exit()


def group() -> click.Group:
    """Return the whole command line of sbx."""
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version.",
    )
    return _Commands(
        "sbx",
        params=[version],
        help="Run commands in sandboxes, as a normal user, on a root file system of your own.",
        epilog="'sbx COMMAND --help' says more.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def start(argv: list[str]) -> int:
    """Run a command line through click and return the exit code. Raises SbxError."""
    argv = _plea_for_help(argv)
    try:
        # click's own main() would end the process when a reader goes away; it eats its list.
        with (commands := group()).make_context("sbx", list(argv)) as context:
            code = commands.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise _usage_error(error, argv) from error
    return code if isinstance(code, int) else 0


def complete() -> int:
    """Answer a request of the completion script, which is in the environment."""
    return completion.answer(group())


def _plea_for_help(argv: list[str]) -> list[str]:
    """Return `help COMMAND` as `COMMAND --help`, and so a -h of `run` that has no name with it."""
    if argv[:1] == ["help"]:
        return [*argv[1:], "--help"]
    return [argv[0], "--help"] if argv[1:] == ["-h"] else argv


def _usage_error(error: click.ClickException, argv: list[str]) -> UsageError:
    """Return the same error in our words."""
    context = getattr(error, "ctx", None)
    plain = argv[0] if argv and argv[0] in LAUNCHING else ""
    program = f"sbx {plain}" if plain else context.command_path if context else "sbx"
    if plain and (wrong := foreign.wrong_line(argv[1:], program)):
        return wrong
    if isinstance(error, click.NoSuchOption):
        what = f'no such option "{error.option_name}"'
        known = [name for p in context.command.params for name in p.opts] if context else []
        if program == "sbx" and any(error.option_name in o.names for o in RUN_OPTIONS):
            return UsageError(what, hint=f"write it after the command: sbx run {error.option_name}")
        hint = foreign.OPTIONS.get(program, {}).get(error.option_name)
        return UsageError(what, hint=hint or usage_hint(program, error.option_name, known))
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        shown = error.param.metavar or (error.param.name or "").upper()
        what = f'missing argument "{shown.partition(" ")[0].rstrip(".")}"'
        usage = context.command.collect_usage_pieces(context) if context else []
        return UsageError(what, hint=f"usage: {' '.join([program, *usage])}")
    text = error.format_message().rstrip(".").replace("'", '"')
    what = f"{text[:1].lower()}{text[1:]}"
    hint = foreign.NO_TEMPLATES if '"{{' in what else usage_hint(program)
    return UsageError(what, hint=hint)
