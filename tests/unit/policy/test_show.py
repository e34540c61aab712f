"""What `sbx policy show` prints is a policy file: loaded again, it is the same policy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.cli.main import main
from sandbox.errors import PolicyError
from sandbox.policy import model, show
from sandbox.policy.load import load_policy
from sandbox.policy.merge import Layer, build_policy
from tests.support.fuzzing import examples

BUILT_IN = ("strict", "default", "ci", "permissive")


def reload(text: str) -> model.Policy:
    return build_policy([Layer("shown.toml", tomllib.loads(text))])


def same(one: model.Policy, other: model.Policy) -> None:
    """A profile stands for its base, which a file does not name beside it."""
    policies = []
    for policy in (one, other):
        seccomp = policy.seccomp.replace(base="deny") if policy.seccomp.profile else policy.seccomp
        policies.append(policy.replace(name="", origins=(), seccomp=seccomp))
    assert dict(policies[0]) == dict(policies[1])


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["policy", "show", name]) == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(capsys.readouterr().out)
    layers = load_policy(str(shown))
    assert len(layers) == 1
    same(build_policy(layers), build_policy(load_policy(name)))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), max_size=12)
NAMES = TEXT.filter(lambda text: text and "=" not in text)
PATHS = st.lists(
    TEXT.map(lambda t: t.replace("/", "")).filter(lambda t: t not in {"", ".", ".."}),
    min_size=1, max_size=3,
).map(lambda parts: "/data/" + "/".join(parts))  # fmt: skip
SIZES = st.one_of(st.integers(4096, 1 << 50), st.sampled_from(["64K", "1.5g", "2G"]))
TIMES = st.one_of(st.floats(0, 1e6), st.integers(0, 1000), st.sampled_from(["90s", "1h30m", "5ms"]))
MODES = st.integers(0, 0o1777).map(lambda mode: f"{mode:04o}")
LIMITS = st.one_of(
    st.integers(0, 1 << 40), st.tuples(st.integers(0, 99), st.integers(100, 1 << 40)).map(list),
    st.sampled_from(["unlimited", "10:unlimited", "inherit"]),
)  # fmt: skip
CAPABILITIES = st.lists(st.sampled_from(["ALL", "KILL", "CHOWN", "net_raw"]), max_size=3)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "identity": st.fixed_dictionaries(
            {},
            optional={"user": st.one_of(st.integers(1, 99), st.just("ana")), "root": st.just(True)},
        ),
        "filesystem": st.fixed_dictionaries(
            {},
            optional={
                "size": SIZES,
                "masked": st.lists(PATHS, max_size=4),
                "mounts": st.lists(
                    st.fixed_dictionaries(
                        {"source": PATHS, "target": PATHS}, optional={"read_only": st.booleans()}
                    ),
                    max_size=3,
                ),
                "tmpfs": st.lists(
                    st.fixed_dictionaries(
                        {"target": PATHS}, optional={"size": SIZES, "mode": MODES}
                    ),
                    max_size=3,
                ),
            },
        ),
        "process": st.fixed_dictionaries(
            {},
            optional={
                "env": st.dictionaries(NAMES, TEXT, max_size=4),
                "cwd": PATHS,
                "timeout": TIMES,
                "grace": TIMES,
                "output_limit": SIZES,
            },
        ),
        "capabilities": st.fixed_dictionaries(
            {}, optional={"keep": CAPABILITIES, "add": CAPABILITIES, "drop": CAPABILITIES}
        ),
        "seccomp": st.fixed_dictionaries({}, optional={"profile": PATHS}),
        "rlimits": st.dictionaries(st.sampled_from(["nofile", "fsize", "core"]), LIMITS),
        "sysctls": st.dictionaries(
            st.sampled_from(["net.ipv4.x", "net.a-b.c_d", "kernel.sem"]), st.integers(0, 9)
        ),
    },
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BUILT_IN), POLICIES)
def test_any_policy(base: str, data: dict[str, Any]) -> None:
    try:
        policy = build_policy([*load_policy(base), Layer("odd\n.toml", data)])
    except PolicyError:
        return
    same(reload("\n".join(line for line, _origin in show.toml_rows(policy))), policy)
    for key, value, _origin in show.describe(policy):
        tomllib.loads(f"{key} = {value}")


def test_odd_texts() -> None:
    odd = 'a "quoted" \\ back \x1b \x7f \u202e \U000e0001 é'
    data = {"process": {"env": {odd: odd, "x" * 200: "y" * 200}}}
    policy = build_policy([Layer("a.toml", data)])
    text = "\n".join(line for line, _origin in show.toml_rows(policy))
    assert all(char.isprintable() or char == "\n" for char in text)
    same(reload(text), policy)


def test_every_item_of_a_long_list_has_its_origin() -> None:
    mine = Layer("mine.toml", {"filesystem": {"masked": ["/srv/secret"]}})
    rows = show.toml_rows(build_policy([*load_policy("default"), mine]))
    assert ('    "/srv/secret",', "mine.toml") in rows
    assert ('    "/proc/keys",', "default.toml") in rows
