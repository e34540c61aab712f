"""Words of docker, podman and bwrap: each gets a line that says what to do here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cli import foreign
from sandbox.cli.main import main
from sandbox.cli.options import RUN_OPTIONS
from sandbox.cli.values import mount, volume

OWN = {name for option in RUN_OPTIONS for name in option.names}
OWN |= {option.negative for option in RUN_OPTIONS if option.kind == "negatable"}


def test_no_option_of_ours_is_foreign() -> None:
    assert not OWN & set(foreign.FOREIGN)


def test_hints_name_only_options_that_exist() -> None:
    for name, (_values, hint) in foreign.FOREIGN.items():
        words = hint.replace(",", " ").replace(";", " ").replace("=", " ").split()
        assert {word for word in words if word.startswith("-")} <= OWN, name


@pytest.mark.parametrize("name", sorted(foreign.FOREIGN))
def test_each_has_its_hint(capsys: pytest.CaptureFixture[str], name: str) -> None:
    values, hint = foreign.FOREIGN[name]
    assert main(["run", name, *["x"] * values, "root", "command"]) == 2
    assert capsys.readouterr().err == (f'sbx: error: no such option "{name}"\n  hint: {hint}\n')


@pytest.mark.parametrize("name", sorted(foreign.COMMANDS))
def test_each_command_has_its_hint(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "box"]) == 2
    hint = foreign.COMMANDS[name]
    assert capsys.readouterr().err == f'sbx: error: no such command "{name}"\n  hint: {hint}\n'
    assert main(["policy", name]) == 2
    assert hint not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command, names in foreign.OPTIONS.items() for name in names],
)
def test_options_of_other_commands_have_hints_too(
    capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    assert main([*command.split()[1:], name, "x", "y"]) == 2
    hint = foreign.OPTIONS[command][name]
    assert capsys.readouterr().err == f'sbx: error: no such option "{name}"\n  hint: {hint}\n'


@pytest.mark.parametrize("words", ["inspect --format {{.State.Pid}} box", "ps --format={{.ID}}"])
def test_templates_have_a_hint(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert main(words.split()) == 2
    assert f"hint: {foreign.NO_TEMPLATES}\n" in capsys.readouterr().err


def test_all_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "run --rootfs -Pit --add-host x --shm-size=1g -aX --bind /a /b --nmae=x "
        "--env-file /nowhere -Z image sh --gpus"
    )
    assert main(line.split()) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "sbx: error: the command line has 9 problems"
    assert [line.split()[0] for line in shown[1:]] == [
        "--rootfs:", "-P:", "--add-host:", "--shm-size:", "-a:", "--bind:", "--nmae:", "-Z:",
        "--env-file:", "hint:",
    ]  # fmt: skip
    assert "--nmae: no such option; did you mean --name?" in shown[7]


def test_what_only_the_policy_checks_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--frob", "--timeout", "soon", "--policy", "nope", "root", "sh"]) == 2
    shown = [line.split(":")[0].strip() for line in capsys.readouterr().err.splitlines()]
    assert shown[1:4] == ["--frob", "--policy", "--timeout"]


@given(st.lists(st.sampled_from([*foreign.FOREIGN, *sorted(OWN), "x", "-", "--", "--a=b", "-it"])))
def test_no_line_is_too_odd(words: list[str]) -> None:
    """Whatever the line is, what does not exist in it is what is named."""
    error = foreign.wrong_line(words, "sbx run")
    if error is not None:
        found = "\n".join([error.what, *error.problems])
        assert "no such option" in found


@pytest.mark.parametrize(
    ("word", "reason"),
    [("z", "SELinux"), ("ro,Z", "SELinux"), ("U", "owners"), ("rshared", "private"),
     ("cached", "Linux"), ("x", "is not known")],
)  # fmt: skip
def test_volume_words(word: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*; use ro, rw or optional"):
        volume(f"/a:/b:{word}")


def test_volume_mounts() -> None:
    with pytest.raises(ValueError, match="named volumes do not exist; use type=bind"):
        mount("type=volume,source=data,target=/data")
    with pytest.raises(ValueError, match='"npipe" is not known; use bind or tmpfs'):
        mount("type=npipe,source=data,target=/data")
