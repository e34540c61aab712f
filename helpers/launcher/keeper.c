/* Everything here runs outside the sandbox with the caller's rights. Requests come from the caller's
 * own commands (the folder is theirs alone); records come from init and, until its exec, from
 * the payload's process. What the payload writes is copied and never read. */
#include "sys.h"

#include "keeper.h"
#include "rights.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define RECORD_BYTES 512
#define CHUNK_BYTES 65536
#define SLICE_MS 100
#define SLICE_BYTES (8 << 20) /* of output in one slice: who writes more waits for the next */
#define EVENTS_RESERVED 8192  /* on a full disk too the last records tell how it ended */
#define RESTART_FIRST_MS 100
#define RESTART_MOST_MS 60000
#define RESTART_STEADY_MS 10000 /* who lived longer starts again with the first pause */

static uint64_t now_ms(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000U + (uint64_t)t.tv_nsec / 1000000U;
}

/* ---- records ----------------------------------------------------------------------------------- */

/* Each record in the file is preceded by the time at which it came, in ns since the epoch. */
static void write_down(struct keeper *k, const void *record)
{
	uint64_t at = realtime_ns();
	struct iovec parts[2] = { { &at, sizeof(at) }, { (void *)(uintptr_t)record, RECORD_BYTES } };
	ssize_t whole = (ssize_t)(sizeof(at) + RECORD_BYTES), n = writev(k->events, parts, 2);
	if (n == whole)
		k->events_bytes += whole;
	/* A reader counts on whole records: what a full disk has cut is taken back. */
	else if (n > 0 && ftruncate(k->events, k->events_bytes) < 0)
		drop(&k->events);
}

static void take_namespaces(struct keeper *k, const int *fds, int count, int first)
{
	for (int i = 0; i < count; i++) {
		int place = first + i;
		if (place >= NAMESPACE_COUNT) {
			close(fds[i]);
			continue;
		}
		drop(&k->namespaces[place]);
		k->namespaces[place] = fds[i];
	}
}

static void pass_upstream(struct keeper *k, const void *record, const int *fds, int count)
{
	if (k->upstream >= 0 && send_with(k->upstream, record, RECORD_BYTES, fds, count) < 0 && errno == EPIPE)
		drop(&k->upstream);
}

