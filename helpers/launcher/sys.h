/* System calls that C libraries do not wrap, one function each, errno as usual. */
#ifndef SBX_SYS_H
#define SBX_SYS_H

#define _GNU_SOURCE
#include "kernel_abi.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

/* The call that was refused last: an errno alone does not say what an old kernel lacks, or what
 * the filter of an outer container takes away. */
extern const char *refused_call;

static inline int sys_noted(long result, const char *name)
{
	if (result < 0 && (errno == ENOSYS || errno == EPERM))
		refused_call = name;
	return (int)result;
}

static inline int sys_openat2(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct abi_open_how how = { flags | O_CLOEXEC, 0, resolve };
	return sys_noted(syscall(NR_openat2, dirfd, path, &how, sizeof(how)), "openat2");
}

static inline int sys_fsopen(const char *type)
{
	return sys_noted(syscall(NR_fsopen, type, ABI_FSOPEN_CLOEXEC), "fsopen");
}

static inline int sys_fsconfig(int fd, unsigned command, const char *key, const char *value)
{
	return sys_noted(syscall(NR_fsconfig, fd, command, key, value, 0), "fsconfig");
}

static inline int sys_fsmount(int fd, unsigned attributes)
{
	return sys_noted(syscall(NR_fsmount, fd, ABI_FSMOUNT_CLOEXEC, attributes), "fsmount");
}

/* Clone the mount (and all below it) that `path` under `dirfd` stands on, detached. A symbolic
 * link at its end is not followed. */
static inline int sys_open_tree(int dirfd, const char *path)
{
	unsigned flags = ABI_OPEN_TREE_CLONE | ABI_OPEN_TREE_CLOEXEC | ABI_AT_EMPTY_PATH |
			 ABI_AT_RECURSIVE | AT_SYMLINK_NOFOLLOW;
	return sys_noted(syscall(NR_open_tree, dirfd, path, flags), "open_tree");
}

/* Attach to `to` under `to_dirfd`, or to the descriptor itself when `to` is empty. A symbolic link
 * at its end is not followed. */
static inline int sys_move_mount(int from, int to_dirfd, const char *to)
{
	unsigned flags = ABI_MOVE_MOUNT_F_EMPTY_PATH | (*to ? 0U : ABI_MOVE_MOUNT_T_EMPTY_PATH);
	return sys_noted(syscall(NR_move_mount, from, "", to_dirfd, to, flags), "move_mount");
}

static inline int sys_mount_setattr(int fd, unsigned flags, struct abi_mount_attr *attr)
{
	flags |= ABI_AT_EMPTY_PATH;
	return sys_noted(syscall(NR_mount_setattr, fd, "", flags, attr, sizeof(*attr)),
			 "mount_setattr");
}

static inline int sys_close_range(unsigned first, unsigned last)
{
	return sys_noted(syscall(NR_close_range, first, last, 0), "close_range");
}

static inline int sys_pidfd_send_signal(int pidfd, int signal)
{
	return sys_noted(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0),
			 "pidfd_send_signal");
}

/* Close a descriptor that may be none, -1, and is none from then on. */
static inline void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* fork(2) with namespace flags. clone(2) rather than clone3(2): outer filters that refuse
 * clone3 with ENOSYS are common, and no flag here needs it. *pidfd is close-on-exec. */
static inline pid_t sys_clone(unsigned long flags, int *pidfd)
{
#if defined(__s390x__)
	return (pid_t)syscall(SYS_clone, 0UL, flags | ABI_CLONE_PIDFD | 17UL, pidfd, 0UL, 0UL);
#else
	return (pid_t)syscall(SYS_clone, flags | ABI_CLONE_PIDFD | 17UL, 0UL, pidfd, 0UL, 0UL);
#endif
}

/* The same into the control group of a directory. A child that is moved later would wait for all
 * forks of the machine to be over (cgroup_threadgroup_rwsem). */
static inline pid_t sys_clone_into(uint64_t flags, int cgroup, int *pidfd)
{
	struct abi_clone_args args = { .flags = flags | ABI_CLONE_PIDFD | ABI_CLONE_INTO_CGROUP,
				       .pidfd = (uint64_t)(uintptr_t)pidfd,
				       .exit_signal = 17,
				       .cgroup = (uint64_t)cgroup };
	return (pid_t)syscall(NR_clone3, &args, sizeof(args));
}

#endif
