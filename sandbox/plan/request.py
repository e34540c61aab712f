"""What one run brings along, and what was decided: the values around the compiler."""

from __future__ import annotations

from sandbox.errors import HostError
from sandbox.record import Record

DISK_OVERLAY = "overlay-disk"  # storage "overlay" whose changes need a folder of the run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.accounts import Account
    from sandbox.host.network import NetworkFacts
    from sandbox.plan.ops import Extents, Op
    from sandbox.policy.model import Policy


class Source(Record):
    """A host path as it was found: the plan is for this very file. `mode` is st_mode."""

    path: str
    dev: int
    ino: int
    mode: int


class Available(Record):
    """What a sandbox's control group can be: the driver that makes it, "" for none.

    `controllers`: what can be limited. `parent`: the folder it will lie in, "" where the driver
    finds that later. `cpus`: the processors that there are, as a list, "" where unknown. `cause`,
    `cure`: why something is missing, and what helps.
    """

    driver: str
    controllers: tuple[str, ...] = ()
    parent: str = ""
    cpus: str = ""
    cause: str = ""
    cure: str = ""


class Shared(Record):
    """The running sandbox that a new one shares namespaces with: its `id` and `name`, what its
    policy lets others share, its outer maps, the limit of user namespaces there ("" = none), its
    own network mode, and its /etc/hosts and /etc/resolv.conf.
    """

    id: str
    name: str
    uids: Extents
    gids: Extents
    deny_setgroups: bool
    room: str
    files: tuple[tuple[str, bytes], ...] = ()


class Request(Record):
    """One run: the command and everything that was looked up for it on the host.

    `rootfs` is the directory to show (for storage "copy": the finished copy), `upper` a folder for
    the changes of an overlay that cannot have them in memory, "" = it can, `upper_id` device and
    inode of the folder that has them, (0, 0) where none is there yet, `sources` the bind sources
    by their policy path, `hidden` paths inside that would show folders of sbx
    itself, `pinned` the (folder, place inside, read-only) on the way there, `env` the caller's
    environment, `hard_limits` the caller's own hard limits by name (None = unlimited), `program`
    the compiled filter, `warnings` what its profile named in vain. `owners` are the host's user
    ids that own the root file system's top. `files` are (path inside, content) of what
    comes with the network, `accounts` the root's own passwd and group, looked up where the
    payload's user has no line, b"" for what is no regular file. `cgroup` None: nobody has looked.
    `devices` are ("/dev/name", "major:minor") of what resources.io_max names. `shared`: the sandbox
    that policy.shared names. `network`: what the host can do for the network mode "user", None for
    others.
    """

    rootfs: Source
    argv: tuple[str, ...]
    account: Account
    sources: tuple[Source, ...] = ()
    hidden: tuple[str, ...] = ()
    pinned: tuple[tuple[Source, str, bool], ...] = ()
    warnings: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pass_fds: tuple[int, ...] = ()
    hard_limits: tuple[tuple[str, int | None], ...] = ()
    storage: str = "overlay"
    upper: str = ""
    upper_id: tuple[int, int] = (0, 0)
    program: bytes = b""
    owners: tuple[int, ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    accounts: tuple[bytes, bytes] = (b"", b"")
    cgroup: Available | None = None
    devices: tuple[tuple[str, str], ...] = ()
    shared: Shared | None = None
    network: NetworkFacts | None = None

    def source(self, path: str) -> Source | None:
        """The bind source for a policy path; None when an optional one was absent."""
        return next((found for found in self.sources if found.path == path), None)


class Degradation(Record):
    """A layer that is wanted and not there: what was lost and why.

    `quiet`: nobody wants it, or the command line itself asks for the loss: it is only written down.
    """

    layer: str
    lost: str
    cause: str
    quiet: bool = False

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"layer": self.layer, "lost": self.lost, "cause": self.cause}


def give_up(policy: Policy, lost: Degradation, what: str, hint: str) -> Degradation:
    """What is lost, where the policy lets it go. Raises HostError that says `what` where not."""
    if policy.refuses(lost.layer):
        raise HostError(what, cause=lost.cause, hint=hint)
    return lost


class Step(Record):
    """One operation and where it came from: "strict", "--volume", "sbx"."""

    op: Op
    origin: str


class Plan(Record):
    """What will be done, in order, and what is said about it.

    `notes` are (what, cause) of what might surprise, with all protection in force. `cgroup`: what
    the control group is made with, None for a sandbox without one.
    """

    steps: tuple[Step, ...]
    degradations: tuple[Degradation, ...]
    layers: tuple[str, ...]
    identity: str
    storage: str
    notes: tuple[tuple[str, str], ...] = ()
    cgroup: Available | None = None
