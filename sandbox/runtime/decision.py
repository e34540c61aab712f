"""What a run will be: its storage is chosen and its plan compiled. Nothing is made or started."""

from __future__ import annotations

import os

from sandbox.host.probe import host_facts
from sandbox.linux.workspace import runs_dir
from sandbox.plan.compile import choose_storage, compile_plan
from sandbox.plan.request import DISK_OVERLAY
from sandbox.record import Record
from sandbox.runtime.gather import gather
from sandbox.runtime.task import Task, check_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.request import Plan
    from sandbox.policy.model import Policy
    from sandbox.services.network import Network


class Prepared(Record):
    """The plan of a run and why its storage is not an overlay over memory, "" when it is."""

    plan: Plan
    storage_reason: str


def prepare(policy: Policy, task: Task) -> Prepared:
    """Validate and compile; nothing is created or started. Raises SbxError."""
    check_task(task, policy.process.env)
    facts = host_facts()
    storage, reason = choose(policy, facts, task)
    return Prepared(decide(policy, facts, task, storage), reason)


def choose(policy: Policy, facts: HostFacts, task: Task) -> tuple[str, str]:
    """The storage of a run, and why it is not an overlay over memory, "" when it is."""
    storage, reason = choose_storage(policy, facts, host_root=os.path.samefile(task.rootfs, "/"))
    if storage == "copy" and policy.filesystem.root == "auto":
        storage = instead(policy, facts, task)
    return storage, reason


def instead(policy: Policy, facts: HostFacts, task: Task) -> str:
    """The storage for a root that overlayfs cannot show."""
    from sandbox.runtime.root import has_mount_points

    if policy.filesystem.read_only:
        plan = decide(policy, facts, task, "bind")
        if has_mount_points(plan, task.rootfs):
            return "bind"
    return "copy"


def decide(
    policy: Policy,
    facts: HostFacts,
    task: Task,
    storage: str,
    made: str = "",
    network: Network | None = None,
) -> Plan:
    """The plan. `made` is what the storage's driver has prepared, "" as long as it has not; so
    is `network` None. Raises SbxError."""
    env = dict(os.environ) if task.env is None else dict(task.env)
    on_disk = storage == DISK_OVERLAY
    request = gather(
        policy,
        facts,
        shown(task, storage, made),
        task.argv,
        env=env,
        storage="overlay" if on_disk else storage,
        upper=made or runs_dir() if on_disk else "",
        pass_fds=task.pass_fds,
        files=network.files if network else (),
    )
    return compile_plan(policy, facts, request)


def shown(task: Task, storage: str, made: str) -> str:
    """The folder that is shown as the root."""
    return made if made and storage == "copy" else task.rootfs
