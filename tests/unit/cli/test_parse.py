"""The plain reader and click, built from one table, agree on every line."""

from __future__ import annotations

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.cli import front
from sandbox.cli.forms import NAMES as FORMS
from sandbox.cli.forms import Form, find_form
from sandbox.cli.options import GROUPS, RUN_FORM, RUN_OPTIONS
from sandbox.cli.parse import Parsed, command_words, given_flags
from sandbox.cli.parse import parse as parse_form
from sandbox.errors import UsageError
from tests.support.fuzzing import examples

NAMES = [name for option in RUN_OPTIONS for name in option.names]
NEGATIVES = [option.negative for option in RUN_OPTIONS if option.kind == "negatable"]
TEXTS = st.sampled_from(["", "a", "=", "a=b", "-", "--", "-x", "--x", "./r", "\udcff", "-it", "0"])


def parse(words: list[str]) -> Parsed | None:
    return parse_form(words, RUN_FORM)


def form_of(name: str) -> Form:
    form = find_form(name)
    assert form is not None
    return form


def click_parse(words: list[str], form: Form = RUN_FORM) -> Parsed | None:
    """What click makes of the same line; None when it has something to say."""
    command = front.group().get_command(click.Context(front.group()), form.name)
    assert command is not None
    try:
        context = command.make_context(form.name, list(words))
    except (click.ClickException, click.exceptions.Exit):
        return None
    return front.parsed_values(context.params, form)


def words_of_options(form: Form = RUN_FORM) -> st.SearchStrategy[list[str]]:
    own = [name for option in form.options for name in option.names]
    odd = ["--help", "--bogus", "-Z", "-it", "-ite", "-vq", "-fn", "-tn2"]
    if form is RUN_FORM:
        own += NEGATIVES
    names = st.sampled_from([*own, *odd])
    alone = names.map(lambda name: [name])
    joined = st.tuples(names, TEXTS).map(lambda pair: [f"{pair[0]}={pair[1]}"])
    glued = st.tuples(names, TEXTS).map("".join).map(lambda word: [word])
    apart = st.tuples(names, TEXTS).map(list)
    return st.one_of(alone, joined, glued, apart)


@settings(max_examples=examples(400), deadline=None)
@given(
    st.lists(words_of_options(), max_size=5).map(lambda found: [w for part in found for w in part]),
    st.lists(TEXTS, max_size=4),
)
def test_both_readers_agree(options: list[str], rest: list[str]) -> None:
    words = [*options, *rest]
    assert parse(words) == click_parse(words)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.text(alphabet="-=aeitv:/.", max_size=5), max_size=7))
def test_both_readers_agree_on_noise(words: list[str]) -> None:
    assert parse(words) == click_parse(words)


@settings(max_examples=examples(600), deadline=None)
@given(st.data())
def test_both_readers_agree_on_every_command(data: st.DataObject) -> None:
    form = form_of(data.draw(st.sampled_from(FORMS)))
    some = st.sampled_from(["box", "json", "table", "text", "--", "-", "", "all", "9", "-f", "-x"])
    parts = st.lists(st.one_of(words_of_options(form), some.map(lambda word: [word])), max_size=6)
    words = [word for part in data.draw(parts) for word in part]
    assert parse_form(words, form) == click_parse(words, form)


def test_free_options_stand_anywhere() -> None:
    parsed = parse_form(["box", "-fn", "5", "--", "-t"], form_of("logs"))
    assert parsed is None  # one word too many
    parsed = parse_form(["-f", "box", "-n5", "--since=1h"], form_of("logs"))
    assert parsed is not None
    assert parsed.words == ("box",)
    assert (parsed.text("--tail"), parsed.has("--follow")) == ("5", True)


def test_a_closed_choice_is_left_to_click() -> None:
    form = form_of("ps")
    assert parse_form(["--format", "json"], form) is not None
    assert parse_form(["--format", "yaml"], form) is None


