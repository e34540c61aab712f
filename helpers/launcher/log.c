#define _GNU_SOURCE
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct entry {
	uint64_t at_ns;
	uint32_t bytes;
	uint8_t stream, zero[3];
};

uint64_t realtime_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

void log_close(struct log *log)
{
	if (log->fd >= 0)
		close(log->fd);
	log->fd = -1;
}

/* A reader counts on whole entries: what a full disk has cut is taken back. */
static int append(struct log *log, uint8_t stream, const void *data, uint32_t bytes)
{
	struct entry entry = { realtime_ns(), bytes, stream, { 0 } };
	struct iovec parts[2] = { { &entry, sizeof(entry) }, { (void *)(uintptr_t)data, bytes } };
	ssize_t whole = (ssize_t)(sizeof(entry) + bytes), n = writev(log->fd, parts, 2);
	if (n == whole) {
		log->bytes += (uint64_t)whole;
		return 0;
	}
	int error = n < 0 ? errno : ENOSPC;
	if (n > 0 && ftruncate(log->fd, (off_t)log->bytes) < 0)
		log_close(log);
	errno = error;
	return -1;
}

static int start_file(struct log *log)
{
	log->fd = openat(log->folder, "log", O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	log->bytes = 0;
	return log->fd < 0 ? -1 : append(log, 0, &log->before, sizeof(log->before));
}

int log_write(struct log *log, uint8_t stream, const void *data, uint32_t bytes)
{
	if (log->fd >= 0 && log->bytes + sizeof(struct entry) + bytes > log->max / 2) {
		log->before += log->bytes;
		log_close(log);
	}
	if (log->fd < 0) {
		renameat(log->folder, "log", log->folder, "log.1");
		if (start_file(log) < 0) {
			log_close(log);
			/* Else the next attempt would put it in the place of the older half. */
			unlinkat(log->folder, "log", 0);
			return -1;
		}
	}
	return append(log, stream, data, bytes);
}
