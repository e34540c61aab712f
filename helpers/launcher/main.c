/* The launcher. It knows no policy: it executes the plan that lies, sealed, in descriptor 100.
 *
 *   decode   check that we run from a sealed image, read the plan        caller's rights
 *   clone    new session; all namespaces but net; the child waits        caller's rights
 *   map      write the id maps, directly or through the helpers          caller's rights
 *   watch    wait for the child, pass signals on, die with the owner     nothing new is opened
 *
 * The child goes on in init.c (set-up, PID 1) and from there in security.c (payload). */
#include "sys.h"

#include "keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define READER_MS 1000
#define SPARE_PROCESSES 64
#define KEPT_MOST 1024 /* descriptors that go into the sandbox or stay with us */

/* The payload could reach our image as /proc/PID/exe: nobody may be able to write to it. */
static int image_sealed(void)
{
#ifdef SBX_UNSEALED_IMAGE
	return 1;
#else
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int seals = self < 0 ? -1 : fcntl(self, ABI_F_GET_SEALS);
	if (self >= 0)
		close(self);
	return seals >= 0 && (seals & ABI_F_SEAL_WRITE);
#endif
}

static void decode(struct plan *plan, struct failure *f)
{
	struct stat st;
	const char *why;
	if (!image_sealed()) {
		fail_with(f, EPERM, "the launcher does not run from a sealed memfd");
		give_up(STAGE_DECODE, f, CODE_SETUP_FAILED);
	}
	int seals = fcntl(FD_PLAN, ABI_F_GET_SEALS);
	if (fstat(FD_PLAN, &st) < 0 || st.st_size <= 0 || st.st_size > (off_t)PLAN_MAX_BYTES ||
	    seals < 0 || (seals & ABI_F_SEAL_ALL) != ABI_F_SEAL_ALL) {
		fail_with(f, EINVAL, "descriptor 100 holds no sealed plan");
		give_up(STAGE_DECODE, f, CODE_SETUP_FAILED);
	}
	size_t length = (size_t)st.st_size;
	void *data = mmap(NULL, length, PROT_READ, MAP_PRIVATE, FD_PLAN, 0);
	if (data == MAP_FAILED || plan_decode(data, length, plan, &why, &f->op) < 0) {
		fail_with(f, EINVAL, data == MAP_FAILED ? "mmap" : why);
		give_up(STAGE_DECODE, f, CODE_SETUP_FAILED);
	}
	close(FD_PLAN);
}

/* Adds the numbers of a list to `kept`, which stays sorted. */
static size_t keep_these(unsigned *kept, size_t count, struct cursor *list)
{
	for (uint32_t left = take_u32(list); left > 0 && count < KEPT_MOST; left--, count++) {
		unsigned number = take_u32(list);
		size_t at = count;
		for (; at > 0 && kept[at - 1] > number; at--)
			kept[at] = kept[at - 1];
		kept[at] = number;
	}
	return count;
}

/* What Python's other threads opened meanwhile, and what the caller left inheritable, ends
 * here; the payload's list is applied once more before its exec. Our own are handed over without
 * close-on-exec and must not outlive the payload's exec. */
static void close_strangers(const struct plan *plan)
{
	unsigned kept[KEPT_MOST] = { FD_CHANNEL, FD_OWNER, FD_CONTROL, FD_FOLDER };
	struct operation pass = { 0 }, keep = { 0 };
	find_operation(plan, OP_CLOSE_DESCRIPTORS, &pass);
	find_operation(plan, OP_KEEP, &keep);
	size_t count = keep.opcode ? 4 : 2;
	if (keep.opcode) {
		keep.body.at += KEEP_LIST_AT;
		count = keep_these(kept, count, &keep.body);
	}
	for (size_t i = 0; i < count; i++)
		fcntl((int)kept[i], F_SETFD, FD_CLOEXEC);
	if (pass.opcode)
		count = keep_these(kept, count, &pass.body);
	unsigned next = 3;
	for (size_t i = 0; i < count; next = kept[i] + 1, i++)
		if (kept[i] > next)
			sys_close_range(next, kept[i] - 1);
	sys_close_range(next, ~0U);
}

