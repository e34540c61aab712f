"""Why user namespaces fail: each reason from the files that give it away."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from sandbox.host import userns

FULL = "         0          0 4294967295"
ROOTED = "27 1 254:0 / / rw - ext4 /dev/vda rw"


def files(**changes: str) -> Callable[[str], str]:
    """A machine on which nothing stands in the way, with some files changed by last name."""
    known = {
        "uid_map": FULL,
        "mountinfo": ROOTED,
        "status": "NoNewPrivs:\t0\nSeccomp:\t0",
        "max_user_namespaces": "96365",
        **changes,
    }
    return lambda path: known.get(path.rpartition("/")[2], "")


@pytest.mark.parametrize(
    ("number", "changes", "cause", "fix"),
    [
        (
            errno.EPERM,
            {"unprivileged_userns_clone": "0", "apparmor_restrict_unprivileged_userns": "1"},
            "kernel.unprivileged_userns_clone is 0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (errno.EACCES, {"apparmor_restrict_unprivileged_userns": "1"}, "no profile", "apparmor_pa"),
        (errno.EPERM, {"mountinfo": "30 27 0:5 / /tmp rw - tmpfs t rw"}, "in a chroot", ""),
        (errno.EPERM, {"status": "Seccomp:\t2"}, "seccomp filter", "docker run"),
        (errno.ENOSYS, {"status": "Seccomp:\t2"}, "seccomp filter", "docker run"),
        (errno.EPERM, {"uid_map": "4000000000 5 1"}, "is not mapped", ""),
        (errno.EPERM, {}, "a security module", ""),
        (errno.ENOSPC, {"max_user_namespaces": "0"}, "user.max_user_namespaces is 0", "sysctl -p"),
        (errno.ENOSPC, {"max_net_namespaces": "0"}, "user.max_net_namespaces is 0", "max_net_"),
        (errno.ENOSPC, {}, "(96365)", "sysctl -p"),
        (errno.EUSERS, {"max_user_namespaces": ""}, "32 are nested", ""),
        (errno.EINVAL, {}, "CONFIG_USER_NS", ""),
        (errno.EAGAIN, {}, "ulimit -u", ""),
        (errno.ENOMEM, {}, "out of memory", ""),
        (errno.EIO, {}, "input/output error", ""),
    ],
)
def test_reason_and_cure(number: int, changes: dict[str, str], cause: str, fix: str) -> None:
    found = userns.explain(number, read=files(**changes))
    assert cause in found.cause
    assert fix in found.fix
    assert bool(found.fix) == bool(fix)
    assert found.hint
    assert "\n" not in found.cause + found.hint
    assert not found.cause.endswith(".")


@pytest.mark.parametrize(
    ("number", "release", "changes", "cause", "hint"),
    [
        (errno.ENOSYS, "5.10.0", {"status": "Seccomp:\t2"}, "this is Linux 5.10.0", "Linux 5.12"),
        (errno.ENOSYS, "6.1.0", {"status": "Seccomp:\t2"}, "have, refuses", "docker run"),
        (errno.EPERM, "6.1.0", {"status": "Seccomp:\t2"}, "have, may refuse", "docker run"),
        (errno.EPERM, "6.1.0", {}, "", ""),
        (errno.ENOSYS, "6.1.0", {}, "", ""),
        (errno.EINVAL, "6.1.0", {"status": "Seccomp:\t2"}, "", ""),
    ],
)
def test_a_refused_call(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    release: str,
    changes: dict[str, str],
    cause: str,
    hint: str,
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", release, "", "")))
    found = userns.explain_refused_call(number, read=files(**changes))
    assert (cause in found[0], hint in found[1]) == (True, True)
    assert (bool(found[0]), bool(found[1])) == (bool(cause), bool(hint))


def test_error_text_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = userns.Explanation("a cause", "a hint", "a\nprofile")
    monkeypatch.setattr(userns, "explain", lambda _: explanation)
    cause, hint = userns.explain_in_a_line(errno.EPERM)
    assert (cause, hint.count("\n")) == ("a cause", 0)
    assert "sbx doctor" in hint
    explanation = userns.Explanation("a cause", "ask somebody", "sudo cure")
    assert userns.explain_in_a_line(errno.EPERM) == ("a cause", "ask somebody: sudo cure")
    explanation = userns.Explanation("a cause", "a hint")
    assert userns.explain_in_a_line(errno.EPERM) == ("a cause", "a hint")


def test_apparmor_profile_names_the_program() -> None:
    text = userns.apparmor_profile("/opt/py/bin/python3")
    assert 'profile sbx "/opt/py/bin/python3" flags=(unconfined) {' in text
    assert "  userns,\n" in text
    assert text.endswith("apparmor_parser --replace /etc/apparmor.d/sbx")


def test_container_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)
    assert userns.container_signs(files(), lambda _: False) == ()
    monkeypatch.setenv("container", "oci\x1b[0m")
    read = files(cgroup="0::/docker/1234", container="docker")
    signs = userns.container_signs(read, lambda path: path == "/run/.containerenv")
    assert len(signs) == 4
    assert signs[0] == "/run/.containerenv exists"
    assert "\x1b" not in "".join(signs)


def test_chroot_sign() -> None:
    assert not userns.chrooted(ROOTED)
    assert not userns.chrooted("")
    assert userns.chrooted("30 27 0:5 / /tmp rw - tmpfs t rw")
