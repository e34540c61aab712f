"""Options of docker, podman and bwrap that `run` lacks or calls otherwise, and commands of theirs,
each with what to do.

The one table of them; a word leaves it when it becomes an option of `options`. Read only when a
command line is wrong.
"""

from __future__ import annotations

from sandbox.cli.commands.run import policy_problems
from sandbox.cli.flags import problems_error, read_flags
from sandbox.cli.groups import near_name, usage_hint
from sandbox.cli.options import RUN_FORM, RUN_OPTIONS
from sandbox.cli.parse import misread
from sandbox.errors import UsageError

_NOT_YET = "not in this version"
_NO_IMAGES = f"{_NOT_YET}: ROOTFS is a folder, which an image is unpacked into first"
_OWN_NAMESPACES = "not needed: a sandbox has namespaces of its own for everything"
_ALWAYS = "not needed: always so"
_KERNEL_FILES = "not needed: /proc, /dev and /sys are as the policy says"

# Names, how many words follow as values, and what to do instead.
_ROWS: tuple[tuple[str, int, str], ...] = (
    # docker and podman
    ("-P --publish-all", 0, "use -p 0:PORT for each port; sbx port shows what was picked"),
    ("--shm-size", 1, "put it into a policy file: filesystem.shm"),
    ("--cpu-quota --cpu-period", 1, "use --cpus NUMBER"),
    ("--cpuset-mems --memory-swappiness --blkio-weight-device", 1, _NOT_YET),
    ("--blkio-weight", 1, "use --io-weight"),
    ("--device-read-bps --device-write-bps", 1, "use --io-max DEVICE:rbps=N,wbps=N"),
    ("--device-read-iops --device-write-iops", 1, "use --io-max DEVICE:riops=N,wiops=N"),
    ("--oom-kill-disable --oom-score-adj", 1, "the sandbox is always what goes first"),
    ("--entrypoint", 1, "write the program after ROOTFS: sbx run ROOTFS PROGRAM [ARG]..."),
    ("--userns", 1, 'the policy decides: identity.map = "range", "single" or "keep-id"'),
    ("--cgroupns", 1, f"{_OWN_NAMESPACES}, and the host's cannot be joined"),
    ("--add-host", 1, "mount a file instead: -v ./FILE:/etc/hosts:ro"),
    ("--sysctl", 1, 'put it into a policy file: sysctls."NAME" = "VALUE"'),
    ("--stop-timeout", 1, "put it into a policy file: process.grace"),
    ("--stop-signal", 1, "put process.grace into a policy file; sbx itself sends TERM, then KILL"),
    ("--rootfs", 0, "not needed: the first word that is no option is ROOTFS"),
    ("--platform --pull", 1, _NO_IMAGES),
    ("-l --label --label-file --annotation --cidfile", 1, f"{_NOT_YET}; see --name and --report"),
    ("--log-driver", 1, "output goes to where sbx's own goes; redirect it, or see sbx logs"),
    ("--log-opt", 1, "use --log-max-size SIZE"),
    ("--storage-opt", 1, "put it into a policy file: filesystem.size"),
    ("--cgroup-parent", 1, "put it into a policy file: resources.driver"),
    ("--kernel-memory", 1, "use --memory SIZE"),
    ("--expose", 1, "not needed: -p publishes any port"),
    ("--ip --ip6 --mac-address", 1, _NOT_YET),
    ("--sig-proxy", 0, "not needed: signals are passed on"),
    ("--http-proxy", 0, "not needed: only what the policy names is passed on"),
    ("--detach-keys", 1, "it is an option of sbx attach"),
    ("-a --attach", 1, "output is always attached; -i connects standard input"),
    ("--group-add", 1, "-u USER:GROUP sets the one group inside"),
    ("--volumes-from --link --health-cmd --runtime --gpus", 1, _NOT_YET),
    ("--apparmor --selinux", 1, "sbx changes no label and no profile"),
    # bwrap
    ("--bind", 2, "use -v SRC:DST"),
    ("--ro-bind", 2, "use -v SRC:DST:ro"),
    ("--bind-try", 2, "use -v SRC:DST:optional"),
    ("--ro-bind-try", 2, "use -v SRC:DST:ro,optional"),
    ("--dev-bind --dev-bind-try", 2, "use -v SRC:DST, for /dev/fuse, /dev/kvm and /dev/net/tun"),
    ("--overlay-src --overlay --tmp-overlay --ro-overlay", 1, "see --storage and --persist"),
    ("--remount-ro", 1, "use --read-only for the root, -v SRC:DST:ro for a volume"),
    ("--proc --dev --mqueue", 1, _KERNEL_FILES),
    ("--dir", 1, "use --tmpfs DST, or make it in ROOTFS"),
    ("--symlink --file --bind-data --ro-bind-data", 2, "make it in ROOTFS, or use -v SRC:DST:ro"),
    ("--unshare-all --unshare-user --unshare-ipc --unshare-pid", 0, _OWN_NAMESPACES),
    ("--unshare-uts --unshare-cgroup --unshare-user-try --unshare-cgroup-try", 0, _OWN_NAMESPACES),
    ("--unshare-net", 0, "use --network=none, which all built-in policies have"),
    ("--share-net", 0, "use --network=host"),
    ("--setenv", 2, "use -e NAME=VALUE"),
    ("--unsetenv", 1, "put it into a policy file: process.env.NAME = false"),
    ("--clearenv", 0, "not needed: only what the policy names is passed on"),
    ("--chdir --cwd", 1, "use -w DIR"),
    ("--uid", 1, "use -u USER[:GROUP]"),
    ("--gid", 1, "use -u USER:GROUP"),
    ("--die-with-parent --new-session --disable-userns", 0, _ALWAYS),
    ("--as-pid-1", 0, "use --no-init"),
    ("--seccomp --add-seccomp-fd", 1, "use --security-opt seccomp=FILE"),
    ("--info-fd --json-status-fd", 1, "use --status-fd N"),
    ("--sync-fd --block-fd --args", 1, _NOT_YET),
)  # fmt: skip