/* What was sent as FD_CHANNEL in a kept sandbox waits with us: it must go on before we do. */
static struct keeper *kept_by;

static _Noreturn void end_launcher(enum stage stage, const struct failure *f)
{
	send_failure(EVENT_ERROR, stage, f);
	if (kept_by)
		keeper_finish(kept_by);
	_exit(CODE_SETUP_FAILED);
}

static void move_to(struct failure *f, int from, int to)
{
	if (dup3(from, to, O_CLOEXEC) < 0) {
		fail(f, "dup3");
		end_launcher(STAGE_CLONE, f);
	}
	close(from);
}

static void make_pipes(struct failure *f)
{
	int exec_pipe[2], lifeline[2];
	if (pipe2(exec_pipe, O_CLOEXEC) < 0 || pipe2(lifeline, O_CLOEXEC) < 0) {
		fail(f, "pipe2");
		end_launcher(STAGE_CLONE, f);
	}
	move_to(f, exec_pipe[0], FD_EXEC_WATCH);
	move_to(f, exec_pipe[1], FD_EXEC_PIPE);
	move_to(f, lifeline[0], FD_LIFELINE);
	move_to(f, lifeline[1], FD_LIFELINE_END);
}

/* The limit that is held when a user namespace is made bounds what its user may have in all, in and
 * outside of it, for processes in it (kernel: create_user_ns, UCOUNT_RLIMIT_NPROC). A sandbox that
 * takes what it can so leaves some, for who ends it. */
static pid_t clone_sparing(uint32_t flags, int *pidfd, int *inside)
{
	struct rlimit had, less;
	getrlimit(RLIMIT_NPROC, &had);
	less = had;
	if (had.rlim_cur != RLIM_INFINITY && had.rlim_cur > 2 * SPARE_PROCESSES)
		less.rlim_cur -= SPARE_PROCESSES;
	if (flags & ABI_CLONE_NEWUSER)
		setrlimit(RLIMIT_NPROC, &less);
	pid_t pid = cgroup_clone(flags, pidfd, inside);
	int error = errno;
	setrlimit(RLIMIT_NPROC, &had);
	errno = error;
	return pid;
}

static pid_t start_init(const struct plan *plan, struct keeper *keeper, const int *shared,
			struct failure *f, int *pidfd)
{
	struct operation op = { 0 }, join = { 0 };
	int namespaces[NAMESPACE_COUNT], stdio[3];
	int detached = keeper && (keeper->flags & KEEP_DETACHED);
	find_operation(plan, OP_NAMESPACES, &op);
	find_operation(plan, OP_JOIN, &join);
	f->op = join.opcode ? join.index : op.index;
	if (join.opcode && join_prepare(plan, namespaces, f) < 0)
		end_launcher(STAGE_CLONE, f);
	if (detached && keeper_make_stdio(keeper, stdio, f) < 0)
		end_launcher(STAGE_CLONE, f);
	/* Init makes the network namespace itself, beside its other work. */
	uint32_t flags = join.opcode ? 0 : take_u32(&op.body) & ~(uint32_t)CLONE_NEWNET;
	int inside = 0;
	pid_t pid = clone_sparing(flags, pidfd, &inside);
	if (pid < 0) {
		fail(f, "clone");
		end_launcher(STAGE_CLONE, f);
	}
	if (pid == 0) {
		close(FD_LIFELINE_END);
		close(FD_OWNER);
		if (detached)
			keeper_leave_to_child(keeper, stdio);
		if (cgroup_begin(flags, inside, f) < 0)
			give_up(STAGE_CLONE, f, CODE_SETUP_FAILED);
		if (join.opcode)
			join_main(plan, namespaces);
		init_main(plan, shared);
	}
	for (int i = 0; join.opcode && i < NAMESPACE_COUNT; i++)
		close(namespaces[i]);
	if (detached)
		keeper_take_stdio(keeper, stdio);
	close(FD_LIFELINE);
	close(FD_EXEC_PIPE);
	return pid;
}

/* Maps are written while the child waits, and while both of us are dumpable: proc(5) gives the
 * files of a process that is not dumpable to the host's root. */
