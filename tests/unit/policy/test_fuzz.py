"""Whatever a policy file or a flag holds: a policy or a PolicyError, never another exception."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import PolicyError
from sandbox.policy.check import compare
from sandbox.policy.load import load_policy
from sandbox.policy.merge import Layer, build_policy
from sandbox.policy.schema import SECTIONS, TABLES, TOP
from sandbox.policy.show import describe
from tests.support.fuzzing import examples

_WORDS = (
    "strict default ALL CHOWN /tmp /data /proc /dev/shm /../x // 5m 1G 50% 1:2 unlimited inherit "
    "single range keep-id overlay bind none host deny allow D1 unix signal refuse degrade root 0 "
    "nofile core HOME LD_X net.ipv4.x target source size mode inodes read_only"
)
WORDS = st.sampled_from(_WORDS.split())
SCALARS = st.one_of(
    WORDS,
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.just(datetime.date(2020, 1, 1)),
    st.integers(0, 4096),
    st.just(1 << 200),
)
MOUNTS = st.fixed_dictionaries(
    {"target": st.one_of(WORDS, SCALARS)},
    optional={"source": WORDS, "size": SCALARS, "mode": SCALARS, "inodes": SCALARS},
)
VALUES = st.recursive(
    st.one_of(SCALARS, MOUNTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(WORDS, st.text(max_size=10)), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        **{
            section: st.one_of(
                VALUES, st.fixed_dictionaries({}, optional=dict.fromkeys(checks, VALUES))
            )
            for section, checks in SECTIONS.items()
        },
        **dict.fromkeys((*TABLES, *TOP), VALUES),
    },
)
ANY = st.one_of(SHAPED, st.dictionaries(st.one_of(WORDS, st.text(max_size=9)), VALUES, max_size=5))


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ANY, max_size=3))
def test_dictionaries(datas: list[dict[str, Any]]) -> None:
    layers = [Layer(f"{number}.toml", data) for number, data in enumerate(datas)]
    try:
        policy = build_policy(layers)
    except PolicyError as error:
        assert error.problems  # noqa: PT017 - an error is one of two right outcomes
        return
    hash(policy)
    describe(policy)
    compare(policy, policy)


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
)
def test_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.toml"
    path.write_bytes(data)
    try:
        build_policy(load_policy(str(path)))
    except PolicyError as error:
        assert str(error)  # noqa: PT017 - an error is one of two right outcomes


KEYS = st.sampled_from([f"{s}.{k}" for s, checks in SECTIONS.items() for k in checks])
_TOML_VALUES = (
    '1 -1 1.5 true "" "a" "/a" [] [1] ["a"] {} {a=1} 2020-01-01 inf nan 0x10 "5m" "1G" '
    '["ALL"] ["/a"] [{target="/a"}] {A="b"} {A=false}'
)
TOML_VALUES = st.sampled_from(_TOML_VALUES.split())


@settings(
    max_examples=examples(200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(KEYS, TOML_VALUES, max_size=6))
def test_well_formed_files(tmp_path: Path, pairs: dict[str, str]) -> None:
    path = tmp_path / "fuzz.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in pairs.items()))
    try:
        describe(build_policy(load_policy(str(path))))
    except PolicyError as error:
        assert str(error)  # noqa: PT017 - an error is one of two right outcomes


TEXT = st.text(max_size=20)


@settings(deadline=None)
@given(TEXT)
def test_references(ref: str) -> None:
    try:
        load_policy(ref, search=("/nonexistent",))
    except PolicyError as error:
        assert str(error)  # noqa: PT017 - an error is one of two right outcomes
