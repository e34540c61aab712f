/* PID 1 of the sandbox: sets it up, starts the payload, reaps, ends. The payload is its
 * neighbour, so it keeps an empty command line and environment, is not dumpable, and takes
 * orders from its lifeline alone: signals sent from inside are blocked and never read. */
#include "sys.h"

#include "launch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

_Noreturn void give_up(enum stage stage, const struct failure *f, int code)
{
	send_failure(EVENT_ERROR, stage, f);
	_exit(code);
}

_Noreturn void give_up_now(struct context *ctx, enum stage stage, const char *text)
{
	fail(&ctx->failure, text);
	give_up(stage, &ctx->failure, CODE_SETUP_FAILED);
}

static _Noreturn void give_up_alone(const char *text)
{
	struct failure failure = { .op = -1 };
	fail(&failure, text);
	give_up(STAGE_SECURITY, &failure, CODE_SETUP_FAILED);
}

uint32_t exec_flags(const struct plan *plan)
{
	struct cursor c = plan->exec.body;
	return take_u32(&c);
}

/* prctl(2): the signal fires when the parent dies and is cleared by a change of ids. A parent
 * that died before this call shows as the end of the lifeline. */
void die_with_parent(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		give_up_alone("prctl");
	struct pollfd p = { FD_LIFELINE, POLLIN, 0 };
	if (poll(&p, 1, 0) > 0 && !(p.revents & POLLIN))
		_exit(CODE_SETUP_FAILED);
}

/* Signals come only once there is a payload: the owner keeps earlier ones back while it holds. */
void wait_for_word(void)
{
	unsigned char byte = 0;
	ssize_t n;
	do
		n = read(FD_LIFELINE, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1 || byte)
		_exit(CODE_SETUP_FAILED);
}

/* user_namespaces(7): a process may map its own id itself, once setgroups is denied. So a map
 * of one id needs no second process and no waiting for one. */
static void write_own_map(struct context *ctx, int proc, const struct idmap_extent *uid,
			  const struct idmap_extent *gid)
{
	char uids[40], gids[40];
	snprintf(uids, sizeof(uids), "%u %u 1", uid->inside, uid->outside);
	snprintf(gids, sizeof(gids), "%u %u 1", gid->inside, gid->outside);
	const char *const writes[][2] = { { "self/setgroups", "deny" },
					  { "self/uid_map", uids },
					  { "self/gid_map", gids } };
	for (size_t i = 0; i < 3; i++) {
		int file = openat(proc, writes[i][0], O_WRONLY | O_CLOEXEC);
		ssize_t length = (ssize_t)strlen(writes[i][1]);
		if (file < 0 || write(file, writes[i][1], (size_t)length) != length)
			give_up_now(ctx, STAGE_MAP, writes[i][0]);
		close(file);
	}
}

static void become_outer_root(struct context *ctx, const struct plan *plan)
{
	struct operation op = { 0 };
	find_operation(plan, OP_ID_MAP, &op);
	ctx->failure.op = op.index;
	uint32_t way = take_u32(&op.body), deny_setgroups = take_u32(&op.body);
	if (way == MAP_STANDS) {
		/* They stand already. */
	} else if (way == MAP_SELF) {
		take_extents(&op.body, ctx->inner_uids);
		take_extents(&op.body, ctx->inner_gids);
		int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
		write_own_map(ctx, proc, ctx->inner_uids, ctx->inner_gids);
		close(proc);
	} else {
		/* Before the maps stand, every file that we make would have an unmapped owner. */
		wait_for_word();
	}
	if (!deny_setgroups && syscall(SYS_setgroups, 0, NULL) < 0)
		give_up_now(ctx, STAGE_MAP, "setgroups");
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
		give_up_now(ctx, STAGE_MAP, "cannot become root of the user namespace");
	/* A signal would come before the descendants are dead: there the lifeline alone tells. */
	if (!ctx->tenant)
		die_with_parent();
}

void run_setup(struct context *ctx, const struct plan *plan)
{
	struct operation op = { 0 };
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		if (plan_phase(op.opcode) != PHASE_SETUP)
			continue;
		/* A clone of a shared mount is shared too: not before propagation is cut. */
		if (setup_operation(ctx, &op) < 0 ||
		    (op.opcode == OP_PRIVATE && open_sources(ctx, plan) < 0))
			give_up(STAGE_SETUP, &ctx->failure, CODE_SETUP_FAILED);
	}
}

/* ---- a kept sandbox: how others enter it ------------------------------------------------------
 * proc(5): the links below ns/ open to a process itself, dumpable or not. To the launcher, which
 * keeps them for later, they would not. */