static void install_maps(const struct plan *plan, struct failure *f, pid_t pid, int pidfd)
{
	static struct idmap_extent uids[340], gids[340];
	struct idmap_error error = { 0 };
	struct operation op = { 0 };
	find_operation(plan, OP_ID_MAP, &op);
	if (!op.opcode)
		return;
	f->op = op.index;
	uint32_t way = take_u32(&op.body), deny = take_u32(&op.body);
	if (way == MAP_SELF || way == MAP_STANDS)
		return;
	struct idmap uid_map = { uids, take_extents(&op.body, uids) };
	struct idmap gid_map = { gids, take_extents(&op.body, gids) };
	const char *newuidmap = take_string(&op.body), *newgidmap = take_string(&op.body);

	int result = way == MAP_HELPERS ? idmap_run_helpers(newuidmap, newgidmap, pid, pidfd, &uid_map, &gid_map,
						 &error)
			     : idmap_write_direct(-1, pid, pidfd, &uid_map, &gid_map, (int)deny, &error);
	if (result < 0) {
		fail_with(f, error.error, error.text);
		end_launcher(STAGE_MAP, f);
	}
	if (write(FD_LIFELINE_END, "", 1) != 1) {
		fail(f, "lifeline");
		end_launcher(STAGE_MAP, f);
	}
}

/* With process 1 everything dies. With one that has joined a sandbox only what descends from it
 * does; the others are not ours to kill. */
static void end_everything(pid_t pid, int joined)
{
	if (joined) {
		join_end(pid);
		close(FD_LIFELINE_END);
	} else {
		cgroup_kill();
		kill(pid, SIGKILL);
	}
}

/* An order is one byte: 0 lets a held sandbox go on, 1…64 is a signal for the payload, 255 or the
 * end of the channel the end of everything. Without an init the payload is the child itself. Not
 * reaped yet, the child keeps its number: kill(2) reaches it and no other. */
static void obey(pid_t pid, int has_init, int joined)
{
	unsigned char order;
	ssize_t n = recv(FD_CHANNEL, &order, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n != 1 || order > 64)
		end_everything(pid, joined);
	else if (order && !has_init)
		kill(pid, order);
	else if (write(FD_LIFELINE_END, &order, 1) != 1)
		end_everything(pid, joined);
}

static void notice_exec(struct pollfd *watch, pid_t pid)
{
	char byte;
	if (read(FD_EXEC_WATCH, &byte, 1) == 0)
		send_running(pid);
	close(FD_EXEC_WATCH);
	watch->fd = -1;
}

int signals_to_us(void)
{
	sigset_t ending;
	sigemptyset(&ending);
	sigaddset(&ending, SIGHUP);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGQUIT);
	sigaddset(&ending, SIGTERM);
	return signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void watch_until_end(pid_t pid, int pidfd, int has_init, int joined)
{
	struct pollfd watch[5] = { { pidfd, POLLIN, 0 },
				   { FD_CHANNEL, POLLIN, 0 },
				   { has_init ? -1 : FD_EXEC_WATCH, POLLIN, 0 },
				   { FD_OWNER, POLLIN, 0 },
				   { signals_to_us(), POLLIN, 0 } };
	if (has_init)
		close(FD_EXEC_WATCH);
	if (fcntl(FD_OWNER, F_GETFD) < 0)
		watch[3].fd = -1;
	for (;;) {
		if (poll(watch, 5, -1) < 0)
			continue;
		if (watch[2].revents)
			notice_exec(&watch[2], pid);
		if (watch[0].revents)
			return;
		if (watch[1].revents)
			obey(pid, has_init, joined);
		if (watch[1].revents & (POLLHUP | POLLERR | POLLNVAL)) {
			end_everything(pid, joined);
			watch[1].fd = -1;
		}
		for (int i = 3; i < 5; i++)
			if (watch[i].revents) {
				end_everything(pid, joined);
				watch[i].fd = -1;
			}
	}
}

/* A payload that is process 1 itself can undo PR_SET_PDEATHSIG. So a second process watches over
 * the launcher's life: the end of the pipe means that it is gone, and the sandbox with it. */
