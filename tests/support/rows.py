"""What went wrong in other runtimes, row by row, and the tests that show that it is closed here.

A row's tests are probe checks ("probe NAME") and tests as pytest names them; the checks run under
every policy in tests/escape/test_probe.py.
"""

PROBE = "tests/escape/test_probe.py"
LAUNCHER = "tests/escape/test_launcher.py"
NEIGHBOURS = "tests/escape/test_neighbours.py"
DEATHS = "tests/escape/test_deaths.py"
BOMBS = "tests/escape/test_bombs.py"
ROOTFS = "tests/escape/test_rootfs.py"
TERMINAL = "tests/escape/test_terminal.py"
LANDLOCK = "tests/escape/test_landlock.py"
PROCESS = "tests/e2e/test_process.py"
FILES = "tests/e2e/test_files.py"
BAD_INPUT = "tests/e2e/test_bad_input.py"
LIMITS = "tests/e2e/test_limits.py"
TEARDOWN = "tests/e2e/test_teardown.py"
CODES = "tests/e2e/test_exit_codes.py"
REPORT = "tests/e2e/test_report.py"
LOAD = "tests/kernel/test_seccomp_load.py"
SPAWN = "tests/unit/launcher/test_spawn.py"


def _probe(names: str) -> tuple[str, ...]:
    return tuple(f"probe {name}" for name in names.split())


# What is handed in.
_HANDED_IN = {
    # CVE-2024-21626
    "leaked-descriptor": (
        *_probe("descriptors cwd"),
        f"{ROOTFS}::test_workdir_through_a_descriptor",
        f"{PROCESS}::test_passed_descriptor_and_no_other",
    ),
    # CVE-2019-5736
    "own-binary-overwritten": (
        *_probe("init_exe"),
        f"{LAUNCHER}::test_an_image_that_is_not_sealed_is_refused",
        f"{LAUNCHER}::test_a_plan_that_is_not_sealed_is_refused",
        f"{LAUNCHER}::test_the_init_tells_nothing",
        f"{ROOTFS}::test_the_program_is_the_launcher_itself",
    ),
    # CVE-2016-9962
    "runtime-traced": (
        *_probe("init_owner init_ptrace init_mem init_memory init_descriptor init_fd"),
        *_probe("init_root init_cwd init_files init_namespaces"),
    ),
    "callers-streams": (
        *_probe("streams"),
        f"{PROCESS}::test_standard_streams_are_not_the_callers",
        f"{NEIGHBOURS}::test_flags_of_the_callers_streams_stay",
    ),
    # CVE-2017-5226, CVE-2023-28100, CVE-2023-1523
    "terminal-input": (
        *_probe("tiocsti tioclinux terminal session"),
        f"{TERMINAL}::test_characters_cannot_be_pushed",
        f"{TERMINAL}::test_pushed_characters_end_in_the_sandboxs_own_terminal",
        f"{TERMINAL}::test_the_payload_holds_no_terminal_of_the_caller",
    ),
    # CVE-2019-7303, CVE-2019-10063
    "high-bits": (
        *_probe("tiocsti_high tioclinux_high clone_high unshare_high"),
        *_probe("socket_raw_high socket_vsock_high"),
        "tests/unit/seccomp/test_policies.py::test_the_limits_of_the_init_are_out_of_reach",
    ),
    "process-group": (
        *_probe("session"),
        f"{NEIGHBOURS}::test_signals_reach_no_neighbour",
    ),
    # CVE-2021-3602
    "environment": (*_probe("environment"), f"{PROCESS}::test_environment_starts_empty"),
    "environment-of-init": (
        *_probe("init_environ init_cmdline"),
        f"{LAUNCHER}::test_the_init_tells_nothing",
        f"{SPAWN}::test_environment_arguments_and_signals",
    ),
    # CVE-2024-32462, CVE-2016-10122
    "option-injection": (
        f"{BAD_INPUT}::test_option_looking_command",
        f"{BAD_INPUT}::test_option_looking_arguments_belong_to_the_command",
        f"{BAD_INPUT}::test_newline_in_a_variable_name",
        f"{BAD_INPUT}::test_nul_in_an_environment_file",
        f"{BAD_INPUT}::test_odd_names",
    ),
    # CVE-2022-2989, CVE-2022-2990, CVE-2022-2995, CVE-2022-36109
    "primary-group": (f"{PROCESS}::test_supplementary_groups_are_gone",),
    # CVE-2014-8989, CVE-2018-7169
    "dropping-groups": (
        *_probe("setgroups"),
        f"{PROCESS}::test_groups_that_cannot_be_dropped_are_said",
    ),
    "kept-groups": (
        *_probe("groups ids"),
        f"{PROCESS}::test_supplementary_groups_are_gone",
        f"{PROCESS}::test_groups_that_cannot_be_dropped_are_said",
    ),
    "keyring": _probe("session_key add_key keyctl request_key"),
    "cwd-and-umask": (*_probe("cwd umask"), f"{PROCESS}::test_umask", f"{PROCESS}::test_workdir"),
    "signals": _probe("signals_blocked signals_ignored"),
}

