"""Every measure that holds a sandbox, and the tests that are red without it.

`python -m tests.support.measures` prints the matrix.
"""

from tests.support import patches
from tests.support.switch import (
    Measure,
    both,
    change,
    drop,
    patch_sbx,
    probe,
    without_attribute,
    without_ioctl_rules,
    without_namespace,
    without_option,
)

DEFAULT_ROOT = ("default", "--user", "0")
FREE = ("permissive", "--security-opt", "seccomp=unconfined")
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
NEW_UTS, NEW_IPC, NEW_NET, NEW_CGROUP = 0x04000000, 0x08000000, 0x40000000, 0x02000000
NEW_USER, NEW_MOUNT, NEW_PID = 0x10000000, 0x00020000, 0x20000000
RLIMITS = {
    "core": 4,
    "nofile": 7,
    "fsize": 1,
    "memlock": 8,
    "msgqueue": 12,
    "sigpending": 11,
    "stack": 3,
}


# ---- the matrix ----------------------------------------------------------------------------------

NESTING = both(
    drop("ProcWrite", path="sys/user/max_user_namespaces"),
    change("InnerUser", lambda _: {"closed": 0}),
)
PROBE_TESTS = "tests/escape/test_probe.py"
SHARING = "tests/escape/test_sharing.py"
SHARED = "tests/e2e/test_sharing.py"
LAUNCHER_TESTS = "tests/escape/test_launcher.py"
NEIGHBOURS = "tests/escape/test_neighbours.py"
BOMBS = "tests/escape/test_bombs.py"
JOINING = "tests/escape/test_joining.py"
ROOTFS = "tests/escape/test_rootfs.py"
PROCESS = "tests/e2e/test_process.py"
NETWORK = "tests/e2e/test_network_user.py"

HANDED_IN = (
    Measure(
        "descriptors are closed",
        (probe("descriptors"),),
        launcher=(("main.c", "\tclose_strangers(&plan);\n", ""),),
        plan=drop("CloseDescriptors"),
    ),
    Measure(
        "the launcher runs from a sealed image",
        (f"{LAUNCHER_TESTS}::test_an_image_that_is_not_sealed_is_refused",),
        launcher=(("main.c", "if (!image_sealed())", "if (0)"),),
    ),
    Measure(
        "the image is sealed",
        ("tests/unit/launcher/test_image.py",),
        patch=patches.no_seals,
        starts=False,
    ),
    Measure(
        "the plan is sealed",
        (f"{LAUNCHER_TESTS}::test_a_plan_that_is_not_sealed_is_refused",),
        launcher=(("main.c", "(seals & ABI_F_SEAL_ALL) != ABI_F_SEAL_ALL", "0"),),
    ),
    Measure(
        "what leaves is turned to who judges it",
        (f"{NETWORK}::test_what_is_allowed_is_reached_and_nothing_else[strict]",),
        plan=drop("Netlink", protocol=12),
    ),
    Measure("streams are pipes", (probe("streams"),), patch=patches.callers_streams),
    Measure(
        "the payload's session",
        (probe("session"),),
        launcher=(("init.c", "setsid() < 0", "0"),),
    ),
    Measure(
        "the environment starts empty", (probe("environment"),), patch=patches.callers_environment
    ),
    Measure(
        "the init's arguments",
        (probe("init_cmdline", "default"),),
        patch=patches.arguments_for_the_init,
    ),
    Measure(
        "the init's environment",
        (f"{LAUNCHER_TESTS}::test_the_init_tells_nothing",),
        patch=patches.environment_for_the_init,
    ),
    Measure(
        "the init's descriptors are closed",
        (f"{LAUNCHER_TESTS}::test_the_init_tells_nothing",),
        launcher=(("init.c", "\tclose_all_but_ours();\n", ""),),
    ),
    Measure(
        "the init is not dumpable",
        (probe("init_owner", "default"),),
        launcher=(
            ("init.c", "prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)", "(void)0"),
            ("main.c", "prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)", "(void)0"),
        ),
    ),
    Measure(
        "the init keeps one capability",
        (probe("init_capabilities", "default"),),
        launcher=(("init.c", "\tkeep_only_kill();\n", ""),),
    ),
    Measure(
        "groups are dropped",
        (probe("groups"), f"{PROCESS}::test_supplementary_groups_are_gone"),
        launcher=(("init.c", "if (!deny_setgroups && ", "if (0 && "),),
        plan=change("Ids", lambda _: {"set_groups": 0}),
    ),
    Measure(
        "the primary group is in the list",
        (f"{PROCESS}::test_supplementary_groups_are_gone",),
        plan=change("Ids", lambda _: {"groups": ()}),
    ),
    Measure(
        "the session keyring",
        (probe("session_key", "strict", "--security-opt", "seccomp=unconfined"),),
        plan=drop("Keyring"),
    ),
    Measure("the umask", (probe("umask"),), launcher=(("main.c", "\tumask(022);\n", ""),)),
    Measure(
        "signals are reset",
        (probe("signals_blocked"),),
        launcher=(("init.c", "\treset_signals();\n", ""),),
    ),
)

