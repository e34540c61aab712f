"""Facts, policies and requests for the compiler, without any host."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sandbox.host.accounts import Account
from sandbox.host.facts import HostFacts
from sandbox.plan.request import Request, Source
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy

FACTS = HostFacts(
    uid=1000,
    gid=1000,
    groups=(1000,),
    user_name="ana",
    arch="x86_64",
    kernel=(6, 18),
    subuids=((100000, 65536),),
    subgids=((100000, 65536),),
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
    userns_error="",
    overlay_error="",
    proc_error="",
    landlock_abi=7,
    seccomp=True,
    time_namespace=True,
)


@pytest.fixture
def facts() -> HostFacts:
    return FACTS


@pytest.fixture(params=["strict", "default", "ci", "permissive"])
def policy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Each built-in policy, on a machine of 4 GiB."""
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.get)
    return build_policy(load_policy(request.param))


def strict() -> Policy:
    return build_policy(load_policy("strict"))


def make_request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "rootfs": Source("/srv/root", 1, 2, 0o40755),
        "argv": ("true",),
        "account": Account(1000),
        "program": b"\x06\0\0\0\0\0\xff\x7f",
    }
    return Request(**{**values, **changes})
