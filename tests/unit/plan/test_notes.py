"""What a plan says beside its degradations, and the files that a run has of its own."""

from __future__ import annotations

from sandbox.host.accounts import Account
from sandbox.host.facts import HostFacts
from sandbox.plan import ops
from sandbox.plan.compile import compile_plan
from sandbox.plan.request import Plan, Source
from sandbox.policy.model import Mount, Policy

from .conftest import make_request, strict


def writable(policy: Policy) -> Policy:
    return policy.replace(filesystem=policy.filesystem.replace(read_only=False))


def files(plan: Plan) -> dict[str, bytes]:
    found = [step.op for step in plan.steps if isinstance(step.op, ops.File)]
    assert len({op.number for op in found}) == len(found)
    return {op.path: op.content for op in found}


def test_a_root_of_somebody_else_is_noted_where_it_matters(facts: HostFacts) -> None:
    owned = {"owners": (1000, 0)}
    plan = compile_plan(writable(strict()), facts, make_request(**owned))
    assert "user 0 of this host" in plan.notes[0][1]
    for policy, request in (
        (strict(), make_request(**owned)),
        (writable(strict()), make_request(owners=(1000, 100_000))),
        (writable(strict()), make_request(storage="copy", **owned)),
    ):
        assert compile_plan(policy, facts, request).notes == ()


def test_tcp_that_stays_refused_is_noted(facts: HostFacts) -> None:
    host = strict().replace(network=strict().network.replace(mode="host"))
    assert "TCP is refused" in compile_plan(host, facts, make_request()).notes[0][0]
    allowed = host.replace(landlock=host.landlock.replace(tcp=False))
    assert compile_plan(allowed, facts, make_request()).notes == ()


def test_a_line_is_added_for_a_user_without_one(facts: HostFacts) -> None:
    account, names = Account(33), (b"root:x:0:0::/root:/bin/sh", b"root:x:0:\n")
    request = make_request(account=account, accounts=names)
    found = files(compile_plan(strict(), facts, request))
    assert found["/etc/passwd"].split(b"\n") == [names[0], b"user:x:33:33::/tmp:/bin/sh", b""]
    assert found["/etc/group"] == b"root:x:0:\nuser:x:33:\n"
    taken = (b"user:x:5:5::/:/bin/sh\n", b"users:x:33:\n")
    found = files(compile_plan(strict(), facts, make_request(account=account, accounts=taken)))
    assert found["/etc/passwd"].endswith(b"\nuser33:x:33:33::/tmp:/bin/sh\n")
    assert "/etc/group" not in found
    found = files(compile_plan(strict(), facts, make_request(account=account)))
    assert list(found) == ["/etc/hosts"]


def test_files_of_the_host_come_after_our_own_lines(facts: HostFacts) -> None:
    request = make_request(files=(("/etc/resolv.conf", b"r"), ("/etc/hosts", b"h")))
    found = files(compile_plan(strict(), facts, request))
    assert found["/etc/resolv.conf"] == b"r"
    assert found["/etc/hosts"].startswith(b"127.0.0.1 localhost")
    assert found["/etc/hosts"].endswith(b"\nh")


def test_what_the_user_shows_is_not_covered(facts: HostFacts) -> None:
    for target, left in (("/etc", []), ("/etc/hosts", ["/etc/resolv.conf"])):
        policy = strict()
        mounts = (Mount("/own", target),)
        policy = policy.replace(filesystem=policy.filesystem.replace(mounts=mounts))
        sources = (Source("/own", 1, 3, 0o40755),)
        request = make_request(sources=sources, files=(("/etc/resolv.conf", b"r"),))
        assert list(files(compile_plan(policy, facts, request))) == left