# Set-up on paths that the attacker controls.
_SET_UP = {
    # CVE-2021-30465
    "exchanged-mount-target": (
        f"{ROOTFS}::test_exchange_in_the_rootfs",
        f"{ROOTFS}::test_exchange_in_a_bind",
        f"{ROOTFS}::test_odd_mount_targets",
    ),
    # CVE-2019-19921, CVE-2023-27561, CVE-2023-28642
    "proc-is-a-link": (
        f"{ROOTFS}::test_kernel_directories_are_not_reached_through_links",
        f"{ROOTFS}::test_odd_places",
    ),
    # CVE-2019-16884
    "volume-over-proc": (f"{BAD_INPUT}::test_protected_targets",),
    # CVE-2025-31133
    "masks": (
        *_probe("proc_secrets core_pattern mounts_locked"),
        f"{ROOTFS}::test_odd_places",
    ),
    # CVE-2025-52565
    "console": (
        f"{PROBE}::test_a_terminal_of_its_own_adds_only_itself",
        f"{TERMINAL}::test_the_payload_holds_no_terminal_of_the_caller",
    ),
    # CVE-2025-52881
    "redirected-proc-writes": (
        *_probe("proc_sys sysrq core_pattern"),
        f"{ROOTFS}::test_exchange_in_the_rootfs",
    ),
    # CVE-2026-41579, CVE-2026-47766
    "dev-is-a-link": (
        f"{ROOTFS}::test_kernel_directories_are_not_reached_through_links",
        f"{ROOTFS}::test_odd_places",
    ),
    # CVE-2024-45310, CVE-2019-18837
    "mount-points-made-outside": (
        f"{ROOTFS}::test_odd_mount_targets",
        f"{ROOTFS}::test_odd_places",
    ),
    # CVE-2024-42472
    "exchanged-source": (
        f"{LAUNCHER}::test_an_exchanged_source_is_refused",
        f"{LAUNCHER}::test_an_exchanged_folder_for_changes_is_refused",
        f"{ROOTFS}::test_exchange_of_a_source",
    ),
    # CVE-2024-9676, CVE-2024-9341, CVE-2018-15664, CVE-2019-10152, CVE-2023-0778
    "files-of-the-image": (
        f"{ROOTFS}::test_odd_places",
        f"{ROOTFS}::test_odd_accounts",
        f"{ROOTFS}::test_account_lines",
    ),
    # CVE-2016-10118
    "files-written-into-the-root": (
        f"{ROOTFS}::test_odd_places",
        f"{FILES}::test_the_root_is_never_written",
    ),
    # CVE-2021-20291
    "odd-files": (
        f"{ROOTFS}::test_odd_accounts",
        f"{ROOTFS}::test_account_lines",
        f"{NEIGHBOURS}::test_huge_arguments",
    ),
}

