/* Numbers and structures of the kernel that C libraries and older headers lack.
 * Sources: Linux UAPI headers; man pages named beside each group. */
#ifndef SBX_KERNEL_ABI_H
#define SBX_KERNEL_ABI_H

#include <stdint.h>
#include <sys/syscall.h>

/* System calls from 424 on have the same number on every architecture. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_clone3 435
#define NR_close_range 436
#define NR_openat2 437
#define NR_faccessat2 439
#define NR_mount_setattr 442
#define NR_landlock_create_ruleset 444
#define NR_landlock_add_rule 445
#define NR_landlock_restrict_self 446

/* openat2(2) */
struct abi_open_how {
	uint64_t flags;
	uint64_t mode;
	uint64_t resolve;
};
#define ABI_RESOLVE_NO_XDEV 0x01
#define ABI_RESOLVE_NO_MAGICLINKS 0x02
#define ABI_RESOLVE_NO_SYMLINKS 0x04
#define ABI_RESOLVE_BENEATH 0x08
#define ABI_RESOLVE_IN_ROOT 0x10

/* fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2) */
#define ABI_FSOPEN_CLOEXEC 0x1
#define ABI_FSMOUNT_CLOEXEC 0x1
#define ABI_FSCONFIG_SET_FLAG 0
#define ABI_FSCONFIG_SET_STRING 1
#define ABI_FSCONFIG_CMD_CREATE 6
#define ABI_OPEN_TREE_CLONE 0x1
#define ABI_OPEN_TREE_CLOEXEC 02000000
#define ABI_MOVE_MOUNT_F_EMPTY_PATH 0x04
#define ABI_MOVE_MOUNT_T_EMPTY_PATH 0x40
#define ABI_AT_RECURSIVE 0x8000
#define ABI_AT_EMPTY_PATH 0x1000

/* mount_setattr(2) */
struct abi_mount_attr {
	uint64_t attr_set;
	uint64_t attr_clr;
	uint64_t propagation;
	uint64_t userns_fd;
};
#define ABI_MOUNT_ATTR_RDONLY 0x1
#define ABI_MOUNT_ATTR_NOSUID 0x2
#define ABI_MOUNT_ATTR_NODEV 0x4
#define ABI_MOUNT_ATTR_NOEXEC 0x8
#define ABI_MOUNT_ATTR_NOSYMFOLLOW 0x200000 /* Linux 5.14 */

/* landlock(7) */
struct abi_landlock_ruleset_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net;
	uint64_t scoped;
};
struct abi_landlock_path_beneath_attr {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));
#define ABI_LANDLOCK_RULE_PATH_BENEATH 1

/* capget(2), capabilities(7) */
struct abi_cap_header {
	uint32_t version;
	int32_t pid;
};
struct abi_cap_data {
	uint32_t effective;
	uint32_t permitted;
	uint32_t inheritable;
};
#define ABI_CAP_VERSION_3 0x20080522
#define ABI_CAP_KILL 5

/* fcntl(2): seals of memfd_create(2) */
#define ABI_F_GET_SEALS 1034
#define ABI_F_SEAL_WRITE 0x0008
#define ABI_F_SEAL_ALL 0x000f /* seal, shrink, grow, write */

/* namespaces(7) */
#define ABI_CLONE_NEWUSER 0x10000000
#define ABI_CLONE_NEWTIME 0x00000080
#define ABI_CLONE_PIDFD 0x00001000

/* ioctl_ns(2) */
#define ABI_NS_GET_PARENT 0xB702

/* ioctl_ns(2), of a socket */
#define ABI_SIOCGSKNS 0x894C

/* linux/if_tun.h */
#define ABI_TUNSETIFF 0x400454ca
#define ABI_TUNSETOFFLOAD 0x400454d0
#define ABI_TUNSETIFINDEX 0x400454da

/* clone3(2), as of Linux 5.7 */
struct abi_clone_args {
	uint64_t flags;
	uint64_t pidfd;
	uint64_t child_tid;
	uint64_t parent_tid;
	uint64_t exit_signal;
	uint64_t stack;
	uint64_t stack_size;
	uint64_t tls;
	uint64_t set_tid;
	uint64_t set_tid_size;
	uint64_t cgroup;
};
#define ABI_CLONE_INTO_CGROUP 0x200000000ULL

/* ioctl_tty(2), keyctl(2), seccomp(2), prctl(2) */
#define ABI_TIOCGPTPEER 0x5441
#define ABI_TIOCSPTLCK 0x40045431
#define ABI_TIOCSCTTY 0x540E
#define ABI_KEYCTL_JOIN_SESSION_KEYRING 1
#define ABI_SECCOMP_MODE_FILTER 2

#endif
