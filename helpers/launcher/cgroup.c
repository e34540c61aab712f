/* The control group. Its directory comes over the channel, made by our owner, who may first have had
 * to move us; the sandbox begins its life inside, and nothing of the sandbox can reach it. */
#include "sys.h"

#include "launch.h"
#include "rights.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define REMOVE_TRIES 100
#define REMOVE_PAUSE_MS 10

int has_cgroup(void)
{
	return fcntl(FD_CGROUP, F_GETFD) >= 0;
}

/* The message holds the folder's name, the descriptor is the folder. */
static int receive_directory(char name[NAME_MAX + 1])
{
	int fds[RIGHTS_MOST], count;
	ssize_t n = receive_with(FD_CHANNEL, name, NAME_MAX, 0, fds, &count);
	if (n <= 0 || count != 1)
		return errno = n < 0 ? errno : EPROTO, -1;
	name[n] = 0;
	return fds[0];
}

int cgroup_write(const char *file, const char *value)
{
	int fd = strchr(file, '/') ? (errno = EINVAL, -1) : openat(FD_CGROUP, file, O_WRONLY | O_CLOEXEC);
	ssize_t length = (ssize_t)strlen(value), n = fd < 0 ? -1 : write(fd, value, (size_t)length);
	int error = n < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	errno = error;
	return n == length ? 0 : -1;
}

int cgroup_take(const struct plan *plan, char name[NAME_MAX + 1], struct failure *f)
{
	struct operation op = { 0 };
	find_operation(plan, OP_CGROUP, &op);
	if (!op.opcode)
		return 0;
	f->op = op.index;
	int fd = receive_directory(name);
	if (fd < 0 || (fd != FD_CGROUP && dup3(fd, FD_CGROUP, O_CLOEXEC) < 0))
		return fail(f, "the control group");
	if (fd != FD_CGROUP)
		close(fd);
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		if (op.opcode != OP_CGROUP_LIMIT)
			continue;
		const char *file = take_string(&op.body), *value = take_string(&op.body);
		if (cgroup_write(file, value) == 0)
			continue;
		f->op = op.index;
		fail(f, file);
		if (!take_u32(&op.body))
			return -1;
		send_failure(EVENT_WARNING, STAGE_CLONE, f);
	}
	f->op = -1;
	return 0;
}

/* The root of a cgroup namespace is the group of the process that makes it, and clone3(2) takes the
 * parent's: so the child makes its own, once it is inside. */
pid_t cgroup_clone(uint64_t flags, int *pidfd, int *inside)
{
	if (has_cgroup()) {
		pid_t pid = sys_clone_into(flags & ~(uint64_t)CLONE_NEWCGROUP, FD_CGROUP, pidfd);
		*inside = pid >= 0;
		if (pid >= 0)
			return pid;
		/* Older than Linux 5.7, or an outer filter without clone3: the child moves itself. */
		flags &= ~(uint64_t)CLONE_NEWCGROUP;
	}
	return sys_clone((unsigned long)flags, pidfd);
}

int cgroup_begin(uint64_t flags, int inside, struct failure *f)
{
	if (!has_cgroup())
		return 0;
	if (!inside && cgroup_write("cgroup.procs", "0") < 0)
		return fail(f, "cannot enter the control group");
	close(FD_CGROUP);
	if (flags & CLONE_NEWCGROUP && unshare(CLONE_NEWCGROUP) < 0)
		return fail(f, "cgroup namespace");
	return 0;
}

/* Who is in the group and not in the pid namespace does not end with process 1. Linux 5.14. */
void cgroup_kill(void)
{
	if (has_cgroup())
		cgroup_write("cgroup.kill", "1");
}

static void copy_file(const char *file, int to)
{
	char text[4096];
	int from = openat(FD_CGROUP, file, O_RDONLY | O_CLOEXEC);
	ssize_t n = from < 0 ? -1 : read(from, text, sizeof(text));
	if (n > 0 && dprintf(to, "%s %zd\n", file, n) > 0 && write(to, text, (size_t)n) < 0)
		errno = 0; /* what cannot be written is not known later */
	if (from >= 0)
		close(from);
}

/* Nobody else stays to see the end of a detached sandbox. */
void cgroup_finish(const char *name, int folder)
{
	static const char *const files[] = { "cgroup.controllers", "memory.peak", "memory.events", "pids.peak",
					     "pids.events",	   "cpu.stat",	  "io.stat" };
	int account = openat(folder, "account", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	for (size_t i = 0; account >= 0 && i < sizeof(files) / sizeof(files[0]); i++)
		copy_file(files[i], account);
	int parent = openat(FD_CGROUP, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* Who has just been killed is there for a moment: EBUSY. */
	for (int tries = 0; parent >= 0 && !strchr(name, '/') && tries < REMOVE_TRIES; tries++) {
		if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno != EBUSY)
			return;
		cgroup_kill();
		poll(NULL, 0, REMOVE_PAUSE_MS);
	}
}