PLACES = (
    Measure(
        "paths are resolved in the root",
        (f"{ROOTFS}::test_odd_mount_targets[auto-folder]",),
        launcher=(
            (
                "sys.h",
                "struct abi_open_how how = {",
                "if (resolve & ABI_RESOLVE_IN_ROOT) {\n"
                "\t\twhile (*path == '/')\n\t\t\tpath++;\n"
                '\t\tpath = *path ? path : ".";\n'
                "\t\tresolve &= ~(uint64_t)ABI_RESOLVE_IN_ROOT;\n\t}\n"
                "\tstruct abi_open_how how = {",
            ),
        ),
    ),
    Measure(
        "no links on the way to /proc, /sys and /dev",
        (f"{ROOTFS}::test_kernel_directories_are_not_reached_through_links",),
        launcher=(("place.c", "if (flags & KERNEL_DIRECTORY)", "if (0)"),),
    ),
    Measure(
        "mounts are private",
        (f"{PROBE_TESTS}::test_mounts_of_a_host_that_shares_them_stay_apart",),
        launcher=(("root.c", 'mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0', "0"),),
    ),
    Measure(
        "a source is the file that was checked",
        (f"{LAUNCHER_TESTS}::test_an_exchanged_source_is_refused",),
        launcher=(("root.c", "if (st.st_dev != dev || st.st_ino != ino)", "if (0)"),),
    ),
    Measure(
        "what looks after a joined command is out of its reach",
        (f"{JOINING}::test_what_looks_after_a_command_is_out_of_its_reach[default-sections0]",),
        launcher=(("join.c", "\tbecome_another(ctx, uid);\n", ""),),
    ),
    Measure(
        "what is kept goes into the folder that was checked",
        (f"{LAUNCHER_TESTS}::test_an_exchanged_folder_for_changes_is_refused",),
        launcher=(("root.c", "if (host >= 0 && to->ino && (", "if (0 && ("),),
    ),
    Measure(
        "no link in a kept layer is followed",
        (f"{ROOTFS}::test_links_in_a_kept_layer_lead_nowhere[names0]",),
        launcher=(("root.c", "if (close_links(tree) < 0)", "if (0)"),),
    ),
    Measure(
        "masks",
        (probe("proc_secrets", "default"), probe("boot_id", "default")),
        plan=drop("Mask"),
    ),
    Measure(
        "masks are read-only",
        (probe("mounts_locked", "default"),),
        launcher=(
            (
                "root.c",
                "set_attributes(ctx->covers, ALL_ATTRIBUTES)",
                "set_attributes(ctx->covers, ALL_ATTRIBUTES & ~ABI_MOUNT_ATTR_RDONLY)",
            ),
        ),
    ),
    Measure("locks", (probe("proc_sys", "default"),), plan=drop("Lock")),
    Measure(
        "an own procfs of processes alone",
        (probe("proc_figures"),),
        plan=without_option("subset=", target="/proc"),
    ),
    Measure(
        "foreign processes are hidden",
        (probe("init_hidden"),),
        plan=without_option("hidepid=", target="/proc"),
    ),
    Measure("nosuid", (probe("mounts_nosuid", "default"),), plan=without_attribute(NOSUID)),
    Measure("nodev", (probe("mounts_nodev", "default"),), plan=without_attribute(NODEV)),
    Measure("noexec", (probe("mounts_noexec"),), plan=without_attribute(NOEXEC)),
    Measure(
        "nosuid and nodev of the root",
        (probe("mounts_nosuid", "default"), probe("mounts_nodev", "default")),
        launcher=(
            (
                "root.c",
                "discarded ? 5 : 4,\n\t\t\t\t  ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV",
                "discarded ? 5 : 4, 0",
            ),
        ),
    ),
    Measure(
        "nosuid and nodev of volumes",
        (probe("mounts_nosuid", "strict", "-v", "/usr:/srv:ro"),),
        plan=change("Bind", lambda _: {"attributes": RDONLY}, target="/srv"),
    ),
    Measure("the root is read-only", (probe("root_read_only"),), plan=drop("Remount", path="/")),
    Measure(
        "/dev is read-only",
        (probe("writable_places", "permissive", "--read-only"),),
        plan=drop("Remount", path="/dev"),
    ),
    Measure(
        "nodes are read-only",
        (probe("dev_metadata", "default"),),
        launcher=(
            (
                "mounts.c",
                "set_attributes(node, ALL_ATTRIBUTES & ~ABI_MOUNT_ATTR_NODEV)",
                "set_attributes(node, ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NOEXEC)",
            ),
        ),
    ),
    Measure("an own /tmp", (probe("tmp"),), plan=drop("Filesystem", target="/tmp")),
    Measure("sizes of writable places", (probe("sizes"),), plan=without_option("size=")),
    Measure("files of writable places", (probe("sizes"),), plan=without_option("nr_inodes=")),
    Measure(
        "the number of terminals",
        (f"{BOMBS}::test_a_flood_is_bounded_and_others_work_meanwhile[terminals-0-256]",),
        plan=without_option("max=", fstype="devpts"),
    ),
    # create_user_ns() refuses whoever is not in the root of his mount namespace.
    Measure(
        "the old root is detached",
        (),
        launcher=(("root.c", 'umount2(".", MNT_DETACH) < 0', "0"),),
        starts=False,
    ),
    Measure(
        "pivot_root",
        (),
        launcher=(
            ("root.c", 'syscall(SYS_pivot_root, ".", ".") < 0', 'chroot(".") < 0'),
            ("root.c", 'fchdir(old) < 0 || umount2(".", MNT_DETACH) < 0', "0"),
        ),
        starts=False,
    ),
    Measure(
        "the working directory lies inside",
        (f"{ROOTFS}::test_workdir_through_a_descriptor",),
        launcher=(("security.c", " || now[0] != '/'", ""),),
    ),
)

