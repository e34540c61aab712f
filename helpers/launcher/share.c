/* Sharing namespaces with a living sandbox. The new sandbox lives in that one's outer user namespace,
 * which owns what is shared, with a mount namespace, a root and a payload's user namespace of its own.
 * Everything by which it is entered comes as descriptors from the other's keeper. */
#include "sys.h"

#include "launch.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define NO_LIMIT "2147483647"
#define ROUNDS 100
#define KILL_ROUNDS 1000

/* The places to be shared, in the order of the plan, behind the user namespace. */
static int is_wanted(const struct plan *plan, int place)
{
	struct operation op = { 0 };
	int found = 0;
	find_operation(plan, OP_SHARE, &op);
	if (!op.opcode)
		return 0;
	take_string(&op.body);
	for (uint32_t left = take_u32(&op.body); left > 0; left--)
		found |= take_u32(&op.body) == (uint32_t)place;
	return found;
}

int shares_pids(const struct plan *plan)
{
	return is_wanted(plan, NAMESPACE_PID);
}

/* user_namespaces(7): whoever owns a namespace from outside has all rights in it, and loses those
 * outside by entering. So the launcher goes in before it clones, and every time again its children
 * begin there. */
int share_prepare(const struct plan *plan, int shared[NAMESPACE_COUNT], struct failure *f)
{
	struct operation op = { 0 };
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		shared[i] = -1;
	find_operation(plan, OP_SHARE, &op);
	if (!op.opcode)
		return 0;
	f->op = op.index;
	if (take_descriptors(shared, f) < 0)
		return -1;
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		if ((shared[i] >= 0) != (i == NAMESPACE_USER || is_wanted(plan, i)))
			return fail_with(f, EPROTO, "the namespaces to share");
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return enter_namespace(shared[NAMESPACE_USER], NAMESPACE_USER, f) < 0 ? -1 :
	       enter_namespace(shared[NAMESPACE_PID], NAMESPACE_PID, f);
}

/* proc(5): what a process that is not dumpable has in /proc belongs to root. The set-up writes
 * there; nobody below the user namespace that we are in by now can trace us for that. */
int share_enter(struct context *ctx, const struct plan *plan, const int shared[NAMESPACE_COUNT])
{
	static const int places[] = { NAMESPACE_NET, NAMESPACE_IPC, NAMESPACE_UTS };
	struct operation op = { 0 };
	find_operation(plan, OP_SHARE, &op);
	if (!op.opcode)
		return 0;
	ctx->shared = 1;
	ctx->room = take_string(&op.body);
	ctx->tenant = shares_pids(plan);
	ctx->failure.op = op.index;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (enter_namespace(shared[places[i]], (enum namespace_place)places[i], &ctx->failure) < 0)
			return -1;
	if (ctx->tenant)
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return 0;
}

/* The limit of the shared user namespace leaves room for one child, which its first sandbox has. Those
 * that are there keep their place when it goes down again, and each has a limit of its own
 * (init.c, close_inner). Another newcomer may take the room meanwhile. */
pid_t share_clone(struct context *ctx, int *pidfd)
{
	static const char limit[] = "sys/user/max_user_namespaces";
	pid_t pid = -1;
	for (int round = 0; pid < 0 && round < ROUNDS; round++) {
		if (*ctx->room && write_proc(ctx, limit, NO_LIMIT) < 0)
			return -1;
		pid = sys_clone(ABI_CLONE_NEWUSER, pidfd);
		int error = errno;
		if (pid != 0 && *ctx->room && write_proc(ctx, limit, ctx->room) < 0)
			return -1;
		errno = error;
		if (pid < 0 && errno != ENOSPC)
			break;
	}
	return pid;
}

/* Whether a process lives in the user namespace `inner` or below it. ioctl_ns(2): EPERM ends the way up
 * at the user namespace that we are in. */
static int lives_in(long process, const struct stat *inner)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%ld/ns/user", process);
	int fd = open(path, O_RDONLY | O_CLOEXEC), found = 0;
	while (fd >= 0 && fstat(fd, &st) == 0) {
		found = st.st_ino == inner->st_ino && st.st_dev == inner->st_dev;
		int up = found ? -1 : ioctl(fd, ABI_NS_GET_PARENT);
		close(fd);
		fd = up;
	}
	return found;
}

/* In a pid namespace of another's, our process 1 can be killed by its neighbours, and by the payload
 * itself. What belongs to the sandbox shows by its user namespace, which nobody can leave. */
void share_end(int inner)
{
	struct stat st;
	if (inner < 0 || fstat(inner, &st) < 0)
		return;
	for (int round = 0, alive = 1; alive && round < KILL_ROUNDS; round++) {
		DIR *proc = opendir("/proc");
		alive = 0;
		for (struct dirent *entry; proc && (entry = readdir(proc));) {
			long pid = strtol(entry->d_name, NULL, 10);
			int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
			struct pollfd death = { pidfd, POLLIN, 0 };
			if (pidfd >= 0 && lives_in(pid, &st) && poll(&death, 1, 0) == 0) {
				alive = 1;
				sys_pidfd_send_signal(pidfd, SIGKILL);
			}
			if (pidfd >= 0)
				close(pidfd);
		}
		if (proc)
			closedir(proc);
	}
}
