/* Joining a living sandbox. Everything by which it is entered comes as descriptors from its keeper;
 * nothing is looked up inside. The process that enters is not dumpable before it does, has an empty
 * environment and runs from sealed memory, as the sandbox's own init. */
#include "sys.h"

#include "launch.h"
#include "rights.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define KILL_ROUNDS 1000

struct kind {
	int type; /* setns(2) */
	const char *ours;
};

static const struct kind kinds[NAMESPACE_COUNT] = {
	[NAMESPACE_USER] = { CLONE_NEWUSER, "/proc/self/ns/user" },
	[NAMESPACE_MOUNT] = { CLONE_NEWNS, "/proc/self/ns/mnt" },
	[NAMESPACE_PID] = { CLONE_NEWPID, "/proc/self/ns/pid" },
	[NAMESPACE_NET] = { CLONE_NEWNET, "/proc/self/ns/net" },
	[NAMESPACE_IPC] = { CLONE_NEWIPC, "/proc/self/ns/ipc" },
	[NAMESPACE_UTS] = { CLONE_NEWUTS, "/proc/self/ns/uts" },
	[NAMESPACE_CGROUP] = { CLONE_NEWCGROUP, "/proc/self/ns/cgroup" },
	[NAMESPACE_TIME] = { ABI_CLONE_NEWTIME, "/proc/self/ns/time" },
	[NAMESPACE_INNER] = { CLONE_NEWUSER, NULL },
};

/* Which are to be entered: a sandbox on the host's network has a namespace that is already ours,
 * and that we have no right to enter again. */
static int is_ours(int fd, enum namespace_place place)
{
	struct stat theirs, ours;
	return kinds[place].ours && fstat(fd, &theirs) == 0 && stat(kinds[place].ours, &ours) == 0 &&
	       theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

int enter_namespace(int fd, enum namespace_place place, struct failure *f)
{
	if (fd < 0 || setns(fd, kinds[place].type) == 0)
		return 0;
	return fail(f, kinds[place].ours ? kinds[place].ours : "inner user namespace");
}

/* What every process of the sandbox inherits is written to our own files in the host's procfs, as
 * long as they are ours: those of a process that is not dumpable belong to root (proc(5)). */
static int write_inherited(const struct plan *plan, struct failure *f)
{
	struct operation op = { 0 };
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), result = 0;
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		if (op.opcode != OP_PROC_WRITE)
			continue;
		const char *path = take_string(&op.body), *value = take_string(&op.body);
		int file = openat(proc, path, O_WRONLY | O_CLOEXEC);
		if (file < 0 || write(file, value, strlen(value)) < 0) {
			fail(f, path);
			f->op = op.index;
			if (take_u32(&op.body))
				send_failure(EVENT_WARNING, STAGE_SETUP, f);
			else
				result = -1;
		}
		if (file >= 0)
			close(file);
	}
	close(proc);
	return result;
}

int take_descriptors(int namespaces[NAMESPACE_COUNT], struct failure *f)
{
	char places[NAMESPACE_COUNT];
	int fds[RIGHTS_MOST], count;
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		namespaces[i] = -1;
	ssize_t n = receive_with(FD_CHANNEL, places, sizeof(places), 0, fds, &count);
	if (n <= 0 || n != count)
		return fail_with(f, EPROTO, "the namespaces to join");
	for (int i = 0; i < count; i++) {
		if (places[i] < 0 || places[i] >= NAMESPACE_COUNT)
			return fail_with(f, EPROTO, "the namespaces to join");
		namespaces[(int)places[i]] = fds[i];
	}
	return 0;
}

int join_prepare(const struct plan *plan, int namespaces[NAMESPACE_COUNT], struct failure *f)
{
	if (take_descriptors(namespaces, f) < 0)
		return -1;
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		if (i != NAMESPACE_ROOT && is_ours(namespaces[i], (enum namespace_place)i)) {
			close(namespaces[i]);
			namespaces[i] = -1;
		}
	if (write_inherited(plan, f) < 0)
		return -1;
	/* pid_namespaces(7): only children enter it. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return enter_namespace(namespaces[NAMESPACE_USER], NAMESPACE_USER, f) < 0 ? -1 :
	       enter_namespace(namespaces[NAMESPACE_PID], NAMESPACE_PID, f);
}

/* The lifeline alone tells of the launcher's end: a signal at its death would kill us before the rest.
 * The joined processes are killed, not asked: their parents' children appear as ours when those
 * die (PR_SET_CHILD_SUBREAPER), until none is left. */
_Noreturn void end_descendants(int code)
{
	char path[64], list[4096];
	struct statfs fs;
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	for (int round = 0; round < KILL_ROUNDS; round++) {
		int file = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = file < 0 || fstatfs(file, &fs) < 0 || fs.f_type != 0x9fa0 ?
				    -1 : read(file, list, sizeof(list) - 1);
		if (file >= 0)
			close(file);
		list[n < 0 ? 0 : n] = 0;
		char *at = list, *next;
		for (long pid; (pid = strtol(at, &next, 10)) > 0 && next != at; at = next)
			kill((pid_t)pid, SIGKILL);
		if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
			break;
	}
	_exit(code);
}

/* Whether `pid` was alive; it is killed. Its number could be another process's by now: only what is
 * still a child of `parent` after its pidfd was opened is what that pidfd means. */
static int kill_child(pid_t pid, pid_t parent)
{
	char path[64], text[512];
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), alive = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int file = pidfd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = 0;
	const char *name_end = strrchr(text, ')');
	if (name_end && strlen(name_end) > 4 && strtol(name_end + 4, NULL, 10) == parent) {
		/* The state in the text is the first thread's, which may be dead before the others. */
		struct pollfd death = { pidfd, POLLIN, 0 };
		alive = poll(&death, 1, 0) == 0;
		sys_pidfd_send_signal(pidfd, SIGKILL);
	}
	if (file >= 0)
		close(file);
	if (pidfd >= 0)
		close(pidfd);
	return alive;
}