KERNEL = (
    Measure(
        "the filter",
        (probe("seccomp"), probe("io_uring_setup"), probe("int80")),
        plan=drop("Seccomp"),
    ),
    Measure("the filter: D1", (probe("bpf", "default"),), patch=patches.no_names("_D1_EPERM")),
    Measure(
        "the filter: D1, unknown",
        (probe("keyctl", "default"),),
        patch=patches.no_names("_D1_ENOSYS"),
    ),
    Measure("the filter: D2", (probe("kcmp", "default"),), patch=patches.no_names("_D2_EPERM")),
    Measure(
        "the filter: numa",
        (probe("get_mempolicy", "default"),),
        patch=patches.no_names("_D2_ENOSYS"),
    ),
    Measure(
        "the filter: mounts",
        (probe("mount", "default"),),
        patch=patches.no_names("_D2_NESTED_EPERM"),
    ),
    Measure(
        "the filter: new mount calls",
        (probe("fsconfig", "default"),),
        patch=patches.no_names("_D2_NESTED_ENOSYS"),
    ),
    Measure(
        "the filter: i386",
        (probe("int80"), probe("int80", "permissive")),
        patch=patches.answer_i386,
    ),
    Measure(
        "the filter: x32", (probe("x32"), probe("x32", "permissive")), patch=patches.answer_x32
    ),
    Measure(
        "the filter: terminals",
        (probe("tiocsti"), probe("tioclinux")),
        patch=patches.no_clauses("IOCTL"),
    ),
    Measure(
        "the filter: 32 bits of an ioctl",
        (probe("tiocsti_high"), probe("tioclinux_high")),
        patch=patches.compare_64_bits,
    ),
    Measure("the filter: sockets", (probe("socket_netlink"),), patch=patches.all_sockets),
    Measure("the filter: TCP", (probe("fastopen_connect"),), patch=patches.no_tcp_rules),
    Measure(
        "the filter: personality", (probe("personality"),), patch=patches.no_clauses("PERSONALITY")
    ),
    Measure(
        "the filter: limits of the init",
        (probe("init_limits", "default"),),
        patch=patches.no_clauses("PRLIMIT"),
    ),
    Measure(
        "the filter: limits of others under strict",
        (probe("init_limits"),),
        patch=patches.no_clauses("PRLIMIT_OWN"),
    ),
    Measure(
        "no leases on files",
        (probe("leases"),),
        patch=patches.no_clauses("FCNTL"),
    ),
    Measure(
        "the filter and the count of namespaces",
        (probe("clone", "default"), probe("clone_high", "default")),
        patch=patches.no_clauses("CLONE"),
        plan=NESTING,
    ),
    Measure(
        "the count of namespaces",
        (f"{PROBE_TESTS}::test_without_the_filter_the_count_of_namespaces_still_refuses",),
        plan=NESTING,
    ),
    Measure("no_new_privs", (probe("no_new_privs", *FREE),), plan=drop("NoNewPrivs")),
    Measure(
        "the count of namespaces, of each that shares",
        (f"{SHARING}::test_no_namespace_is_made_while_another_comes_in",),
        launcher=(("init.c", "\tclose_inner(ctx);\n", ""),),
    ),
    Measure(
        "the newcomer's own user namespace",
        (f"{SHARING}::test_what_is_not_shared_is_out_of_reach",),
        launcher=(("share.c", "sys_clone(ABI_CLONE_NEWUSER, pidfd)", "sys_clone(0, pidfd)"),),
    ),
    Measure(
        "all that lives in a user namespace ends",
        (f"{SHARED}::test_a_newcomer_cannot_outlive_itself",),
        launcher=(("keeper.c", "\t\tshare_end(k->namespaces[NAMESPACE_INNER]);\n", ""),),
    ),
    Measure(
        "only process 1 of its own stops them all",
        (f"{SHARED}::test_pausing_stops_no_other",),
        launcher=(("orders.c", "if (order > 64 && k->tenant)", "if (0)"),),
    ),
    Measure(
        "capabilities",
        (probe("cap_bounding"), f"{PROBE_TESTS}::test_user_0_has_the_capabilities_of_the_table"),
        plan=drop("SetCapabilities"),
    ),
    Measure(
        "the bounding set",
        (probe("cap_bounding"),),
        launcher=(("security.c", "prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0", "0"),),
    ),
    Measure(
        "the inner user namespace",
        (probe("ids"),),
        plan=both(drop("InnerUser"), change("Ids", lambda _: {"uid": 0, "gid": 0, "groups": (0,)})),
    ),
    Measure(
        "Landlock: files",
        (probe("oom_score_lower"),),
        plan=both(drop("LandlockPath"), change("LandlockRuleset", lambda _: {"handled_fs": 0})),
    ),
    Measure("Landlock: devices", (probe("ioctl_dev"),), plan=without_ioctl_rules),
    Measure(
        "Landlock: TCP",
        (probe("tcp_bind"),),
        plan=change("LandlockRuleset", lambda _: {"handled_net": 0}),
    ),
    Measure(
        "Landlock: signals",
        (probe("init_signal"),),
        plan=change("LandlockRuleset", lambda op: {"scoped": op.scoped & ~2}),
    ),
    Measure(
        "Landlock: abstract sockets",
        (probe("abstract_socket", "default", "--network", "host"),),
        plan=change("LandlockRuleset", lambda op: {"scoped": op.scoped & ~1}),
    ),
    Measure("the host name", (probe("hostname"),), plan=drop("Hostname")),
    Measure(
        "the uts namespace",
        (f"{PROCESS}::test_namespaces_are_own",),
        plan=both(without_namespace(NEW_UTS), drop("Hostname")),
    ),
    Measure(
        "the ipc namespace",
        (probe("sysv"), probe("mqueue", "permissive")),
        plan=without_namespace(NEW_IPC),
    ),
    Measure(
        "the net namespace",
        (probe("interfaces", "default"), probe("host_port", "default")),
        plan=both(
            without_namespace(NEW_NET),
            drop("Loopback"),
            drop("ProcWrite", path="sys/net/ipv4/ip_unprivileged_port_start"),
        ),
    ),
    Measure(
        "the cgroup namespace",
        (f"{PROCESS}::test_namespaces_are_own",),
        plan=without_namespace(NEW_CGROUP),
    ),
    Measure("the time namespace", (probe("uptime"),), plan=drop("TimeNamespace")),
    *(
        Measure(f"the {name} namespace", (), plan=without_namespace(flag), starts=False)
        for name, flag in (("user", NEW_USER), ("mount", NEW_MOUNT), ("pid", NEW_PID))
    ),
)