static void share(struct context *ctx, const char *const *paths, int count, int first)
{
	int fds[NAMESPACE_COUNT], opened = 0;
	for (; opened < count; opened++) {
		const char *path = paths[opened];
		fds[opened] = *path == '/' ? openat(ctx->root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC) :
					     openat(ctx->procfs, path, O_RDONLY | O_CLOEXEC);
		if (fds[opened] < 0)
			break;
	}
	if (send_namespaces(fds, opened, first) < 0)
		give_up_now(ctx, STAGE_CLONE, "cannot hand over the namespaces");
	while (opened > 0)
		close(fds[--opened]);
}

/* In the order of enum namespace_place; time comes last, for old kernels have none. */
static void share_namespaces(struct context *ctx)
{
	static const char *const paths[] = { "self/ns/user", "self/ns/mnt", "self/ns/pid",
					     "self/ns/net", "self/ns/ipc", "self/ns/uts",
					     "self/ns/cgroup", "/", "self/ns/time" };
	share(ctx, paths, sizeof(paths) / sizeof(paths[0]), NAMESPACE_USER);
}

/* ---- the payload's process --------------------------------------------------------------- */

static void take_terminal(struct context *ctx)
{
	if (ctx->terminal < 0)
		return;
	if (ioctl(ctx->terminal, ABI_TIOCSCTTY, 0) < 0)
		give_up_now(ctx, STAGE_SECURITY, "controlling terminal");
	for (int fd = 0; fd < 3; fd++)
		if (dup2(ctx->terminal, fd) < 0)
			give_up_now(ctx, STAGE_SECURITY, "terminal");
}

/* The raw call: posix_spawn(3) of some libraries leaves 32 and 33 ignored, which sigaction(2)'s
 * wrapper refuses to change. */
static void reset_signals(void)
{
	static const unsigned long default_action[4];
	sigset_t none;
	for (int number = 1; number <= 64; number++)
		syscall(SYS_rt_sigaction, number, default_action, NULL, 8);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int exit_code(int error)
{
	return error == ENOENT ? CODE_NOT_FOUND : CODE_NOT_EXECUTABLE;
}

/* setsid keeps kill(0, …) and the caller's terminal apart from the sandbox. The byte on the
 * exec pipe tells a failed exec from a successful one, which only closes the pipe. */
_Noreturn void become_payload(struct context *ctx, const struct plan *plan)
{
	static const char *const own[] = { "self/ns/user" };
	struct operation op = { 0 };
	uint32_t flags = exec_flags(plan);
	int watched = (ctx->joined || ctx->tenant || !(flags & EXEC_INIT)) && !(flags & EXEC_LEAVE);
	if (setsid() < 0)
		give_up_now(ctx, STAGE_SECURITY, "setsid");
	if (!ctx->joined && plan_has(plan, OP_KEEP))
		share(ctx, own, 1, NAMESPACE_INNER);
	if (flags & EXEC_IDLE)
		_exit(0);
	take_terminal(ctx);
	reset_signals();
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		if (plan_phase(op.opcode) != PHASE_PAYLOAD)
			continue;
		if (op.opcode == OP_CLOSE_DESCRIPTORS && watched)
			die_with_parent();
		if (payload_operation(ctx, &op, plan) == 0)
			continue;
		enum stage stage = op.opcode == OP_EXEC ? STAGE_EXEC : STAGE_SECURITY;
		int code = stage == STAGE_EXEC ? exit_code(ctx->failure.error) : CODE_SETUP_FAILED;
		if (write(FD_EXEC_PIPE, "!", 1) < 0)
			code = CODE_SETUP_FAILED;
		give_up(stage, &ctx->failure, code);
	}
	_exit(CODE_SETUP_FAILED);
}

/* ---- the inner user namespace -------------------------------------------------------------
 * proc(5): files below /proc/PID of a process that is not dumpable belong to the host's root and
 * cannot be opened here. So the payload's process becomes undumpable once it is mapped; no code
 * of the sandbox runs before that. */

static int maps_itself(const struct context *ctx)
{
	return ctx->inner_user && ctx->inner_deny_setgroups;
}

/* Its own number, as the procfs that is written through knows it: with the procfs of an outer
 * sandbox that is not the number that clone(2) returned to its parent. */
static void ask_for_map(struct context *ctx, int peer)
{
	char number[16] = "", byte;
	ssize_t n;
	if (readlinkat(ctx->procfs, "self", number, sizeof(number) - 1) < 0 ||
	    send(peer, number, sizeof(number), MSG_NOSIGNAL) < 0)
		give_up_now(ctx, STAGE_MAP, "/proc/self");
	do
		n = recv(peer, &byte, 1, 0);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(CODE_SETUP_FAILED); /* the other side has reported why it ended */
}

