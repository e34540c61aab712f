"""System call filters: `program(...)` gives the BPF bytes for a policy's seccomp section.

    rules      the values: actions, conditions, FilterSpec
    groups     the built-in data: D1, D2, the allow-list of strict, argument rules
    profile    policy section → FilterSpec        oci      Docker/OCI JSON → FilterSpec
    compile    FilterSpec → BPF                   cache    compiled filters on disk

In every filter callers of another ABI than x86_64 (i386, x32) are killed, and numbers without a
name get ENOSYS. With a warm cache none of the modules above but `cache` is imported.
"""

from __future__ import annotations

import os

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import Seccomp

PROFILE_BYTES_MAX = 1 << 20


class Program(Record):
    """A compiled filter (`filter` is b"" for "unconfined") and what its maker should be told."""

    filter: bytes
    warnings: tuple[str, ...] = ()


def program(
    seccomp: Seccomp,
    *,
    nested: bool,
    capabilities: tuple[str, ...],
    cache_dir: str | None,
    landlock_tcp: bool = False,
) -> bytes:
    """The filter of `build` without its warnings; b"" means unconfined."""
    return build(
        seccomp,
        nested=nested,
        capabilities=capabilities,
        cache_dir=cache_dir,
        landlock_tcp=landlock_tcp,
    ).filter


def build(
    seccomp: Seccomp,
    *,
    nested: bool,
    capabilities: tuple[str, ...],
    cache_dir: str | None,
    landlock_tcp: bool = False,
) -> Program:
    """The filter for a policy's seccomp section, as an array of struct sock_filter.

    `nested` leaves out what nested containers need. `landlock_tcp` also refuses the ways round
    Landlock's TCP rules (the allow-list always does). `capabilities`, with or without "CAP_",
    decide the "includes" and "excludes" of an OCI profile, which replaces base, groups, sockets
    and both of these switches. `cache_dir`: where to keep compiled filters; None keeps none.
    Raises PolicyError with all problems of the section or of the profile.
    """
    if seccomp.profile is None and seccomp.base == "unconfined":
        return Program(b"")
    text = b"" if seccomp.profile is None else read_profile(seccomp.profile)
    if cache_dir is None:
        return _compile(seccomp, text, nested, landlock_tcp, capabilities)

    from sandbox.seccomp import cache

    wanted: tuple[object, ...]
    if seccomp.profile is None:
        wanted = (seccomp.base, seccomp.groups, seccomp.sockets, nested, landlock_tcp)
    else:
        wanted = (None, tuple(sorted(capabilities)), os.uname().release)
    key = cache.make_key(ascii(wanted).encode(), text)
    if key and (found := cache.load(cache_dir, key)):
        return Program(*found)
    made = _compile(seccomp, text, nested, landlock_tcp, capabilities)
    if key:
        cache.store(cache_dir, key, made.filter, made.warnings)
    return made


def _compile(
    seccomp: Seccomp, text: bytes, nested: bool, landlock_tcp: bool, capabilities: tuple[str, ...]
) -> Program:
    from sandbox.seccomp.compile import compile_filter

    if seccomp.profile is None:
        from sandbox.seccomp.profile import from_policy

        return Program(
            compile_filter(from_policy(seccomp, nested=nested, landlock_tcp=landlock_tcp))
        )
    from sandbox.seccomp.oci import from_oci, kernel_version

    spec, warnings = from_oci(
        text,
        name=seccomp.profile,
        capabilities=capabilities,
        kernel=kernel_version(os.uname().release),
    )
    return Program(compile_filter(spec), warnings)


def read_profile(path: str) -> bytes:
    """The bytes of a profile, at most PROFILE_BYTES_MAX."""
    from sandbox.errors import PolicyError
    from sandbox.linux.files import read_whole

    try:
        return read_whole(path, PROFILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        cause = (getattr(error, "strerror", None) or str(error)).lower()
        raise PolicyError(f'cannot read the seccomp profile "{path}"', cause=cause) from error