def test_the_first_argument_is_named_when_a_command_looks_like_an_option() -> None:
    parsed = parse_form(["box", "-it", "sh"], form_of("exec"))
    assert parsed is not None
    with pytest.raises(UsageError, match="looks like an option") as caught:
        command_words(parsed, "sbx exec", "SANDBOX")
    assert "end at SANDBOX" in caught.value.cause
    assert 'before "box"' in caught.value.hint


@pytest.mark.parametrize("name", FORMS)
def test_every_form_starts_something_and_has_a_help(name: str) -> None:
    form = form_of(name)
    assert callable(form.load())
    assert form.load().__doc__
    names = [name for option in form.options for name in option.names]
    assert len(names) == len(set(names))
    for option in form.options:
        assert option.help.endswith(".")
        assert bool(option.metavar) == option.takes_value
        assert option.choices or not option.closed
    assert form.free or form.arguments


def test_options_end_at_rootfs() -> None:
    parsed = parse(["-i", "./root", "ls", "--json", "-v", "--", "x"])
    assert parsed == Parsed((("--interactive", True),), ("./root", "ls", "--json", "-v", "--", "x"))


def test_forms_of_a_value() -> None:
    words = ["-eA=1", "-e", "B=2", "--env=C=3", "--env", "D=4", "-ite", "E=5", "root", "sh"]
    parsed = parse(words)
    assert parsed is not None
    assert parsed.texts("--env") == ("A=1", "B=2", "C=3", "D=4", "E=5")
    assert parsed.has("--interactive")
    assert parsed.has("--tty")


def test_last_single_value_counts_and_negation() -> None:
    parsed = parse(["--name", "a", "--name=b", "--no-init", "--", "root", "sh"])
    assert parsed is not None
    assert parsed.text("--name") == "b"
    assert dict(parsed.values)["--init"] is False
    assert not parsed.has("--init")


@pytest.mark.parametrize(
    "words",
    [[], ["root"], ["--help"], ["-i"], ["--nope", "r", "c"], ["-e"], ["--json=1", "r", "c"]],
)
def test_other_lines_are_left_to_click(words: list[str]) -> None:
    assert parse(words) is None


def test_command_may_follow_a_double_dash() -> None:
    parsed = parse(["--", "root", "--", "--odd", "x"])
    assert parsed is not None
    assert command_words(parsed, "sbx run") == ("--odd", "x")


def test_command_that_looks_like_an_option_is_refused() -> None:
    parsed = parse(["root", "--read-only", "ls"])
    assert parsed is not None
    with pytest.raises(UsageError, match="looks like an option") as caught:
        command_words(parsed, "sbx run")
    assert 'before "root"' in caught.value.hint


def test_lonely_double_dash_is_no_command() -> None:
    parsed = parse(["root", "--"])
    assert parsed is not None
    with pytest.raises(UsageError, match='missing argument "COMMAND"'):
        command_words(parsed, "sbx run")


def test_flags_of_a_wrong_line_are_still_seen() -> None:
    wrong = ["--bogus", "--json", "-Z", "--debug", "r", "--quiet"]
    assert given_flags(wrong, RUN_FORM) == {"--json", "--debug"}
    assert given_flags(["--name"], RUN_FORM) == set()
    assert given_flags(["box", "--debug"], form_of("rm")) == {"--debug"}
    assert given_flags(["box", "true", "--debug"], form_of("exec")) == set()


def test_table_is_consistent() -> None:
    names = [*NAMES, *NEGATIVES]
    assert len(names) == len(set(names))
    for option in RUN_OPTIONS:
        assert option.group in GROUPS
        assert option.help.endswith(".")
        assert bool(option.metavar) == option.takes_value
        assert not (option.read and option.convert)


def test_huge_lines_are_read_in_linear_time() -> None:
    parsed = parse(["-eA=1", "root", *["x" * 100] * 20_000])
    assert parsed is not None
    assert len(parsed.words) == 20_001
