"""sbx doctor: tries everything that a sandbox needs, with a verdict and a cure for each.

Owns the list of checks and their sum. The checks live in `checks_*` and `cgroups`; trials run
in short-lived children with a deadline and leave nothing behind. Works the same for root.
"""

from __future__ import annotations

from sandbox.host import (
    cgroups,
    checks_kernel,
    checks_namespaces,
    checks_network,
    checks_storage,
)
from sandbox.host.finding import VERDICTS, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "CHECKS",
    "VERDICTS",
    "Finding",
    "as_dict",
    "exit_code",
    "lines",
    "run_doctor",
    "summary",
    "worst",
]

CHECKS: tuple[tuple[str, Callable[[], Finding]], ...] = (
    ("kernel", checks_namespaces.check_kernel),
    ("caller", checks_namespaces.check_caller),
    ("nested", checks_namespaces.check_nested),
    ("user-namespaces", checks_namespaces.check_userns),
    ("namespaces", checks_namespaces.check_namespaces),
    ("time-namespace", checks_namespaces.check_time_namespace),
    ("proc", checks_namespaces.check_proc),
    ("subordinate-ids", checks_namespaces.check_subids),
    ("id-helpers", checks_namespaces.check_helpers),
    ("id-map", checks_namespaces.check_id_map),
    ("overlay-memory", checks_storage.check_overlay_memory),
    ("overlay-disk", checks_storage.check_overlay_disk),
    ("overlay-lower", checks_storage.check_overlay_lower),
    ("landlock", checks_kernel.check_landlock),
    ("seccomp", checks_kernel.check_seccomp),
    ("seccomp-notify", checks_kernel.check_seccomp_notify),
    ("launcher", checks_kernel.check_launcher),
    ("sealed-program", checks_kernel.check_memfd_exec),
    ("cgroup", cgroups.check_cgroup),
    ("processes", checks_kernel.check_processes),
    ("tun", checks_kernel.check_tun),
    ("nftables", checks_kernel.check_nftables),
    ("user-network", checks_kernel.check_user_network),
    ("bridges", checks_network.check_bridges),
    ("runtime-folder", checks_storage.check_runtime_folder),
    ("cache", checks_storage.check_cache_space),
)


def iter_findings() -> Iterator[Finding]:
    """The findings one after the other, each as soon as its check is done."""
    for name, check in CHECKS:
        try:
            yield check()
        except OSError as error:
            words = f"could not be checked: {error.filename or ''} {error.strerror or error}"
            yield Finding(name, "warn", " ".join(words.split()))


def run_doctor() -> tuple[Finding, ...]:
    """All findings, in the order of CHECKS. Never raises for what the host lacks."""
    return tuple(iter_findings())


def worst(findings: Iterable[Finding]) -> str:
    """The worst verdict among `findings`; "ok" when there are none."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="ok")


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when sandboxes can run, perhaps with less (warnings); 1 when something must be cured."""
    return 1 if worst(findings) == "fail" else 0


def as_dict(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings for JSON: {"verdict": the worst, "findings": [{name, verdict, detail, fix}]}.

    Names and verdicts are stable, the texts are for people; `fix` is "" or lines to copy.
    """
    return {"verdict": worst(findings), "findings": [dict(finding) for finding in findings]}


def summary(findings: Sequence[Finding]) -> str:
    """One line that says what the findings mean together."""
    counts = [sum(f.verdict == verdict for f in findings) for verdict in ("fail", "warn")]
    fails, warns = (
        f"{count} {noun}{'s' * (count != 1)}"
        for count, noun in zip(counts, ("failure", "warning"), strict=True)
    )
    if counts[0]:
        return f"sandboxes cannot run here: {fails}, {warns}"
    return f"sandboxes can run here{f', with less than they could have: {warns}' * bool(counts[1])}"


def lines(findings: Iterable[Finding]) -> list[str]:
    """The findings for people, one line each, fixes indented below; not escaped."""
    text = []
    for finding in findings:
        text.append(f"{finding.verdict:<4}  {finding.name:<16}  {finding.detail}")
        text += [
            f"      fix: {line}" if i == 0 else f"           {line}"
            for i, line in enumerate(finding.fix.splitlines())
        ]
    return text
