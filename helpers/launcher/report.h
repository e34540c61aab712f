/* Typed events on the channel, and failures as values. The record's twin is
 * sandbox/launcher/events.py. */
#ifndef SBX_REPORT_H
#define SBX_REPORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

enum fixed_descriptor { FD_PLAN = 100, FD_CHANNEL = 101, FD_OWNER = 102 };

enum event_kind {
	EVENT_STARTED = 1,
	EVENT_WARNING = 2,
	EVENT_ERROR = 3,
	EVENT_RUNNING = 4,
	EVENT_EXITED = 5,
	EVENT_DONE = 6,
	EVENT_TTY = 7,
	EVENT_HELD = 8,
	EVENT_NAMESPACES = 9, /* descriptors for the keeper; `status` is the first one's place */
	EVENT_LIMIT = 10,     /* the keeper ends the sandbox: why */
	EVENT_ORDER = 11,     /* somebody wanted a signal sent: which */
	EVENT_FULL = 12,      /* at the payload's end a file system of ours had no room left: which */
};

/* The descriptors by which a sandbox can be entered, in the order in which they are sent. */
enum namespace_place {
	NAMESPACE_USER,
	NAMESPACE_MOUNT,
	NAMESPACE_PID,
	NAMESPACE_NET,
	NAMESPACE_IPC,
	NAMESPACE_UTS,
	NAMESPACE_CGROUP,
	NAMESPACE_ROOT, /* its root directory, O_PATH */
	NAMESPACE_TIME,
	NAMESPACE_INNER, /* the payload's user namespace */
	NAMESPACE_COUNT,
};

/* The first bytes of every record. */
struct event_head {
	char magic[4];
	uint16_t kind;
	uint16_t stage;
	int32_t op;
	int32_t error;
	int32_t pid;
	int32_t status;
};

enum stage {
	STAGE_DECODE = 1,
	STAGE_CLONE = 2,
	STAGE_MAP = 3,
	STAGE_SETUP = 4,
	STAGE_SECURITY = 5,
	STAGE_EXEC = 6,
	STAGE_RUN = 7,
	STAGE_END = 8,
};

/* What failed: the operation, the kernel's errno, and the object in words. */
struct failure {
	int32_t op;
	int error;
	char text[456];
};

/* Fill a failure and return -1, so that `return fail(...)` reads as one step. errno is taken
 * at the time of the call. */
int fail(struct failure *f, const char *text);
int fail_with(struct failure *f, int error, const char *text);

/* Each sends one record; a channel that is gone is not an error (the owner watches apart). */
void send_started(pid_t pid);
void send_running(pid_t pid);
void send_failure(enum event_kind kind, enum stage stage, const struct failure *f);
void send_status(enum event_kind kind, pid_t pid, int status, const struct rusage *usage);
int send_held(int32_t op, const int *fds, int count);
int send_terminal(int master);
void send_limit(const char *why);
void send_order(int signal);
void send_full(const char *path);
int send_namespaces(const int *fds, int count, int first);

#endif
