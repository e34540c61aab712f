/* What is wanted of a kept sandbox from outside: by who started it, by the caller's other commands over
 * the socket in its folder, and by signals to the launcher. */
#include "sys.h"

#include "keeper.h"
#include "rights.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

/* Not reaped yet, the child keeps its number: kill(2) reaches it and no other. */
static int send_signal(const struct keeper *k, int signal)
{
	return k->pidfd < 0 ? (errno = ESRCH, -1) : kill(k->pid, signal);
}

/* With a process 1 of its own everything dies with that one. */
void kill_everything(const struct keeper *k)
{
	cgroup_kill();
	if (k->tenant && k->pidfd >= 0)
		join_end(k->pid);
	else
		send_signal(k, SIGKILL);
}

int pass_order(const struct keeper *k, unsigned char order)
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
static int pass_request(const struct keeper *k, unsigned char order)
{
	return k->ready ? pass_order(k, order) : (errno = EAGAIN, -1);
}

void on_upstream(struct keeper *k)
{
	unsigned char order;
	ssize_t n = recv(k->upstream, &order, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n == 1 && order <= 64) {
		if (pass_order(k, order) < 0)
			kill_everything(k);
		return;
	}
	if (n == 1 || !(k->flags & KEEP_DETACHED) || !k->running) {
		k->stopping = 1;
		kill_everything(k);
	}
	if (n != 1)
		drop(&k->upstream);
}

void on_signal(struct keeper *k)
{
	struct signalfd_siginfo info;
	if (read(k->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	k->stopping = 1;
	send_order((int)info.ssi_signo);
	if (pass_request(k, (unsigned char)info.ssi_signo) < 0)
		kill_everything(k);
}

/* A request is { verb, argument }, the answer an errno in one int, with descriptors:
 *   S n  send signal n to the payload     K     kill everything
 *   F T  stop, continue all processes     N     the namespaces and the root, by bits in a second int
 *   I    the payload's input: 1 pipe, 2 terminal in a second int
 *   E    our end of a pipe to the payload's input is closed: nobody else will attach to it */
void answer(struct keeper *k, int client)
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
		kill_everything(k);
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
	case 'E':
		drop(&k->input);
		break;
	default:
		errno = ENOSYS;
		result = -1;
	}
	reply[0] = result < 0 ? errno : 0;
	/* Who has the answer may read at once what it changed. */
	forward_records(k);
	send_with(client, reply, sizeof(reply), fds, count);
}

void welcome(struct keeper *k)
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