static pid_t start_guard(int pidfd, int *end)
{
	int life[2];
	char byte;
	if (sys_pidfd_send_signal(pidfd, 0) < 0 || pipe2(life, O_CLOEXEC) < 0)
		return -1;
	pid_t guard = fork();
	if (guard == 0) {
		if (dup2(pidfd, FD_EXEC_PIPE) < 0 || dup2(life[0], FD_EXEC_WATCH) < 0)
			_exit(CODE_SETUP_FAILED);
		prctl(PR_SET_NAME, "sbx-guard", 0, 0, 0);
		sys_close_range(0, FD_EXEC_PIPE - 1);
		sys_close_range(FD_EXEC_WATCH + 1, ~0U);
		while (read(FD_EXEC_WATCH, &byte, 1) < 0 && errno == EINTR)
			;
		sys_pidfd_send_signal(FD_EXEC_PIPE, SIGKILL);
		_exit(0);
	}
	close(life[0]);
	*end = life[1];
	return guard;
}

/* One life of the sandbox: from the clone to the wait status of its first process. */
static int live(const struct plan *plan, struct keeper *keeper, const int *shared,
		struct failure *failure)
{
	struct rusage usage;
	int pidfd = -1, status = 0, guard_end = -1;
	struct cursor exec = plan->exec.body;
	int has_init = (take_u32(&exec) & EXEC_INIT) != 0;

	make_pipes(failure);
	pid_t pid = start_init(plan, keeper, shared, failure, &pidfd);
	install_maps(plan, failure, pid, pidfd);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	send_started(pid);

	/* Those of a detached sandbox are /dev/null; its next life's pipes must get other numbers. */
	if (!keeper || !(keeper->flags & KEEP_DETACHED))
		sys_close_range(0, 2);
	pid_t guard = has_init ? 0 : start_guard(pidfd, &guard_end);
	if (guard < 0) {
		failure->op = -1;
		fail(failure, "cannot watch over the launcher's life");
		send_failure(EVENT_ERROR, STAGE_CLONE, failure);
		kill(pid, SIGKILL);
	}
	if (keeper)
		keeper_watch(keeper, pid, pidfd, has_init, shares_pids(plan));
	else
		watch_until_end(pid, pidfd, has_init, plan_has(plan, OP_JOIN) || shares_pids(plan));
	while (wait4(pid, &status, 0, &usage) < 0)
		if (errno != EINTR)
			return CODE_SETUP_FAILED << 8;
	if (guard > 0) {
		close(guard_end);
		waitpid(guard, NULL, 0);
	}
	send_status(EVENT_DONE, pid, status, &usage);
	return status;
}

/* Our owner reads the group's figures while we live: a service manager removes the folders of a
 * scope as soon as nobody is left in it. */
static void leave_cgroup(const struct plan *plan, const struct keeper *keeper, const char *name)
{
	struct pollfd reader = { keeper ? keeper->upstream : FD_CHANNEL, POLLIN, 0 };
	if (!has_cgroup() || plan_has(plan, OP_JOIN))
		return;
	if (keeper && keeper->flags & KEEP_DETACHED)
		cgroup_finish(name, FD_FOLDER);
	else
		poll(&reader, 1, READER_MS);
}

int main(void)
{
	static struct keeper kept;
	struct keeper *keeper = NULL;
	struct plan plan;
	struct failure failure = { .op = -1 };
	char cgroup_name[NAME_MAX + 1] = "";
	int status, shared[NAMESPACE_COUNT];
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "sbx-launcher", 0, 0, 0);
	decode(&plan, &failure);
	close_strangers(&plan);
	setsid();
	umask(022);
	if (cgroup_take(&plan, cgroup_name, &failure) < 0)
		give_up(STAGE_CLONE, &failure, CODE_SETUP_FAILED);
	if (share_prepare(&plan, shared, &failure) < 0)
		give_up(STAGE_CLONE, &failure, CODE_SETUP_FAILED);
	int wanted = keeper_open(&kept, &plan, &failure);
	if (wanted < 0)
		give_up(STAGE_CLONE, &failure, CODE_SETUP_FAILED);
	if (wanted)
		kept_by = keeper = &kept;
	do {
		status = live(&plan, keeper, shared, &failure);
		if (keeper)
			keeper_finish(keeper);
	} while (keeper && keeper_again(keeper));
	leave_cgroup(&plan, keeper, cgroup_name);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