RESOURCES = (
    *(
        Measure(
            f"RLIMIT_{name.upper()}",
            (probe(f"limit_{name}"),),
            plan=drop("SetRlimit", resource=number),
        )
        for name, number in RLIMITS.items()
    ),
    Measure(
        "RLIMIT_NPROC",
        (probe("limit_nproc"),),
        plan=both(drop("SetRlimit", resource=6), drop("ProcessLimit")),
    ),
    Measure(
        "processes of all users together",
        (f"{BOMBS}::test_the_process_limit_counts_all_users_together",),
        plan=drop("ProcessLimit"),
    ),
    Measure(
        "the oom score", (probe("oom_score"),), plan=drop("ProcWrite", path="self/oom_score_adj")
    ),
    Measure(
        "inotify instances",
        (probe("inotify"), probe("inotify", "permissive")),
        plan=drop("ProcWrite", path="sys/user/max_inotify_instances"),
    ),
    Measure(
        "the output limit",
        ("tests/e2e/test_limits.py::test_output_past_the_limit_is_dropped_and_counted",),
        patch=patches.no_output_limit,
    ),
    Measure(
        "the time limit",
        (f"{LAUNCHER_TESTS}::test_the_time_limit_ends_what_would_end_later",),
        patch=patches.supervisor(timeout_s=0.0),
    ),
    Measure(
        "the kill after the time limit",
        (f"{LAUNCHER_TESTS}::test_the_time_limit_ends_what_ignores_signals",),
        patch=patches.no_kill,
    ),
    Measure(
        "the init reaps",
        (f"{BOMBS}::test_zombies_are_reaped",),
        launcher=(
            (
                "init.c",
                "wait4(-1, &status, WNOHANG, &usage)",
                "wait4(w->payload, &status, WNOHANG, &usage)",
            ),
        ),
    ),
    Measure(
        "the launcher watches its owner",
        (f"{NEIGHBOURS}::test_a_killed_part_takes_the_tree_along[python---init]",),
        launcher=(("keeper.c", "k->upstream, owner, FD_CONTROL", "-1, -1, FD_CONTROL"),),
    ),
    Measure(
        "the init dies with the launcher",
        (f"{NEIGHBOURS}::test_a_killed_part_takes_the_tree_along[launcher---init]",),
        launcher=(
            ("init.c", "prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)", "0"),
            ("init.c", "{ FD_LIFELINE, POLLIN, 0 },", "{ -1, POLLIN, 0 },"),
        ),
    ),
    Measure(
        "what has joined ends from outside",
        (f"{JOINING}::test_a_time_limit_holds_when_who_joined_is_stopped[single]",),
        launcher=(("main.c", "\t\tjoin_end(pid);\n", ""),),
    ),
    Measure(
        "the guard of a payload that is process 1",
        (f"{NEIGHBOURS}::test_a_killed_part_takes_the_tree_along[launcher---no-init]",),
        launcher=(("main.c", "has_init ? 0 : start_guard(pidfd, &guard_end)", "0"),),
    ),
)