static void answer_with_map(struct context *ctx, int peer, int pidfd)
{
	char number[16];
	struct idmap uids = { ctx->inner_uids, ctx->inner_uid_count };
	struct idmap gids = { ctx->inner_gids, ctx->inner_gid_count };
	struct idmap_error error = { 0 };
	ssize_t n;
	do
		n = recv(peer, number, sizeof(number), 0);
	while (n < 0 && errno == EINTR);
	if (n != (ssize_t)sizeof(number))
		_exit(CODE_SETUP_FAILED);
	number[sizeof(number) - 1] = 0;
	if (idmap_write_direct(ctx->procfs, (pid_t)strtol(number, NULL, 10), pidfd, &uids, &gids, 0,
			       &error) < 0) {
		fail_with(&ctx->failure, error.error, error.text);
		give_up(STAGE_MAP, &ctx->failure, CODE_SETUP_FAILED);
	}
	if (send(peer, "", 1, MSG_NOSIGNAL) < 0)
		give_up_now(ctx, STAGE_MAP, "inner user namespace");
}

/* The limit counts at every level above, so the outer namespace's bounds this one as well. But others
 * that share the outer one have to pass that for a moment; this one holds meanwhile. Only
 * CAP_SYS_RESOURCE could lift it again. */
static void close_inner(struct context *ctx)
{
	if (!ctx->inner_closed || write_proc(ctx, "sys/user/max_user_namespaces", "0") == 0)
		return;
	fail(&ctx->failure, "sys/user/max_user_namespaces");
	if (ctx->inner_closed == 1)
		give_up(STAGE_MAP, &ctx->failure, CODE_SETUP_FAILED);
	send_failure(EVENT_WARNING, STAGE_SETUP, &ctx->failure);
}

static void make_pair(struct context *ctx, int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		give_up_now(ctx, STAGE_MAP, "socketpair");
}

static _Noreturn void enter_payload(struct context *ctx, const struct plan *plan, int peer)
{
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (maps_itself(ctx))
		write_own_map(ctx, ctx->procfs, ctx->inner_uids, ctx->inner_gids);
	else if (ctx->inner_user)
		ask_for_map(ctx, peer);
	close_inner(ctx);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	become_payload(ctx, plan);
}

static pid_t start_payload(struct context *ctx, const struct plan *plan)
{
	int pair[2], pidfd = -1;
	make_pair(ctx, pair);
	if (maps_itself(ctx) || !ctx->inner_user)
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	pid_t pid = ctx->shared	   ? share_clone(ctx, &pidfd) :
		    sys_clone(ctx->inner_user ? ABI_CLONE_NEWUSER : 0, &pidfd);
	if (pid < 0)
		give_up_now(ctx, STAGE_CLONE, "cannot start the payload's process");
	if (pid == 0) {
		close(pair[0]);
		enter_payload(ctx, plan, pair[1]);
	}
	close(pair[1]);
	if (ctx->inner_user && !maps_itself(ctx))
		answer_with_map(ctx, pair[0], pidfd);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	close(pair[0]);
	close(pidfd);
	return pid;
}

/* Without an init this process is the payload: a child writes the map and leaves. */
static _Noreturn void run_as_first_process(struct context *ctx, const struct plan *plan)
{
	int pair[2], pidfd = -1;
	close(FD_EXEC_WATCH);
	make_pair(ctx, pair);
	pid_t mapper = ctx->inner_user && !maps_itself(ctx) ? sys_clone(0, &pidfd) : 0;
	if (mapper < 0)
		give_up_now(ctx, STAGE_CLONE, "cannot start the process that writes the id map");
	if (getpid() != 1) {
		close(pair[0]);
		answer_with_map(ctx, pair[1], (int)syscall(SYS_pidfd_open, 1, 0));
		_exit(0);
	}
	close(pair[1]);
	if (ctx->inner_user && unshare(ABI_CLONE_NEWUSER) < 0)
		give_up_now(ctx, STAGE_CLONE, "inner user namespace");
	if (!mapper)
		enter_payload(ctx, plan, pair[0]);
	ask_for_map(ctx, pair[0]);
	while (waitpid(mapper, NULL, 0) < 0 && errno == EINTR)
		;
	close_inner(ctx);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	become_payload(ctx, plan);
}

#define IDLE 0 /* in the payload's place: none, and no process has this number */

/* ---- the loop ------------------------------------------------------------------------------ */

/* CAP_KILL alone stays: the payload's ids may differ from ours. */
void keep_only_kill(void)
{
	struct abi_cap_header header = { ABI_CAP_VERSION_3, 0 };
	struct abi_cap_data data[2] = { { 1U << ABI_CAP_KILL, 1U << ABI_CAP_KILL, 0 }, { 0, 0, 0 } };
	if (syscall(SYS_capset, &header, data) < 0)
		give_up_alone("capset");
}

void close_all_but_ours(void)
{
	if (sys_close_range(0, FD_CHANNEL - 1) < 0 ||
	    sys_close_range(FD_CHANNEL + 1, FD_EXEC_WATCH - 1) < 0 ||
	    sys_close_range(FD_LIFELINE + 1, ~0U) < 0)
		give_up_alone("close_range");
}

