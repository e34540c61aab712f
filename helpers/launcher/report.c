#include "sys.h"

#include "report.h"
#include "rights.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

const char *refused_call;

struct record {
	char magic[4];
	uint16_t kind;
	uint16_t stage;
	int32_t op;
	int32_t error;
	int32_t pid;
	int32_t status;
	uint64_t utime_us;
	uint64_t stime_us;
	uint64_t maxrss_kib;
	uint64_t written_blocks;
	char text[456];
};
_Static_assert(sizeof(struct record) == 512, "the record's size is part of the protocol");

static struct record new_record(enum event_kind kind, enum stage stage)
{
	struct record r;
	memset(&r, 0, sizeof(r));
	memcpy(r.magic, "SBXE", 4);
	r.kind = (uint16_t)kind;
	r.stage = (uint16_t)stage;
	r.op = -1;
	return r;
}

static void send_record(const struct record *r)
{
	while (send(FD_CHANNEL, r, sizeof(*r), MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

int fail_with(struct failure *f, int error, const char *text)
{
	f->error = error;
	memset(f->text, 0, sizeof(f->text));
	snprintf(f->text, sizeof(f->text), "%s", text);
	return -1;
}

int fail(struct failure *f, const char *text)
{
	int error = errno;
	fail_with(f, error, text);
	if (refused_call && (error == ENOSYS || error == EPERM) && strcmp(text, refused_call) != 0)
		snprintf(f->text, sizeof(f->text), "%s: %s", refused_call, text);
	return -1;
}

void send_started(pid_t pid)
{
	struct record r = new_record(EVENT_STARTED, STAGE_SETUP);
	r.pid = pid;
	send_record(&r);
}

void send_running(pid_t pid)
{
	struct record r = new_record(EVENT_RUNNING, STAGE_RUN);
	r.pid = pid;
	send_record(&r);
}

void send_failure(enum event_kind kind, enum stage stage, const struct failure *f)
{
	struct record r = new_record(kind, stage);
	r.op = f->op;
	r.error = f->error;
	memcpy(r.text, f->text, sizeof(r.text));
	r.text[sizeof(r.text) - 1] = 0;
	send_record(&r);
}

static uint64_t microseconds(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000U + (uint64_t)t.tv_usec;
}

void send_status(enum event_kind kind, pid_t pid, int status, const struct rusage *usage)
{
	struct record r = new_record(kind, STAGE_END);
	r.pid = pid;
	r.status = status;
	r.utime_us = microseconds(usage->ru_utime);
	r.stime_us = microseconds(usage->ru_stime);
	r.maxrss_kib = (uint64_t)usage->ru_maxrss;
	r.written_blocks = (uint64_t)usage->ru_oublock;
	send_record(&r);
}

int send_held(int32_t op, const int *fds, int count)
{
	struct record r = new_record(EVENT_HELD, STAGE_SETUP);
	r.op = op;
	return send_with(FD_CHANNEL, &r, sizeof(r), fds, count);
}

int send_terminal(int master)
{
	struct record r = new_record(EVENT_TTY, STAGE_SETUP);
	return send_with(FD_CHANNEL, &r, sizeof(r), &master, 1);
}

int send_namespaces(const int *fds, int count, int first)
{
	struct record r = new_record(EVENT_NAMESPACES, STAGE_SETUP);
	r.status = first;
	return send_with(FD_CHANNEL, &r, sizeof(r), fds, count);
}

void send_limit(const char *why)
{
	struct record r = new_record(EVENT_LIMIT, STAGE_END);
	snprintf(r.text, sizeof(r.text), "%s", why);
	send_record(&r);
}

void send_full(const char *path)
{
	struct record r = new_record(EVENT_FULL, STAGE_END);
	snprintf(r.text, sizeof(r.text), "%s", path);
	send_record(&r);
}

void send_order(int signal)
{
	struct record r = new_record(EVENT_ORDER, STAGE_RUN);
	r.status = signal;
	send_record(&r);
}