RESULTS = (
    Measure(
        "names are escaped",
        (f"{NEIGHBOURS}::test_names_are_shown_escaped[words5]",),
        patch=patches.no_escapes,
    ),
    Measure(
        "the report replaces, and follows no link",
        ("tests/unit/runtime/test_destination.py::test_a_symlink_is_replaced_and_not_followed",),
        patch=patches.report_through_links,
    ),
    Measure(
        "sbx's own folders are covered",
        (f"{NEIGHBOURS}::test_own_folders_do_not_show[strict-]",),
        patch=patches.own_folders_shown,
    ),
    Measure(
        "sbx's own folders cannot be moved",
        (f"{NEIGHBOURS}::test_own_folders_cannot_be_moved_away",),
        patch=patches.own_folders_movable,
    ),
    Measure(
        "sbx's own folders are covered wherever they are mounted",
        (f"{NEIGHBOURS}::test_own_folders_do_not_show_through_a_second_mount[/twice]",),
        patch=patches.own_folders_at_one_place,
    ),
    Measure(
        "no link on the way to them can be exchanged",
        (f"{NEIGHBOURS}::test_a_link_on_the_way_to_own_folders_cannot_be_exchanged[default-]",),
        patch=patches.own_folders_behind_links,
    ),
    Measure(
        "files of the root are read inside it",
        (f"{ROOTFS}::test_odd_accounts[etc/passwd-absolute]",),
        patch=patches.read_plainly,
    ),
)