static int code_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* See watch_over. */
struct watcher {
	pid_t payload;
	void (*ended)(int code);
	void (*broken)(int code);
	const struct spaces *spaces;
	int leaving;
};

static void reap(const struct watcher *w)
{
	struct rusage usage;
	int status;
	for (;;) {
		pid_t pid = wait4(-1, &status, WNOHANG, &usage);
		if (pid <= 0)
			return;
		if (pid != w->payload)
			continue;
		spaces_tell(w->spaces);
		/* The status leaves before the tear-down: our exit kills the whole pid namespace. */
		send_status(EVENT_EXITED, pid, status, &usage);
		w->ended(code_of(status));
	}
}

/* What a keyboard sends goes to the payload's whole group, as from a terminal: a shell that
 * waits for its child would otherwise wait on. */
static void pass_on(pid_t payload, int signal)
{
	if (payload == IDLE) {
		if (signal == SIGTERM)
			_exit(0);
		return;
	}
	int keyboard = signal == SIGINT || signal == SIGQUIT || signal == SIGSTOP || signal == SIGCONT;
	if (!keyboard || kill(-payload, signal) < 0)
		kill(payload, signal);
}

/* Who is told to end is not to leave anything running either. */
static void obey(struct watcher *w)
{
	unsigned char signal;
	ssize_t n = read(FD_LIFELINE, &signal, 1);
	if (n == 0)
		w->broken(128 + SIGKILL);
	else if (n == 1 && signal > 0 && signal <= 64) {
		if (signal == SIGTERM)
			w->ended = w->broken;
		pass_on(w->payload, signal);
	} else if (n == 1 && (signal == ORDER_FREEZE || signal == ORDER_THAW))
		kill(-1, signal == ORDER_FREEZE ? SIGSTOP : SIGCONT);
}

static void notice_exec(struct pollfd *watch, const struct watcher *w)
{
	char byte;
	if (read(FD_EXEC_WATCH, &byte, 1) == 0) {
		send_running(w->payload);
		if (w->leaving)
			w->ended(0);
	}
	close(FD_EXEC_WATCH);
	watch->fd = -1;
}

_Noreturn void watch_over(pid_t payload, void (*ended)(int code), void (*broken)(int code),
			  const struct spaces *spaces, int leaving)
{
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		give_up_alone("signalfd4");
	struct watcher watcher = { payload, ended, broken, spaces, leaving };
	struct pollfd watch[3] = { { FD_EXEC_WATCH, POLLIN, 0 },
				   { FD_LIFELINE, POLLIN, 0 },
				   { signals, POLLIN, 0 } };
	struct signalfd_siginfo info;

	reap(&watcher);
	for (;;) {
		if (poll(watch, 3, -1) < 0 && errno != EINTR)
			_exit(CODE_SETUP_FAILED);
		if (watch[0].revents)
			notice_exec(&watch[0], &watcher);
		if (watch[1].revents)
			obey(&watcher);
		if (watch[2].revents && read(signals, &info, sizeof(info)) > 0)
			reap(&watcher);
	}
}

/* pid_namespaces(7): with process 1 ends everything. */
static void end_all(int code)
{
	_exit(code);
}

_Noreturn void init_main(const struct plan *plan, const int shared[NAMESPACE_COUNT])
{
	struct context *ctx = calloc(1, sizeof(*ctx));
	struct spaces spaces = { 0 };
	if (!ctx)
		_exit(CODE_SETUP_FAILED);
	*ctx = (struct context){ .stage = -1, .root = -1, .procfs = -1, .terminal = -1, .ruleset = -1 };
	ctx->failure.op = -1;
	ctx->network.made = -1;

	prctl(PR_SET_NAME, "init", 0, 0, 0);
	if (share_enter(ctx, plan, shared) < 0)
		give_up(STAGE_CLONE, &ctx->failure, CODE_SETUP_FAILED);
	if (!ctx->tenant)
		die_with_parent();
	start_network(ctx, plan);
	become_outer_root(ctx, plan);
	run_setup(ctx, plan);
	if (plan_has(plan, OP_KEEP))
		share_namespaces(ctx);
	if (!(exec_flags(plan) & EXEC_INIT))
		run_as_first_process(ctx, plan);

	pid_t payload = start_payload(ctx, plan);
	if (exec_flags(plan) & EXEC_IDLE)
		payload = IDLE;
	void (*end)(int) = ctx->tenant ? end_descendants : end_all;
	free(ctx);
	keep_only_kill();
	close_all_but_ours();
	spaces_find(&spaces, plan);
	munmap((void *)(uintptr_t)plan->data, plan->length);
	watch_over(payload, end, end, &spaces, 0);
}
