/* A kept sandbox: one that other commands find, enter and stop. Beside its ordinary work the
 * launcher then answers on a socket in the sandbox's folder, and writes down what happens there.
 * Detached it is also the one who reads the output, watches the clock and starts anew. */
#ifndef SBX_KEEPER_H
#define SBX_KEEPER_H

#include "launch.h"
#include "log.h"

/* What a kept sandbox inherits beside FD_PLAN … FD_OWNER, and the descriptors that KEEP lists: locked
 * files, never used, for the kernel drops their locks when the launcher ends. */
#define FD_CONTROL 107 /* the listening socket */
#define FD_FOLDER 108  /* the folder in which it lies */

#define KEEP_DETACHED 0x1U /* nobody stays: output goes to the log, the clock is ours */
#define KEEP_INPUT 0x2U	   /* the payload's input stays open for those who attach */

#define KEEP_CLIENTS 128
#define KEEP_LIST_AT 32 /* bytes before the list of descriptors in KEEP */

struct keeper {
	uint32_t flags;
	uint32_t restarts; /* how often it may be started again after a failure */
	uint64_t timeout_ms, grace_ms;
	int upstream; /* who started us, -1 once gone */
	int records;  /* our end of what init, payload and we ourselves send as FD_CHANNEL */
	int events;   /* the file of records */
	off_t events_bytes;
	int running;  /* the payload has been executed at least once */
	int ready;    /* and in this life */
	int stopping; /* it ends by somebody's wish: not to be started again */
	int exited;   /* raw wait status of the payload, -1 as long as nobody saw it */
	pid_t pid;
	int pidfd, has_init;
	int tenant; /* in the pid namespace of another sandbox */
	int64_t deadline_ms; /* monotonic, 0 = none */
	int terminating;
	uint64_t began_ms, pause_ms;
	int signals;	      /* a signalfd of what somebody sends to the launcher itself */
	int input;	      /* the payload's input, -1 */
	int master, slave;    /* its terminal, held so that it never hangs up while it lives, -1 */
	int outputs[2];	      /* its outputs, -1 when they are not ours or at their end */
	struct log log;
	int log_lost;	      /* it took nothing the last time, for the reason in `loss` */
	struct failure loss;
	int64_t slice_bytes;  /* of output since slice_ms, monotonic */
	uint64_t slice_ms;
	int namespaces[NAMESPACE_COUNT];
	int clients[KEEP_CLIENTS];
};

/* Whether the plan wants a kept sandbox; then take over the channel. 1, 0, or -1 with fail(). */
int keeper_open(struct keeper *k, const struct plan *plan, struct failure *f);

/* Before and after the clone of a detached sandbox: pipes for its stdio. 0 or fail(). */
int keeper_make_stdio(struct keeper *k, int child[3], struct failure *f);
void keeper_take_stdio(struct keeper *k, int child[3]);
void keeper_leave_to_child(struct keeper *k, const int child[3]);

/* Stay until the sandbox is dead; then its records and output are delivered. */
void keeper_watch(struct keeper *k, pid_t pid, int pidfd, int has_init, int tenant);
void keeper_finish(struct keeper *k);

/* Write down, and tell who started us, the records that have come. */
void forward_records(struct keeper *k);

/* Orders (orders.c): from who started us, from signals to us, from clients; what they come to. */
void on_upstream(struct keeper *k);
void on_signal(struct keeper *k);
void welcome(struct keeper *k);
void answer(struct keeper *k, int client);
int pass_order(const struct keeper *k, unsigned char order);
void kill_everything(const struct keeper *k);

/* Whether to start it again, after the pause that this call makes. */
int keeper_again(struct keeper *k);

#endif