MEASURES = {m.name: m for m in (*HANDED_IN, *PLACES, *KERNEL, *RESOURCES, *RESULTS)}

# What no test can miss by itself: another measure, or the kernel, does the same.
DOUBLED = {
    "the launcher's own session": "the payload makes its own, and the launcher blocks all signals",
    "inheritable and ambient sets are cleared": "a new user namespace starts with both empty",
    "the permitted set is trimmed": "an exec keeps nothing that the bounding set lacks",
    "PR_SET_PDEATHSIG of the init": "the end of its lifeline tells it too",
    "the end of the channel": "the launcher has a pidfd of its owner too",
    "the type of the procfs for writes": "a fresh one has no other type",
    "devices are compared by number": "only the host's root can put another node into its /dev",
    "a mount is looked at again": "the target is a descriptor; only a race shows the difference",
    "devpts is a new instance": "every mount of devpts is one, from Linux 4.7 on",
    "setgroups is denied for one id": "the kernel refuses the map otherwise",
    "what is handed out is closed": "the init and the payload close all but their own",
    "one descriptor list of the two": "the launcher's closes what the payload's would, and back",
}


def switch_off(names: list[str], launcher: str) -> None:
    """Switch measures off in this process."""
    patch_sbx([MEASURES[name] for name in names], launcher)


def matrix() -> list[str]:
    """The measures and their tests, one line each."""
    lines = []
    for measure in MEASURES.values():
        for number, red in enumerate(measure.red or ("nothing starts",)):
            lines.append(f"{'' if number else measure.name:<44} {red}")
    lines += [f"{name:<44} doubled: {why}" for name, why in DOUBLED.items()]
    return lines


if __name__ == "__main__":
    print("\n".join(matrix()))
