"""What only root can ask for: no user namespace, devices, the kernel's files as they are."""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.plan.request import Degradation
from sandbox.policy.model import NO_MAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.accounts import Account
    from sandbox.host.facts import HostFacts
    from sandbox.policy.model import Policy


def _asked(policy: Policy) -> dict[str, str]:
    """What of all this the policy asks for, in words, by the key that does."""
    files = policy.filesystem
    wishes = {
        "identity.map": "no user namespace" * (policy.identity.map == NO_MAP),
        "filesystem.devices": "devices of the host" * bool(files.devices),
        "filesystem.guard": "the kernel's files unguarded" * (not files.guard),
        "filesystem.sys": "a writable /sys" * (files.sys == "writable"),
    }
    return {key: words for key, words in wishes.items() if words}


def check_privileged(policy: Policy, facts: HostFacts, account: Account) -> list[Degradation]:
    """What is given up, each aloud. Raises PolicyError where the policy refuses what is asked for,
    or the caller is not root.
    """
    asked = _asked(policy)
    refusable = dict(asked)
    if set(policy.capabilities.add) == set(CAPABILITIES):
        refusable["capabilities.add"] = "all capabilities"
    if refusable and not policy.identity.privileged:
        where = policy.origin("identity.privileged")
        raise PolicyError(
            f"the policy {policy.name} refuses {', '.join(refusable.values())}",
            cause=f"identity.privileged is false (from {where})",
            hint="leave it out, or use a policy for code of your own, such as default",
        )
    if asked and facts.uid:
        origins = dict.fromkeys(policy.origin(key) for key in asked)
        raise PolicyError(
            f"only root can have {', '.join(asked.values())}",
            cause=f"you are user {facts.uid} (asked by {', '.join(origins)})",
            hint="-v /dev/fuse:/dev/fuse, /dev/kvm and /dev/net/tun need no root; "
            "--policy permissive allows most of what does not either",
        )
    if policy.identity.map == NO_MAP and policy.shared:
        raise PolicyError(
            "cannot share namespaces without a user namespace",
            cause="the one that both live in would be the host's",
            hint="share with no other sandbox, or leave identity.map as it is",
        )
    return _losses(policy, account)


def _losses(policy: Policy, account: Account) -> list[Degradation]:
    texts = {
        "identity.map": (
            "user",
            "user namespaces",
            f"user {account.uid} inside is the host's own, and capabilities are the host's",
        ),
        "filesystem.devices": (
            "devices",
            "a /dev of its own alone",
            f"{', '.join(policy.filesystem.devices)}: the host's, to be read and written",
        ),
        "filesystem.guard": (
            "proc",
            "masked and locked files of the kernel",
            "what /proc and /sys tell and take, they tell and take here",
        ),
        "filesystem.sys": ("sys", "a read-only /sys", "it gives orders to the host's devices"),
    }
    return [
        Degradation(layer, lost, f"{cause} (from {policy.origin(key)})")
        for key, (layer, lost, cause) in texts.items()
        if key in _asked(policy)
    ]
