"""What `sbx run` and `sbx explain` accept.

An option's `read` turns its text into settings of the policy; options without one steer the run
itself and are read by name. Values are applied in the order of the table, whatever the order on
the command line.
"""

from __future__ import annotations

from sandbox.cli import values
from sandbox.cli.forms import Argument, Form, Option
from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.policy.model import NETWORK_MODES, RLIMIT_NAMES, ROOT_MODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.values import Reader

STORAGE_CHOICES = tuple(mode for mode in ROOT_MODES if mode != "bind")


def _flag(group: str, names: str, help: str, read: Reader | None = None) -> Option:
    return Option(tuple(names.split()), "flag", group, help, read=read)


def _value(group: str, names: str, metavar: str, help: str, **more: object) -> Option:
    return Option(tuple(names.split()), "value", group, help, metavar, **more)  # type: ignore[arg-type]


def _repeat(group: str, names: str, metavar: str, help: str, **more: object) -> Option:
    return Option(tuple(names.split()), "repeat", group, help, metavar, **more)  # type: ignore[arg-type]


def _both(group: str, names: str, help: str, key: str) -> Option:
    return Option(tuple(names.split()), "negatable", group, help, read=values.switch(key))


FILES, PROCESS, LIFE, SECURITY, LIMITS, OUTPUT = (
    "Policy and files",
    "Process",
    "Life",
    "Isolation",
    "Limits",
    "What is shown and reported",
)
GROUPS = (FILES, PROCESS, LIFE, SECURITY, LIMITS, OUTPUT)