FOREIGN = {name: (values, hint) for names, values, hint in _ROWS for name in names.split()}

_AGAIN = "what has ended is not started again: begin a new one with sbx run -d"
_NO_STORE = "there are no images: unpack one into a folder, or make one with sbx rootfs"
COMMANDS = {
    "start": _AGAIN,
    "restart": f"{_AGAIN}; see --restart",
    "create": "a sandbox starts when it is made: sbx run -d",
    "ls": "use sbx ps",
    "update": "limits are given when a sandbox starts, by options of sbx run",
    "info": "use sbx doctor",
    "system": "see sbx doctor, sbx ps and sbx prune",
    "container": "leave it out: sbx ps, sbx rm and so on",
    "volume": "there are no named volumes: sbx run -v ./FOLDER:/PATH shows a folder",
    "image": _NO_STORE,
    "images": _NO_STORE,
    "pull": _NO_STORE,
    "build": _NO_STORE,
    "load": _NO_STORE,
    "import": _NO_STORE,
    "commit": "use sbx run --persist DIR, which keeps what changes",
    "diff": "use sbx run --persist DIR, which keeps what changes",
}

NO_TEMPLATES = "there are no templates: take it from the JSON, for example with jq"
_PICK = "pick from what --format json shows"
# Options of docker and podman that other commands of ours lack.
OPTIONS = {
    f"sbx {command}": {name: hint for names, hint in rows for name in names.split()}
    for command, *rows in (
        (
            "exec",
            ("--env-file", "use -e NAME=VALUE for each"),
            ("--privileged", "a command has the policy of its sandbox"),
        ),
        (
            "ps",
            ("-f --filter -l --latest -n --last", _PICK),
            ("--no-trunc", "--format json shortens nothing"),
            ("-s --size", "see sbx stats"),
        ),
        ("logs", ("--until --details", f"{_NOT_YET}; see --since and --tail")),
        ("inspect", ("-f", NO_TEMPLATES), ("-s --size", "see sbx stats")),
        ("stop", ("-s --signal", "it sends TERM; for another signal: sbx kill -s SIGNAL")),
        ("kill", ("-9", "use -s KILL, or nothing: it is the default")),
        ("rm", ("-v --volumes", "not needed: there are no volumes that would stay")),
        ("stats", ("-a --all", "what has ended uses nothing"), ("--no-trunc", _PICK)),
        ("events", ("--filter", _PICK), ("--until", "use --no-follow for what was")),
        (
            "network create",
            ("-d --driver", "not needed: every network is a bridge"),
            ("--ipv6 --attachable", _ALWAYS),
            ("--gateway --ip-range --label -o --opt", _NOT_YET),
        ),
        ("network ls", ("-q --quiet -f --filter --format", "pick from what --json shows")),
        ("network prune", ("-f --force", "not needed: it does not ask")),
    )
}

_FOLLOWING = {name: values for name, (values, _hint) in FOREIGN.items()}


def wrong_line(argv: list[str], program: str) -> UsageError | None:
    """Everything wrong with the options of a line of `run`, if it has some that do not exist."""
    parsed, unknown = misread(argv, _FOLLOWING, RUN_FORM)
    if not unknown:
        return None
    known = [name for option in RUN_OPTIONS for name in option.names]
    others = policy_problems(parsed, read_flags(parsed))
    if len(unknown) == 1 and not others:
        name = unknown[0]
        hint = FOREIGN[name][1] if name in FOREIGN else usage_hint(program, name, known)
        return UsageError(f'no such option "{name}"', hint=hint)
    lines = {
        name: FOREIGN[name][1] if name in FOREIGN else near_name(name, known) for name in unknown
    }
    found = [f"{name}: no such option{'; ' if hint else ''}{hint}" for name, hint in lines.items()]
    return problems_error((*found, *others), program)
