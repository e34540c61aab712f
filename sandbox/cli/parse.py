"""The plain reader: argv to a Parsed value, without importing click.

It accepts exactly the lines that the click command built from the same form accepts, and
gives the same values. Any other line, and any plea for help, is left to click: `parse` then
returns None, and `front` prints the help or raises the usage error.
"""

from __future__ import annotations

from sandbox.errors import UsageError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.cli.forms import Form, Option

    Raw = str | bool | tuple[str, ...]


class Parsed(Record):
    """A command line that was understood: the texts of the given options, by long name, and the
    words beside them.

    A flag is True or, for its opposite, False; an option that repeats is a tuple of texts.
    """

    values: tuple[tuple[str, Raw], ...]
    words: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether a flag is given, and not as its opposite."""
        return dict(self.values).get(name) is True

    def text(self, name: str) -> str | None:
        """The text of an option that takes one value, None when it is not given."""
        value = dict(self.values).get(name)
        return value if isinstance(value, str) else None

    def text_or(self, name: str, default: str) -> str:
        """The text of an option that takes one value, `default` when it is not given."""
        found = self.text(name)
        return default if found is None else found

    def texts(self, name: str) -> tuple[str, ...]:
        """The texts of an option that repeats, in the order given."""
        value = dict(self.values).get(name)
        return value if isinstance(value, tuple) else ()


class _Unplain(Exception):
    """The line is left to click."""


def make_parsed(values: dict[str, Raw], words: Sequence[str], form: Form) -> Parsed:
    """Build a Parsed with the values in the order of the form."""
    ordered = tuple((o.name, values[o.name]) for o in form.options if o.name in values)
    return Parsed(ordered, tuple(words))


def parse(argv: Sequence[str], form: Form) -> Parsed | None:
    """Read options and arguments; return None when click has to say something."""
    values: dict[str, Raw] = {}
    words: list[str] = []
    try:
        at = _read_options(argv, _names(form.options), values, words if form.free else None)
    except _Unplain:
        return None
    words += argv[at:]
    least = sum(argument.count != "any" for argument in form.arguments)
    endless = any(argument.count != "one" for argument in form.arguments)
    if len(words) < least or (len(words) > least and not endless):
        return None
    return make_parsed(values, words, form)


def given_flags(argv: Sequence[str], form: Form) -> set[str]:
    """Return the flags in a line that need not be right, of those that end at the first argument
    the ones before it.

    It tells how an error in the line shall be shown (--json, --debug).
    """
    parsed, _unknown = misread(argv, {}, form)
    return {name for name, value in parsed.values if value is True}


def misread(
    argv: Sequence[str], following: Mapping[str, int], form: Form
) -> tuple[Parsed, list[str]]:
    """Return what the options of a line that is wrong say, and those that do not exist.

    `following`: how many words belong to an option that does not exist, where that is known.
    """
    values: dict[str, Raw] = {}
    unknown: list[str] = []
    names = _names(form.options)
    at = 0
    while at < len(argv):
        try:
            _read_options(argv[at:], names, values, [] if form.free else None)
            break
        except _Unplain as unplain:
            at += unplain.args[0]
            name, alone = _unknown_name(argv[at - 1], names)
            unknown += [name] if name else []
            at += following.get(name, 0) if alone else 0
    return make_parsed(values, (), form), unknown


def _unknown_name(word: str, names: Mapping[str, object]) -> tuple[str, bool]:
    """The unknown option in one word, "" for none, and whether its value would be the next."""
    if word.startswith("--"):
        name, equals, _text = word.partition("=")
        return ("" if name in names else name), not equals
    short = next((char for char in word[1:] if f"-{char}" not in names), "")
    return (f"-{short}" if short else ""), word.endswith(short)


def _names(options: Sequence[Option]) -> dict[str, tuple[Option, bool]]:
    """Map every accepted name to its option and whether it switches on."""
    names = {name: (option, True) for option in options for name in option.names}
    names.update({o.negative: (o, False) for o in options if o.kind == "negatable"})
    return names


def _read_options(
    argv: Sequence[str],
    names: dict[str, tuple[Option, bool]],
    values: dict[str, Raw],
    words: list[str] | None,
) -> int:
    """Read options into `values`, and what stands between them into `words`, or, when that is
    None, up to the first such word; return where the rest begins.

    Raises _Unplain with how many words to skip to get past what was not understood.
    """
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            return at
        if word[:1] != "-" or word == "-":
            if words is None:
                return at - 1
            words.append(word)
            continue
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            found = names.get(name)
            if found is None or (equals and not found[0].takes_value):
                raise _Unplain(at)
            at += _store(found, text if equals else None, argv, at, values)
        else:
            at += _read_cluster(word, argv, at, names, values)
    return at


def _read_cluster(
    word: str,
    argv: Sequence[str],
    at: int,
    names: dict[str, tuple[Option, bool]],
    values: dict[str, Raw],
) -> int:
    """Read one word of short options, such as -it or -eNAME=1; return how many more it took."""
    for index in range(1, len(word)):
        found = names.get(f"-{word[index]}")
        if found is None:
            raise _Unplain(at)
        if found[0].takes_value:
            return _store(found, word[index + 1 :] or None, argv, at, values)
        _store(found, None, argv, at, values)
    return 0


def _store(
    found: tuple[Option, bool],
    text: str | None,
    argv: Sequence[str],
    at: int,
    values: dict[str, Raw],
) -> int:
    """Store one occurrence; its value is `text`, or else the next word. Return words taken."""
    option, on = found
    if not option.takes_value:
        values[option.name] = on
        return 0
    taken = 0
    if text is None:
        if at >= len(argv):
            raise _Unplain(at)
        text, taken = argv[at], 1
    if option.closed and text not in option.choices:
        raise _Unplain(at + taken)
    if option.kind == "repeat":
        earlier = values.get(option.name)
        values[option.name] = (*earlier, text) if isinstance(earlier, tuple) else (text,)
    else:
        values[option.name] = text
    return taken


def command_words(parsed: Parsed, program: str, before: str = "ROOTFS") -> tuple[str, ...]:
    """Return the command, without a leading "--"; refuse one that looks like an option of ours.

    A word like that after `before`, the first argument, is nearly always an option in the wrong
    place.
    """
    first, *command = parsed.words
    if command[:1] == ["--"]:
        if len(command) > 1:
            return tuple(command[1:])
        raise UsageError('missing argument "COMMAND"', hint=f"try '{program} --help'")
    if command and command[0].startswith("-"):
        raise UsageError(
            f'the command "{command[0]}" looks like an option',
            cause=f"options end at {before}; what follows is the command",
            hint=f'put options before "{first}", or write -- before such a command',
        )
    return tuple(command)
