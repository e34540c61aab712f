"""sbx itself: the launcher alone with a ready plan, and the whole command."""

import os
import socket
import sys
from pathlib import Path

from bench.clock import Entry, Runner, spawn
from bench.payload import CODE
from sandbox.launcher.image import seal_bytes, seal_program
from sandbox.launcher.spawn import FD_CHANNEL, FD_OWNER, FD_PLAN
from sandbox.linux.paths import native
from sandbox.plan.wire import encode
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.decision import prepare
from sandbox.runtime.task import Task

POLICIES = {
    "1 id": '[identity]\nmap = "single"\nuser = 0\n',
    "65,536 ids": '[identity]\nmap = "range"\n',
}


def write_policies(folder: Path) -> dict[str, Path]:
    """One policy file for each kind of map, else the default policy."""
    found = {}
    for name, text in POLICIES.items():
        found[name] = folder / f"{text.split(chr(34))[1]}.toml"
        found[name].write_text(f'extends = "default"\n{text}')
    return found


def launcher(policy: Path, root: Path, argv: tuple[str, ...] = ("/bin/payload",)) -> Runner:
    """A runner of the launcher alone: plan and program lie ready in sealed memory."""
    task = Task(rootfs=str(root), argv=argv, env=())
    prepared = prepare(build_policy(load_policy(str(policy))), task)
    plan = seal_bytes("plan", encode(step.op for step in prepared.plan.steps))
    image = seal_program(native("sbx-launcher"))
    null = os.open(os.devnull, os.O_RDWR)
    owner = os.pidfd_open(os.getpid())
    path = f"/proc/self/fd/{image}"

    def run() -> int:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            places = {0: null, 1: null, 2: null, FD_PLAN: plan, FD_OWNER: owner}
            places[FD_CHANNEL] = far.fileno()
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in places.items()]
            pid = os.posix_spawn(path, ["init"], {}, file_actions=actions)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


def all_ours(root: Path, folder: Path, env: dict[str, str]) -> list[Entry]:
    """The launcher alone and the whole command, with one id and with 65,536."""
    sbx = str(Path(sys.executable).parent / "sbx")
    found = []
    for name, policy in write_policies(folder).items():
        found.append(Entry(f"launcher, ready plan, {name}", launcher(policy, root), CODE))
        words = [sbx, "run", "--policy", str(policy), str(root), "/bin/payload"]
        found.append(Entry(f"sbx run, {name}", spawn(words, env), CODE))
    words = [sbx, "run", "--policy", "strict", str(root), "/bin/payload"]
    found.append(Entry("sbx run --policy strict", spawn(words, env), CODE))
    bare = [sys.executable, "-I", "-S", "-c", f"import os; os._exit({CODE})"]
    found.append(Entry("(the Python interpreter alone)", spawn(bare, env), CODE))
    return found


TARGETS = {
    "launcher, ready plan, 1 id": 0.6,
    "launcher, ready plan, 65,536 ids": 1.0,
    "sbx run, 1 id": 8.0,
    "sbx run, 65,536 ids": 8.0,
    "sbx run --policy strict": 8.0,
}