RUN_OPTIONS: tuple[Option, ...] = (
    _value(
        FILES,
        "--policy",
        "NAME|PATH",
        "The policy to run under; a name of `sbx policy list` or a file with a slash in its path.",
        complete="policy",
        convert=values.not_empty,
    ),
    _repeat(
        FILES,
        "-v --volume",
        "SRC:DST[:ro]",
        "Show the host's SRC as DST; add :ro for read-only, :optional if it may be missing.",
        read=values.volume,
        complete="dir",
    ),
    _repeat(
        FILES,
        "--mount",
        "type=bind|tmpfs,…",
        "Mount in words: type=bind,source=SRC,target=DST,readonly "
        "or type=tmpfs,target=DST,size=64M.",
        read=values.mount,
    ),
    _repeat(
        FILES,
        "--tmpfs",
        "DST[:WORDS]",
        "An empty folder in memory; words are size=, mode=, inodes=, exec and noexec.",
        read=values.tmpfs,
    ),
    _flag(
        FILES,
        "--read-only",
        "Make the root file system read-only.",
        values.constant("filesystem.read_only", True),
    ),
    _value(
        FILES,
        "--storage",
        "|".join(STORAGE_CHOICES),
        "How the root file system is kept unchanged: an overlay, or a copy.",
        read=values.choice("filesystem.root", STORAGE_CHOICES),
        choices=STORAGE_CHOICES,
    ),
    _value(
        FILES,
        "--persist",
        "DIR",
        "Keep what is written in DIR, for the next run with it.",
        read=values.setting("filesystem.persist", values.host_path),
        complete="dir",
    ),
    _repeat(
        PROCESS,
        "--env-file",
        "FILE",
        "Set the variables of a file of NAME=VALUE lines; --env goes before it.",
        read=values.env_file,
        complete="file",
    ),
    _repeat(
        PROCESS,
        "-e --env",
        "NAME[=VALUE]",
        "Set a variable, or pass the caller's value of NAME.",
        read=values.environment,
    ),
    _value(
        PROCESS,
        "-w --workdir",
        "DIR",
        "The current folder inside.",
        read=values.setting("process.cwd", values.not_empty),
    ),
    _value(
        PROCESS,
        "-u --user",
        "USER[:GROUP]",
        "The user inside, as a name or a number.",
        read=values.user,
    ),
    _flag(
        PROCESS,
        "--root",
        "Run as user 0 inside; the same as -u 0.",
        values.constant("identity.user", 0),
    ),
    _value(
        PROCESS,
        "-h --hostname",
        "NAME",
        "The host name inside.",
        read=values.setting("process.hostname", values.not_empty),
    ),
    _both(
        PROCESS,
        "--init",
        "Run a small init as process 1 that reaps and forwards signals.",
        "process.init",
    ),
    _flag(PROCESS, "-i --interactive", "Connect the caller's standard input."),
    _flag(
        PROCESS,
        "-t --tty",
        "Give the command a terminal of the sandbox's own.",
        values.constant("process.tty", True),
    ),
    _repeat(
        PROCESS,
        "--pass-fd",
        "N",
        "Keep the caller's open descriptor N for the command.",
        convert=values.passed_descriptor,
    ),
    _value(
        LIFE,
        "--name",
        "NAME",
        "A name by which other commands find this sandbox.",
        convert=values.sandbox_name,
    ),
    _flag(LIFE, "-d --detach", "Leave the sandbox running in the background; print its id."),
    _flag(LIFE, "--rm", "Keep nothing of a detached sandbox once it has ended."),
    _value(
        LIFE,
        "--restart",
        "no|on-failure[:N]",
        "Start a detached sandbox again when its command fails, at most N times.",
        convert=values.restart,
    ),
    _value(
        LIFE,
        "--log-max-size",
        "SIZE",
        "Keep at most this much output of a detached sandbox; the oldest goes first.",
        convert=values.log_size,
    ),
    _value(
        SECURITY,
        "--network --net",
        "|".join((*NETWORK_MODES, "NAME", "container:NAME")),
        "What the sandbox sees of the network; NAME is one of `sbx network ls`, "
        "container: that of a running sandbox.",
        read=values.network,
        choices=NETWORK_MODES,
    ),
    *(
        _value(
            SECURITY,
            f"--{kind}",
            "private|container:NAME",
            f"{what} of its own, or those of a running sandbox.",
            read=values.setting(f"namespaces.{kind}", values.not_empty),
        )
        for kind, what in (
            ("ipc", "System V memory and queues"),
            ("uts", "A host name"),
            ("pid", "Processes"),
        )
    ),
    _repeat(
        SECURITY,
        "--network-alias --net-alias",
        "NAME",
        "A further name by which others on its network find the sandbox.",
        read=values.item("network.aliases"),
    ),
    _value(
        SECURITY,
        "--net-rate",
        "RATE",
        "On a network of the host's: send and receive at most this much, such as 10M bits/s.",
        read=values.setting("network.rate", values.not_empty),
    ),
    _value(
        SECURITY,
        "--net-delay",
        "DURATION",
        "On a network of the host's: delay what is sent, such as 20ms.",
        read=values.setting("network.delay", values.not_empty),
    ),
    _value(
        SECURITY,
        "--net-loss",
        "PERCENT",
        "On a network of the host's: lose this much of what is sent, such as 1%.",
        read=values.setting("network.loss", values.not_empty),
    ),
    _flag(
        SECURITY,
        "--privileged",
        "For root only: no user namespace, all capabilities, no filter, the kernel's files open.",
        values.privileged,
    ),
    _repeat(
        SECURITY,
        "--device",
        "/dev/NAME",
        "For root only: show a device of the host, at its own name.",
        read=values.device,
    ),
    _repeat(
        SECURITY,
        "--allow",
        "HOST[:PORT][/PROTO]",
        "Let it reach a name, *.name, address, network, host:PORT or public.",
        read=values.item("network.allow"),
    ),
    _repeat(
        SECURITY,
        "--deny",
        "HOST[:PORT][/PROTO]",
        "Never this, whatever is allowed.",
        read=values.item("network.deny"),
    ),
    _repeat(
        SECURITY,
        "--dns",
        "ADDRESS",
        "Ask this name server instead of the host's.",
        read=values.item("network.dns"),
    ),
    _repeat(
        SECURITY,
        "-p --publish",
        "[IP:]PORT:PORT[/udp]",
        "Lead a port of the host inside; 0 picks one, see sbx port.",
        read=values.item("network.publish"),
    ),
    _repeat(
        SECURITY,
        "--cap-add",
        "CAP",
        "Keep a capability that the policy drops, or ALL.",
        read=values.item("capabilities.add"),
        choices=("ALL", *CAPABILITIES),
    ),
    _repeat(
        SECURITY,
        "--cap-drop",
        "CAP",
        "Drop a capability that the policy keeps, or ALL.",
        read=values.item("capabilities.drop"),
        choices=("ALL", *CAPABILITIES),
    ),
    _repeat(
        SECURITY,
        "--security-opt",
        "OPTION",
        "seccomp=FILE for a profile in the OCI's JSON form, seccomp=unconfined for none.",
        read=values.security_option,
        choices=("seccomp=", "seccomp=unconfined", "no-new-privileges"),
    ),
    _repeat(
        LIMITS,
        "--ulimit",
        "NAME=SOFT[:HARD]",
        "A resource limit, such as nofile=1024:4096.",
        read=values.ulimit,
        choices=tuple(f"{name}=" for name in RLIMIT_NAMES),
    ),
    _value(
        LIMITS,
        "-m --memory",
        "SIZE",
        "The most memory that all processes may use together, such as 512M.",
        read=values.setting("resources.memory", values.not_empty),
    ),
    _value(
        LIMITS,
        "--memory-swap",
        "SIZE",
        "Memory and swap together; without it no swap is used, -1 is no limit.",
        read=values.setting("resources.memory_swap", values.not_empty),
    ),
    _value(
        LIMITS,
        "--memory-reservation",
        "SIZE",
        "Below this, memory is taken from others first.",
        read=values.setting("resources.memory_reservation", values.not_empty),
    ),
    _value(
        LIMITS,
        "--cpus",
        "NUMBER",
        "How many processors' worth of time, such as 1.5.",
        read=values.setting("resources.cpus", values.not_empty),
    ),
    _value(
        LIMITS,
        "--cpu-weight",
        "1-10000",
        "The share of processor time under contention; everybody has 100.",
        read=values.setting("resources.cpu_weight", values.whole_number),
    ),
    _value(
        LIMITS,
        "-c --cpu-shares",
        "SHARES",
        "The same on the scale where everybody has 1024.",
        read=values.setting("resources.cpu_weight", values.cpu_shares),
    ),
    _value(
        LIMITS,
        "--cpuset-cpus",
        "LIST",
        "The processors that may be used, such as 0-3,6.",
        read=values.setting("resources.cpuset", values.not_empty),
    ),
    _value(
        LIMITS,
        "--pids-limit",
        "NUMBER",
        "The most processes and threads; -1 is no limit.",
        read=values.setting("resources.pids", values.number_or_unlimited),
    ),
    _repeat(
        LIMITS,
        "--io-max",
        "DEVICE:KEY=N,…",
        "What may be read and written a second: rbps, wbps, riops, wiops, such as "
        "/dev/sda:rbps=10M.",
        read=values.item("resources.io_max"),
    ),
    _value(
        LIMITS,
        "--io-weight",
        "1-10000",
        "The share of disks under contention; everybody has 100.",
        read=values.setting("resources.io_weight", values.whole_number),
    ),
    _value(
        LIMITS,
        "--timeout",
        "DURATION",
        "End the sandbox after this time, such as 90s or 5m.",
        read=values.setting("process.timeout", values.not_empty),
    ),
    _value(
        LIMITS,
        "--output-limit",
        "SIZE",
        "Pass on at most this much output, such as 16M, and drop the rest.",
        read=values.setting("process.output_limit", values.not_empty),
    ),
    _value(
        OUTPUT,
        "--report",
        "FILE",
        "Write the report of the run to FILE as JSON; - shows it for people on standard error.",
        complete="file",
        convert=values.not_empty,
    ),
    _value(
        OUTPUT,
        "--status-fd",
        "N",
        "Write events as JSON lines to the open descriptor N.",
        convert=values.open_descriptor,
    ),
    _flag(OUTPUT, "--dry-run", "Show what would be done and start nothing."),
    _flag(OUTPUT, "--json", "Show errors and plans as JSON."),
    _flag(OUTPUT, "--debug", "Show tracebacks and times."),
    _flag(OUTPUT, "-q --quiet", "Show no warnings."),
)
RUN_FORM = Form(
    "run",
    "run.main",
    RUN_OPTIONS,
    (
        Argument("ROOTFS", complete="dir"),
        Argument("COMMAND [ARG]...", "some", "file"),
    ),
    free=False,
)