/* A pty whose other end is closed everywhere only reports errors: ours stays open. */
static void take_terminal(struct keeper *k, int master)
{
	k->master = master;
	k->slave = ioctl(master, ABI_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	drop(&k->input);
	drop(&k->outputs[0]);
	drop(&k->outputs[1]);
	k->outputs[0] = fcntl(master, F_DUPFD_CLOEXEC, 3);
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
}

static void on_record(struct keeper *k, const struct event_head *head, const void *record, int *fds,
		      int count)
{
	if (head->kind == EVENT_NAMESPACES) {
		take_namespaces(k, fds, count, head->status);
		return;
	}
	if (head->kind == EVENT_RUNNING)
		k->running = k->ready = 1;
	if (head->kind == EVENT_EXITED) {
		k->exited = head->status;
		k->deadline_ms = 0;
	}
	write_down(k, record);
	pass_upstream(k, record, fds, count);
	if (head->kind == EVENT_TTY && count == 1 && (k->flags & KEEP_DETACHED)) {
		take_terminal(k, fds[0]);
		return;
	}
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

void forward_records(struct keeper *k)
{
	_Alignas(8) char record[RECORD_BYTES];
	struct event_head head;
	int fds[RIGHTS_MOST], count;
	for (;;) {
		ssize_t n = receive_with(k->records, record, sizeof(record), MSG_DONTWAIT, fds, &count);
		if (n <= 0)
			return;
		if (n == RECORD_BYTES) {
			memcpy(&head, record, sizeof(head));
			on_record(k, &head, record, fds, count);
		} else {
			for (int i = 0; i < count; i++)
				close(fds[i]);
		}
	}
}

/* ---- the output ----------------------------------------------------------------------------------- */

/* The log itself tells nothing of what is not in it. Said when it begins, and again when there is
 * room to write that down. */
static void say_lost(struct keeper *k, int lost)
{
	if (lost && !k->log_lost)
		fail(&k->loss, "output was lost: it cannot be written to the log");
	if (lost != k->log_lost)
		send_failure(EVENT_WARNING, STAGE_RUN, &k->loss);
	k->log_lost = lost;
}

/* Whatever lies in the pipe, at most `turns` chunks: a flood must not keep us from orders. */
static void read_output(struct keeper *k, int which, int turns)
{
	static char chunk[CHUNK_BYTES];
	while (k->outputs[which] >= 0 && turns-- > 0) {
		ssize_t n = read(k->outputs[which], chunk, sizeof(chunk));
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		if (n <= 0)
			drop(&k->outputs[which]);
		else
			say_lost(k, log_write(&k->log, (uint8_t)(which + 1), chunk, (uint32_t)n) < 0);
		k->slice_bytes += n > 0 ? n : 0;
	}
}

/* ---- the clock --------------------------------------------------------------------------------- */

static int patience(const struct keeper *k)
{
	if (!k->deadline_ms)
		return -1;
	int64_t left = k->deadline_ms - (int64_t)now_ms(CLOCK_MONOTONIC);
	return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

/* How long the output has to wait, in ms, -1 when it need not. */
static int output_pause(struct keeper *k)
{
	uint64_t now = now_ms(CLOCK_MONOTONIC);
	if (now - k->slice_ms >= SLICE_MS) {
		k->slice_ms = now;
		k->slice_bytes = 0;
	}
	return k->slice_bytes < SLICE_BYTES ? -1 : (int)(k->slice_ms + SLICE_MS - now);
}

static void on_deadline(struct keeper *k)
{
	k->stopping = 1;
	if (k->terminating || !k->grace_ms) {
		k->deadline_ms = 0;
		send_limit("timeout");
		kill_everything(k);
		return;
	}
	k->terminating = 1;
	k->deadline_ms = (int64_t)(now_ms(CLOCK_MONOTONIC) + k->grace_ms);
	send_limit("timeout");
	if (pass_order(k, SIGTERM) < 0)
		kill_everything(k);
}

/* ---- the life ---------------------------------------------------------------------------------- */

int keeper_open(struct keeper *k, const struct plan *plan, struct failure *f)
{
	struct operation op = { 0 };
	find_operation(plan, OP_KEEP, &op);
	if (!op.opcode)
		return 0;
	memset(k, 0, sizeof(*k));
	k->flags = take_u32(&op.body);
	k->restarts = take_u32(&op.body);
	k->loss.op = -1;
	k->log = (struct log){ .folder = FD_FOLDER, .fd = -1, .max = take_u64(&op.body) };
	k->timeout_ms = take_u64(&op.body);
	k->grace_ms = take_u64(&op.body);
	k->input = k->master = k->slave = k->outputs[0] = k->outputs[1] = k->exited = k->pidfd = -1;
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		k->namespaces[i] = -1;
	for (int i = 0; i < KEEP_CLIENTS; i++)
		k->clients[i] = -1;
	int pair[2];
	k->events = openat(FD_FOLDER, "events", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fallocate(k->events, FALLOC_FL_KEEP_SIZE, 0, EVENTS_RESERVED) < 0 && errno != EOPNOTSUPP)
		return fail(f, "cannot make room for the sandbox's records");
	k->upstream = fcntl(FD_CHANNEL, F_DUPFD_CLOEXEC, FD_CGROUP + 1);
	if (k->events < 0 || k->upstream < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    dup3(pair[1], FD_CHANNEL, O_CLOEXEC) < 0)
		return fail(f, "cannot keep the sandbox");
	close(pair[1]);
	k->records = pair[0];
	k->signals = signals_to_us();
	return 1;
}

int keeper_make_stdio(struct keeper *k, int child[3], struct failure *f)
{
	int ends[3][2];
	for (int i = 0; i < 3; i++)
		if (pipe2(ends[i], O_CLOEXEC) < 0)
			return fail(f, "pipe2");
	child[0] = ends[0][0];
	child[1] = ends[1][1];
	child[2] = ends[2][1];
	k->input = ends[0][1];
	k->outputs[0] = ends[1][0];
	k->outputs[1] = ends[2][0];
	/* Each end of a pipe has flags of its own: the payload's stay blocking. */
	for (int i = 0; i < 2; i++)
		fcntl(k->outputs[i], F_SETFL, O_RDONLY | O_NONBLOCK);
	return 0;
}

void keeper_take_stdio(struct keeper *k, int child[3])
{
	for (int i = 0; i < 3; i++)
		close(child[i]);
	if (!(k->flags & KEEP_INPUT))
		drop(&k->input);
}

void keeper_leave_to_child(struct keeper *k, const int child[3])
{
	for (int i = 0; i < 3; i++)
		dup2(child[i], i);
	/* What the keeper has open is not for the sandbox, not even until its first exec. */
	sys_close_range(FD_CONTROL, FD_FOLDER);
	drop(&k->signals);
	drop(&k->upstream);
	drop(&k->records);
	drop(&k->events);
	log_close(&k->log);
	drop(&k->input);
	drop(&k->outputs[0]);
	drop(&k->outputs[1]);
	for (int i = 0; i < KEEP_CLIENTS; i++)
		drop(&k->clients[i]);
}

enum {
	WATCH_DEATH,
	WATCH_RECORDS,
	WATCH_UPSTREAM,
	WATCH_OWNER,
	WATCH_CONTROL,
	WATCH_SIGNALS,
	WATCH_OUT,
	WATCH_ERR,
	WATCH_EXEC,
	WATCH_CLIENTS
};

static void serve(struct keeper *k, const struct pollfd *watch)
{
	if (watch[WATCH_RECORDS].revents)
		forward_records(k);
	if (watch[WATCH_OUT].revents)
		read_output(k, 0, 4);
	if (watch[WATCH_ERR].revents)
		read_output(k, 1, 4);
	if (watch[WATCH_UPSTREAM].revents)
		on_upstream(k);
	if (watch[WATCH_SIGNALS].revents)
		on_signal(k);
	if (watch[WATCH_CONTROL].revents)
		welcome(k);
	for (int i = 0; i < KEEP_CLIENTS; i++) {
		short events = watch[WATCH_CLIENTS + i].revents;
		if (events & POLLIN)
			answer(k, k->clients[i]);
		if (events & (POLLHUP | POLLERR))
			drop(&k->clients[i]);
	}
}

void keeper_watch(struct keeper *k, pid_t pid, int pidfd, int has_init, int tenant)
{
	struct pollfd watch[WATCH_CLIENTS + KEEP_CLIENTS];
	int owner = fcntl(FD_OWNER, F_GETFD) < 0 ? -1 : FD_OWNER, exec = has_init ? -1 : FD_EXEC_WATCH;
	if (has_init)
		close(FD_EXEC_WATCH);
	k->pid = pid;
	k->pidfd = pidfd;
	k->has_init = has_init;
	k->tenant = tenant;
	k->exited = -1;
	k->terminating = k->ready = 0;
	k->began_ms = now_ms(CLOCK_MONOTONIC);
	k->deadline_ms = k->timeout_ms ? (int64_t)(now_ms(CLOCK_MONOTONIC) + k->timeout_ms) : 0;
	for (;;) {
		int pause = output_pause(k), wait = patience(k), out = pause < 0 ? k->outputs[0] : -1,
		    err = pause < 0 ? k->outputs[1] : -1;
		const int fds[] = { pidfd, k->records, k->upstream, owner, FD_CONTROL, k->signals, out, err, exec };
		for (int i = 0; i < WATCH_CLIENTS; i++)
			watch[i] = (struct pollfd){ fds[i], POLLIN, 0 };
		for (int i = 0; i < KEEP_CLIENTS; i++)
			watch[WATCH_CLIENTS + i] = (struct pollfd){ k->clients[i], POLLIN, 0 };
		if (poll(watch, WATCH_CLIENTS + KEEP_CLIENTS, pause < 0 || (wait >= 0 && wait < pause) ? wait : pause) < 0)
			continue;
		if (watch[WATCH_EXEC].revents) {
			char byte;
			if (read(FD_EXEC_WATCH, &byte, 1) == 0)
				send_running(pid);
			close(FD_EXEC_WATCH);
			exec = -1;
		}
		if (watch[WATCH_OWNER].revents) {
			k->stopping = 1;
			kill_everything(k);
			owner = -1;
		}
		if (watch[WATCH_DEATH].revents)
			return;
		serve(k, watch);
		if (k->deadline_ms && !patience(k))
			on_deadline(k);
	}
}

void keeper_finish(struct keeper *k)
{
	if (k->tenant) {
		forward_records(k);
		share_end(k->namespaces[NAMESPACE_INNER]);
	}
	drop(&k->pidfd);
	drop(&k->master);
	drop(&k->slave);
	for (int which = 0; which < 2; which++) {
		read_output(k, which, 1024);
		drop(&k->outputs[which]);
	}
	drop(&k->input);
	for (int i = 0; i < NAMESPACE_COUNT; i++)
		drop(&k->namespaces[i]);
	forward_records(k);
}

int keeper_again(struct keeper *k)
{
	struct pollfd watch[WATCH_CLIENTS + KEEP_CLIENTS];
	int failed = k->exited < 0 || !WIFEXITED(k->exited) || WEXITSTATUS(k->exited);
	if (!(k->flags & KEEP_DETACHED) || !k->running || k->stopping || !failed || !k->restarts)
		return 0;
	if (k->restarts != UINT32_MAX)
		k->restarts--;
	if (now_ms(CLOCK_MONOTONIC) - k->began_ms > RESTART_STEADY_MS)
		k->pause_ms = 0;
	k->pause_ms = k->pause_ms ? k->pause_ms * 2 : RESTART_FIRST_MS;
	if (k->pause_ms > RESTART_MOST_MS)
		k->pause_ms = RESTART_MOST_MS;
	k->deadline_ms = (int64_t)(now_ms(CLOCK_MONOTONIC) + k->pause_ms);
	while (patience(k) && !k->stopping) {
		for (int i = 0; i < WATCH_CLIENTS; i++)
			watch[i] = (struct pollfd){ -1, POLLIN, 0 };
		watch[WATCH_CONTROL].fd = FD_CONTROL;
		watch[WATCH_SIGNALS].fd = k->signals;
		for (int i = 0; i < KEEP_CLIENTS; i++)
			watch[WATCH_CLIENTS + i] = (struct pollfd){ k->clients[i], POLLIN, 0 };
		if (poll(watch, WATCH_CLIENTS + KEEP_CLIENTS, patience(k)) > 0)
			serve(k, watch);
	}
	/* proc(5): the id maps of a process that is not dumpable, as we are by now, are not ours. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return !k->stopping;
}