# Kernel interfaces.
_KERNEL = {
    # CVE-2016-8867, CVE-2022-24769, CVE-2022-27649, CVE-2022-27650, CVE-2022-29162
    "capability-sets": (
        *_probe("cap_inheritable cap_permitted cap_effective cap_bounding cap_ambient setuid"),
        f"{PROBE}::test_user_0_has_the_capabilities_of_the_table",
        f"{PROCESS}::test_no_capabilities_and_no_new_privs",
    ),
    "set-user-id": (
        *_probe("no_new_privs mounts_nosuid"),
        f"{PROBE}::test_setuid_programs_gain_nothing",
        f"{ROOTFS}::test_set_user_id_programs_of_the_root_gain_nothing",
    ),
    # CVE-2022-0185, CVE-2023-0386, CVE-2023-32233, CVE-2024-1086
    "nested-user-namespaces": (
        *_probe("unshare clone clone3 unshare_time setns setns_init namespace_parents"),
        f"{PROBE}::test_without_the_filter_the_count_of_namespaces_still_refuses",
    ),
    # CVE-2021-41133
    "new-mount-calls": (
        *_probe("mount umount2 pivot_root fsopen fsconfig fsmount fspick open_tree"),
        *_probe("open_tree_attr move_mount mount_setattr"),
        f"{PROCESS}::test_mount_is_refused",
        f"{LOAD}::test_answers_of_every_policy",
    ),
    "clone3": (*_probe("clone3"), f"{LOAD}::test_real_programs_work"),
    "other-abis": (
        *_probe("x32 int80"),
        f"{LOAD}::test_x32_is_killed",
        f"{LOAD}::test_i386_is_killed",
    ),
    # CVE-2017-5206
    "ptrace": _probe("ptrace init_ptrace seccomp"),
    "io_uring": _probe("io_uring_setup io_uring_enter io_uring_register"),
    "user-notification": (f"{LOAD}::test_answers_of_strict",),
    "rare-calls": (
        *_probe("bpf perf_event_open userfaultfd kexec_load kexec_file_load init_module"),
        *_probe("finit_module delete_module swapon swapoff acct quotactl quotactl_fd syslog"),
        *_probe("fanotify_init mbind set_mempolicy get_mempolicy migrate_pages move_pages"),
        *_probe("set_mempolicy_home_node kcmp personality reboot settimeofday clock_settime"),
        *_probe("adjtimex clock_adjtime vhangup iopl ioperm ustat sysfs sethostname"),
        *_probe("setdomainname process_vm_readv process_vm_writev process_madvise pidfd_getfd"),
        *_probe("modify_ldt memfd_secret vmsplice remap_file_pages chroot"),
    ),
    # CVE-2014-3519
    "file-handles": _probe("open_by_handle_at name_to_handle_at"),
    "proc-sys": _probe("proc_sys core_pattern sysrq proc_figures mounts_locked"),
    "core-handlers": _probe("limit_core core_pattern"),
    # GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p
    "host-facts": _probe(
        "proc_secrets sys_secrets boot_id uptime hostname cgroup interfaces processes"
    ),
    # CVE-2023-25809, CVE-2022-0492
    "sys-and-cgroups": _probe("sys sys_writable sys_secrets cgroup"),
    "device-nodes": (
        *_probe("dev_names dev_nodes dev_metadata mknod ioctl_dev mounts_nodev"),
        f"{FILES}::test_devices",
    ),
    # CVE-2020-15257
    "abstract-sockets": _probe("abstract_socket"),
    "socket-families": _probe(
        "socket_packet socket_raw socket_raw6 socket_vsock socket_alg socket_netlink socket_key "
        "socket_xdp socket_bluetooth socket_tipc socket_smc socket_can ping_socket"
    ),
    "ipc": _probe("sysv mqueue shm tmp"),
    "chroot": (
        f"{ROOTFS}::test_a_chroot_inside_leads_nowhere",
        f"{FILES}::test_hosts_files_are_out_of_reach",
    ),
    "masks-removed": (
        *_probe("umount2 mount_setattr mounts_locked"),
        f"{FILES}::test_a_read_only_volume_cannot_be_made_writable",
    ),
    "shared-subtrees": (
        *_probe("mounts_private"),
        f"{PROBE}::test_mounts_of_a_host_that_shares_them_stay_apart",
    ),
    "paths-of-the-host": _probe("mounts_paths mounts_noexec root_read_only writable_places"),
    "network": _probe(
        "tcp mptcp fastopen fastopen_connect fastopen_message tcp_bind low_port host_port"
    ),
    "landlock": (
        f"{LANDLOCK}::test_writing_goes_no_further_than_the_mount",
        f"{LANDLOCK}::test_read_only_mounts_are_not",
        f"{LANDLOCK}::test_without_landlock_all_of_it_is_allowed",
        *_probe("init_signal ioctl_dev tcp_bind"),
    ),
}

