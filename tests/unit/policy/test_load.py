"""Finding, reading and chaining policy files."""

from __future__ import annotations

import marshal
import os
import sys
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.linux import private_cache
from sandbox.policy import cache
from sandbox.policy.load import load_policy, read_policy
from tests.unit.policy.conftest import write_policy


def origins(ref: str, *folders: Path) -> list[str]:
    return [layer.origin for layer in load_policy(ref, search=tuple(map(str, folders)))]


def failure(ref: str, *folders: Path) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        load_policy(ref, search=tuple(map(str, folders)))
    return caught.value


def test_a_name_is_looked_up_in_order(folder: Path, home: Path) -> None:
    mine = home / "mine"
    mine.mkdir()
    write_policy(folder / "a.toml", 'extends = ""\nsummary = "built-in"')
    write_policy(mine / "a.toml", 'extends = ""\nsummary = "mine"')
    (layer,) = load_policy("a", search=(str(mine), str(folder)))
    assert layer.data["summary"] == "mine"
    assert (layer.origin, layer.name, layer.path) == ("a.toml", "a", str(mine / "a.toml"))


def test_the_users_folder_comes_before_the_built_in_one(home: Path) -> None:
    mine = home / "config/sbx/policies"
    mine.mkdir(parents=True)
    write_policy(mine / "strict.toml", 'extends = "strict"')
    layers = load_policy("strict")
    assert [os.path.dirname(layer.path) == str(mine) for layer in layers] == [False, True]


def test_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_policy(folder / "a.toml", 'extends = ""')
    write_policy(folder / "plain", 'extends = ""')
    monkeypatch.chdir(folder)
    assert origins(str(folder / "a.toml")) == [str(folder / "a.toml")]
    assert origins("./a.toml") == ["./a.toml"]
    assert origins("a.toml") == ["a.toml"]
    assert origins("./plain") == ["./plain"]
    assert failure("plain").what == 'no policy "plain"'


def test_without_extends_a_policy_builds_on_strict(folder: Path) -> None:
    write_policy(folder / "strict.toml", 'extends = ""')
    write_policy(folder / "a.toml", "")
    assert origins("a", folder) == ["strict.toml", "a.toml"]


def test_a_parent_by_name_and_by_path(folder: Path) -> None:
    (folder / "sub").mkdir()
    write_policy(folder / "base.toml", 'extends = ""')
    write_policy(folder / "sub/mid.toml", 'extends = "../base.toml"')
    write_policy(folder / "sub/near.toml", 'extends = "mid.toml"')
    write_policy(folder / "top.toml", 'extends = "base"')
    found = load_policy(str(folder / "sub/near.toml"), search=(str(folder),))
    assert [layer.path for layer in found] == [
        str(folder / name) for name in ("base.toml", "sub/mid.toml", "sub/near.toml")
    ]
    assert origins("top", folder) == ["base.toml", "top.toml"]


def test_an_unknown_name(folder: Path) -> None:
    for name in ("strict", "default", "_template"):
        write_policy(folder / f"{name}.toml", "")
    error = failure("strickt", folder)
    assert error.what == 'no policy "strickt"; did you mean "strict"?'
    assert error.cause == "there are: default, strict"
    assert error.hint == f"policies are looked up in {folder}"
    assert failure("x", folder / "no").cause == "there are none"


def test_a_file_that_does_not_exist(folder: Path) -> None:
    error = failure("./no.toml")
    assert (error.what, error.cause) == (
        "cannot read policy ./no.toml",
        "no such file or directory",
    )
    assert "named by a path, such as ./no.toml" in failure("no.toml", folder).hint


def test_an_unknown_parent(folder: Path) -> None:
    write_policy(folder / "a.toml", 'extends = "nome"')
    assert failure("a", folder).what == 'a.toml extends "nome": no policy "nome"'


@pytest.mark.parametrize("ref", ["", "a\0b", "a\nb"])
def test_no_name_at_all(ref: str) -> None:
    assert failure(ref).what.endswith("is not the name of a policy")


@pytest.mark.parametrize("ref", ["..", ".", ".hidden", "a b", "a" * 65, "é"])
def test_names_that_cannot_be(ref: str, folder: Path) -> None:
    assert failure(ref, folder).what.startswith("no policy ")


def test_a_circle(folder: Path) -> None:
    write_policy(folder / "a.toml", 'extends = "b"')
    write_policy(folder / "b.toml", 'extends = "c"')
    write_policy(folder / "c.toml", 'extends = "b"')
    error = failure("a", folder)
    assert (error.what, error.cause) == ('policy "a" extends itself', "a → b → c → b")


def test_a_policy_that_extends_its_own_name_and_nothing_is_below(folder: Path) -> None:
    write_policy(folder / "a.toml", 'extends = "a"')
    assert failure("a", folder).what == 'a.toml extends "a": no policy "a"'
    write_policy(folder / "b.toml", 'extends = "./b.toml"')
    assert failure("b", folder).cause == "b → b"


