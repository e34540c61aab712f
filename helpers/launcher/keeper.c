/* Everything here runs outside the sandbox with the caller's rights. Requests come from the caller's
 * own commands (the folder is theirs alone); records come from init and, until its exec, from
 * the payload's process. What the payload writes is copied and never read. */
#include "sys.h"

#include "keeper.h"

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

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- descriptors over a socket --------------------------------------------------------------- */

static ssize_t receive(int socket, void *data, size_t room, int *fds, int *count)
{
	struct iovec payload = { data, room };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * NAMESPACE_COUNT)];
		struct cmsghdr align;
	} control;
	struct msghdr message = { .msg_iov = &payload,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	*count = 0;
	if (n < 0)
		return n;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		*count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(header), (size_t)*count * sizeof(int));
	}
	return n;
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

static void forward_records(struct keeper *k)
{
	_Alignas(8) char record[RECORD_BYTES];
	struct event_head head;
	int fds[NAMESPACE_COUNT], count;
	for (;;) {
		ssize_t n = receive(k->records, record, sizeof(record), fds, &count);
		if (n < 0 && errno == EINTR)
			continue;
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

/* ---- orders ------------------------------------------------------------------------------------ */

/* Not reaped yet, the child keeps its number: kill(2) reaches it and no other. */
static int send_signal(struct keeper *k, int signal)
{
	return k->pidfd < 0 ? (errno = ESRCH, -1) : kill(k->pid, signal);
}

/* With a process 1 of its own everything dies with that one. */
static void kill_all(struct keeper *k)
{
	cgroup_kill();
	if (k->tenant && k->pidfd >= 0)
		join_end(k->pid);
	else
		send_signal(k, SIGKILL);
}

static int pass_order(struct keeper *k, unsigned char order)
{
	if (k->pidfd < 0)
		return errno = ESRCH, -1;
	if ((order == ORDER_FREEZE || order == ORDER_THAW) && has_cgroup())
		return cgroup_write("cgroup.freeze", order == ORDER_FREEZE ? "1" : "0");
	/* Without a group of its own, only process 1 knows what belongs to the sandbox. */
	if (order > 64 && k->tenant)
		return errno = EOPNOTSUPP, -1;
	if (order && !k->has_init)
		return order <= 64 ? send_signal(k, order) : (errno = EOPNOTSUPP, -1);
	return write(FD_LIFELINE_END, &order, 1) == 1 ? 0 : -1;
}

/* From others, who cannot know how far it is: a sandbox that is held would take the next byte as
 * the word to go on. Who started it keeps orders back as long as it is held. */
static int pass_request(struct keeper *k, unsigned char order)
{
	return k->ready ? pass_order(k, order) : (errno = EAGAIN, -1);
}

static void on_upstream(struct keeper *k)
{
	unsigned char order;
	ssize_t n = recv(k->upstream, &order, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n == 1 && order <= 64) {
		if (pass_order(k, order) < 0)
			kill_all(k);
		return;
	}
	if (n == 1 || !(k->flags & KEEP_DETACHED) || !k->running) {
		k->stopping = 1;
		kill_all(k);
	}
	if (n != 1)
		drop(&k->upstream);
}

/* A request is { verb, argument }, the answer an errno in one int, with descriptors:
 *   S n  send signal n to the payload     K     kill everything
 *   F T  stop, continue all processes     N     the namespaces and the root, by bits in a second int
 *   I    the payload's input: 1 pipe, 2 terminal in a second int */
static void answer(struct keeper *k, int client)
{
	unsigned char request[2] = { 0 };
	int reply[2] = { 0 }, fds[NAMESPACE_COUNT], count = 0, result = 0;
	ssize_t n = recv(client, request, sizeof(request), MSG_DONTWAIT);
	if (n <= 0)
		return;
	switch (request[0]) {
	case 'S':
		k->stopping |= request[1] == SIGTERM || request[1] == SIGKILL;
		send_order(request[1]);
		result = request[1] == 0 || request[1] > 64 ? (errno = EINVAL, -1) : pass_request(k, request[1]);
		break;
	case 'K':
		k->stopping = 1;
		send_order(SIGKILL);
		kill_all(k);
		break;
	case 'F':
	case 'T':
		result = pass_request(k, request[0] == 'F' ? ORDER_FREEZE : ORDER_THAW);
		if (result == 0)
			send_order(request[0] == 'F' ? ORDER_FREEZE : ORDER_THAW);
		break;
	case 'N':
		for (int i = 0; i < NAMESPACE_COUNT; i++)
			if (k->namespaces[i] >= 0) {
				reply[1] |= 1 << i;
				fds[count++] = k->namespaces[i];
			}
		break;
	case 'I':
		reply[1] = k->master >= 0 ? 2 : k->input >= 0 ? 1 : 0;
		if (reply[1])
			fds[count++] = k->master >= 0 ? k->master : k->input;
		break;
	default:
		errno = ENOSYS;
		result = -1;
	}
	reply[0] = result < 0 ? errno : 0;
	send_with(client, reply, sizeof(reply), fds, count);
}

static void welcome(struct keeper *k)
{
	int client = accept4(FD_CONTROL, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t length = sizeof(peer);
	if (client < 0)
		return;
	if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == getuid())
		for (int i = 0; i < KEEP_CLIENTS; i++)
			if (k->clients[i] < 0) {
				k->clients[i] = client;
				return;
			}
	close(client);
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
		kill_all(k);
		return;
	}
	k->terminating = 1;
	k->deadline_ms = (int64_t)(now_ms(CLOCK_MONOTONIC) + k->grace_ms);
	send_limit("timeout");
	if (pass_order(k, SIGTERM) < 0)
		kill_all(k);
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

enum { WATCH_DEATH, WATCH_RECORDS, WATCH_UPSTREAM, WATCH_OWNER, WATCH_CONTROL, WATCH_OUT, WATCH_ERR, WATCH_EXEC, WATCH_CLIENTS };

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
		const int fds[] = { pidfd, k->records, k->upstream, owner, FD_CONTROL, out, err, exec };
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
			kill_all(k);
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
			watch[i] = (struct pollfd){ i == WATCH_CONTROL ? FD_CONTROL : -1, POLLIN, 0 };
		for (int i = 0; i < KEEP_CLIENTS; i++)
			watch[WATCH_CLIENTS + i] = (struct pollfd){ k->clients[i], POLLIN, 0 };
		if (poll(watch, WATCH_CLIENTS + KEEP_CLIENTS, patience(k)) > 0)
			serve(k, watch);
	}
	/* proc(5): the id maps of a process that is not dumpable, as we are by now, are not ours. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return !k->stopping;
}