# Resources and time.
_RESOURCES = {
    "forks": (
        *_probe("limit_nproc"),
        f"{BOMBS}::test_a_flood_is_bounded_and_others_work_meanwhile",
        f"{BOMBS}::test_two_floods_at_once_are_counted_apart",
        f"{BOMBS}::test_the_process_limit_counts_all_users_together",
    ),
    "memory": (
        *_probe("oom_score oom_score_lower limit_stack"),
        f"{BOMBS}::test_memory_of_a_flooded_file_system_comes_back",
    ),
    "disk-and-inodes": (
        *_probe("sizes limit_fsize"),
        f"{FILES}::test_the_writable_layer_is_bounded",
    ),
    "descriptors-and-queues": (
        *_probe("limit_nofile limit_memlock limit_msgqueue limit_sigpending limit_rtprio"),
        *_probe("limit_nice inotify leases"),
        f"{LIMITS}::test_ulimit",
    ),
    "init-limits": (
        *_probe("init_limits init_signals init_hidden init_capabilities"),
        f"{NEIGHBOURS}::test_limits_of_the_init_stay",
    ),
    "output": (
        f"{LIMITS}::test_output_past_the_limit_is_dropped_and_counted",
        f"{BOMBS}::test_output_flood_without_a_reader",
        f"{BOMBS}::test_output_flood_with_a_reader",
    ),
    "zombies": (f"{PROCESS}::test_init_reaps", f"{BOMBS}::test_zombies_are_reaped"),
    "time": (
        "tests/escape/test_joining.py::test_a_time_limit_holds_when_who_joined_is_stopped",
        "tests/escape/test_joining.py::test_what_looks_after_a_command_is_out_of_its_reach",
        f"{LAUNCHER}::test_the_time_limit_ends_what_would_end_later",
        f"{LAUNCHER}::test_the_time_limit_ends_what_ignores_signals",
        f"{BOMBS}::test_the_stubborn_meet_their_time_limit",
    ),
    "daemons": (
        f"{DEATHS}::test_a_daemon_dies_with_its_command",
        f"{TEARDOWN}::test_daemons_end_with_the_command",
    ),
    "killed-runner": (
        f"{NEIGHBOURS}::test_a_killed_part_takes_the_tree_along",
        f"{DEATHS}::test_killed_at_any_time",
        f"{TEARDOWN}::test_sigkill_at_any_time_of_the_start",
    ),
    "exit-code": (
        f"{NEIGHBOURS}::test_signals_are_exact",
        f"{CODES}::test_death_by_a_signal_is_128_and_its_number",
    ),
}

# What comes out.
_RESULTS = {
    "terminal-escapes": (
        f"{NEIGHBOURS}::test_names_are_shown_escaped",
        f"{NEIGHBOURS}::test_programs_are_described_escaped",
        f"{NEIGHBOURS}::test_an_interpreter_is_named_escaped",
        f"{BAD_INPUT}::test_control_characters_are_escaped",
    ),
    "forged-lines": (
        f"{NEIGHBOURS}::test_a_forged_status_is_not_believed",
        f"{CODES}::test_their_codes_are_told_from_ours",
        f"{REPORT}::test_status_descriptor",
    ),
    "report-and-state": (
        f"{NEIGHBOURS}::test_a_report_cannot_be_led_elsewhere",
        f"{NEIGHBOURS}::test_own_folders_do_not_show",
        f"{NEIGHBOURS}::test_own_folders_cannot_be_moved_away",
        f"{NEIGHBOURS}::test_own_folders_do_not_show_through_a_second_mount",
        f"{NEIGHBOURS}::test_a_link_on_the_way_to_own_folders_cannot_be_exchanged",
        "tests/unit/runtime/test_destination.py::test_a_symlink_is_replaced_and_not_followed",
    ),
    "artifacts": (
        "tests/e2e/test_persist.py::test_removal_takes_nothing_else",
        "tests/e2e/test_persist.py::test_folders_that_are_not_its_own_are_refused",
    ),
}

ROWS = {
    f"{section}/{row}": tests
    for section, rows in (
        ("handed-in", _HANDED_IN),
        ("set-up", _SET_UP),
        ("kernel", _KERNEL),
        ("resources", _RESOURCES),
        ("results", _RESULTS),
    )
    for row, tests in rows.items()
}