def test_a_long_chain(folder: Path) -> None:
    write_policy(folder / "p0.toml", 'extends = ""')
    for number in range(1, 9):
        write_policy(folder / f"p{number}.toml", f'extends = "p{number - 1}"')
    assert len(origins("p7", folder)) == 8
    error = failure("p8", folder)
    assert error.what == 'policy "p8" extends more than 7 others'
    assert error.cause == "p8 → p7 → p6 → p5 → p4 → p3 → p2 → p1 → p0"


def test_extends_of_a_wrong_type(folder: Path) -> None:
    write_policy(folder / "a.toml", "extends = 7")
    assert failure("a", folder).problems == ("a.toml: extends: must be a string, found 7",)
    write_policy(folder / "b.toml", 'extends = "a\\u0000"')
    assert failure("b", folder).cause == "that is not the name of a policy"


@pytest.mark.parametrize(
    ("text", "what", "cause"),
    [
        ("a = 1\nb =\n", "a.toml:2", "invalid value"),
        ("a = 1\na = 2\n", "a.toml:2", "cannot overwrite a value"),
        ("[a\n", "a.toml:1", 'expected "]" at the end of a table declaration'),
        ('a = "', "a.toml", "unterminated string, at the end of the file"),
        ("a = " + "[" * 20000, "a.toml", "it is nested too deep"),
    ],
)
def test_broken_toml(folder: Path, text: str, what: str, cause: str) -> None:
    write_policy(folder / "a.toml", text)
    error = failure("a", folder)
    assert error.what == f"cannot read policy {what}"
    assert error.cause.replace("'", '"') == cause


def test_files_that_are_no_text(folder: Path) -> None:
    (folder / "a.toml").write_bytes(b"# a\n# b \xff\n")
    assert failure("a", folder).cause == "line 2 is not UTF-8"
    write_policy(folder / "b.toml", "#" * ((1 << 20) + 1))
    assert failure("b", folder).cause == "it is larger than 1048576 bytes"
    write_policy(folder / "c.toml", 'extends = ""\n#' + "#" * ((1 << 20) - 14))
    assert origins("c", folder) == ["c.toml"]


def test_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "fifo.toml")
    (folder / "dir.toml").mkdir()
    (folder / "dangling.toml").symlink_to("nowhere")
    assert failure("fifo", folder).cause == "it is not a regular file"
    assert failure("dir", folder).cause == "it is not a regular file"
    assert failure("/dev/zero").cause == "it is not a regular file"
    assert failure("dangling", folder).cause == "no such file or directory"


class TestCache:
    @pytest.fixture
    def parsed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The texts that were parsed, as against taken from the cache."""
        import tomllib

        texts: list[str] = []
        real = tomllib.loads

        def loads(text: str) -> dict[str, object]:
            texts.append(text)
            return real(text)

        monkeypatch.setattr(tomllib, "loads", loads)
        return texts

    @pytest.fixture
    def policy(self, folder: Path) -> str:
        return str(write_policy(folder / "a.toml", 'extends = ""', age_s=60))

    @pytest.fixture(autouse=True)
    def settled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The change time cannot be set back: let every file count as at rest."""
        monkeypatch.setattr(cache, "_SETTLED_NS", -(10**18))

    def test_the_second_time_nothing_is_parsed(self, policy: str, parsed: list[str]) -> None:
        first = read_policy(policy, "a")
        assert read_policy(policy, "a") == first == {"extends": ""}
        assert len(parsed) == 1

    def test_a_hit_does_not_import_the_parser(
        self, policy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_policy(policy, "a")
        monkeypatch.setitem(sys.modules, "tomllib", None)
        assert read_policy(policy, "a") == {"extends": ""}

    def test_a_changed_policy_is_parsed_again(self, policy: str, parsed: list[str]) -> None:
        read_policy(policy, "a")
        write_policy(Path(policy), 'extends = "x"')
        assert read_policy(policy, "a") == {"extends": "x"}
        assert len(parsed) == 2

    @pytest.mark.parametrize("body", [b"", b"rubbish", marshal.dumps(7), marshal.dumps((1, {}))])
    def test_entries_of_another_shape_are_not_believed(
        self, policy: str, home: Path, parsed: list[str], body: bytes
    ) -> None:
        assert private_cache.store(f"{home}/cache/sbx/policy", os.fsencode(policy), body)
        assert read_policy(policy, "a") == {"extends": ""}
        assert len(parsed) == 1

    def test_a_policy_that_others_can_change_is_not_kept(
        self, policy: str, home: Path, parsed: list[str]
    ) -> None:
        Path(policy).chmod(0o664)
        read_policy(policy, "a")
        read_policy(policy, "a")
        assert len(parsed) == 2
        assert not (home / "cache").exists()

    def test_a_policy_that_has_just_changed_is_not_kept(
        self, policy: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache, "_SETTLED_NS", 10**18)
        read_policy(policy, "a")
        assert not (home / "cache").exists()

    def test_dates_are_not_kept(self, policy: str, home: Path) -> None:
        write_policy(Path(policy), "a = 2020-01-01")
        read_policy(policy, "a")
        assert not (home / "cache").exists()

    def test_a_cache_that_cannot_be_written_does_not_matter(self, policy: str, home: Path) -> None:
        (home / "cache").write_text("in the way")
        assert read_policy(policy, "a") == {"extends": ""}