/* How many children of `parent` were alive, -1 when the host's /proc does not tell. */
static int kill_children(pid_t parent)
{
	static char list[1 << 16];
	char path[64];
	size_t length = 0;
	ssize_t n = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
	int file = open(path, O_RDONLY | O_CLOEXEC), alive = 0;
	if (file < 0)
		return -1;
	while (length < sizeof(list) - 1 && (n = read(file, list + length, sizeof(list) - 1 - length)) > 0)
		length += (size_t)n;
	close(file);
	list[length] = 0;
	char *at = list, *next;
	for (long pid; (pid = strtol(at, &next, 10)) > 0 && next != at; at = next)
		alive += kill_child((pid_t)pid, parent);
	return alive;
}

/* In a map of one id the command has that of the process that joined for it and can stop it: so its
 * time ends from out here. Stopped, that process is still who orphans come to (PR_SET_CHILD_SUBREAPER), and it reaps
 * none: a fork bomb fills its process limit with zombies. What lives has a parent below it. */
void join_end(pid_t joined)
{
	kill(joined, SIGSTOP);
	for (int round = 0; round < KILL_ROUNDS; round++) {
		int alive = kill_children(joined);
		if (alive < 0) {
			kill(joined, SIGCONT);
			return;
		}
		if (alive == 0)
			break;
		poll(NULL, 0, 1);
	}
	kill(joined, SIGKILL);
}

static void become_root(struct context *ctx, int deny_setgroups)
{
	if (!deny_setgroups && syscall(SYS_setgroups, 0, NULL) < 0)
		give_up_now(ctx, STAGE_MAP, "setgroups");
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
		give_up_now(ctx, STAGE_MAP, "cannot become root of the user namespace");
}

/* kill(2) wants the same user, or CAP_KILL in the target's user namespace, which no command has: as
 * another user we are out of its reach. We need that capability ourselves, to end what it left. */
static void become_another(struct context *ctx, uid_t uid)
{
	if (!uid)
		return;
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (syscall(SYS_setresuid, uid, uid, uid) < 0)
		give_up_now(ctx, STAGE_MAP, "cannot become another user than the command");
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static pid_t start_joined(struct context *ctx, const struct plan *plan, int inner)
{
	int pidfd = -1;
	pid_t pid = sys_clone(0, &pidfd);
	if (pid < 0)
		give_up_now(ctx, STAGE_CLONE, "cannot start the command's process");
	if (pid == 0) {
		if (enter_namespace(inner, NAMESPACE_INNER, &ctx->failure) < 0)
			give_up(STAGE_CLONE, &ctx->failure, CODE_SETUP_FAILED);
		become_payload(ctx, plan);
	}
	close(pidfd);
	return pid;
}

/* What the command has left running belongs to the sandbox. */
static void leave(int code)
{
	_exit(code);
}

_Noreturn void join_main(const struct plan *plan, int namespaces[NAMESPACE_COUNT])
{
	static struct context context;
	struct context *ctx = &context;
	*ctx = (struct context){ .stage = -1, .root = -1, .procfs = -1, .terminal = -1, .ruleset = -1, .joined = 1 };
	struct operation op = { 0 };
	find_operation(plan, OP_JOIN, &op);
	ctx->failure.op = op.index;

	prctl(PR_SET_NAME, "init", 0, 0, 0);
	for (int i = NAMESPACE_MOUNT; i < NAMESPACE_INNER; i++)
		if (i != NAMESPACE_PID && i != NAMESPACE_ROOT &&
		    enter_namespace(namespaces[i], (enum namespace_place)i, &ctx->failure) < 0)
			give_up(STAGE_CLONE, &ctx->failure, CODE_SETUP_FAILED);
	int deny_setgroups = (int)take_u32(&op.body);
	uid_t uid = (uid_t)take_u32(&op.body);
	become_root(ctx, deny_setgroups);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	ctx->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	run_setup(ctx, plan);

	pid_t payload = start_joined(ctx, plan, namespaces[NAMESPACE_INNER]);
	become_another(ctx, uid);
	keep_only_kill();
	close_all_but_ours();
	watch_over(payload, leave, end_descendants, NULL, (exec_flags(plan) & EXEC_LEAVE) != 0);
}
