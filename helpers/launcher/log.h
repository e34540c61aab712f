/* The bounded log of a detached sandbox's output. sandbox/runtime/logs.py reads it.
 *
 * Entries of { u64 ns since the epoch, u32 bytes, u8 stream, 3 zero bytes } and the bytes; stream 1
 * and 2 are the payload's. A file begins with an entry of stream 0: how many bytes the files before
 * it held. Two files: a full one takes the other's name, and the older half of the log goes. */
#ifndef SBX_LOG_H
#define SBX_LOG_H

#include <stdint.h>

struct log {
	int folder;
	int fd;		 /* the present file, -1 before the first entry */
	uint64_t max;	 /* bytes in both files */
	uint64_t bytes;	 /* in the present file */
	uint64_t before; /* in all files before it */
};

/* Nanoseconds since the epoch. */
uint64_t realtime_ns(void);

/* One entry, whole or not at all: 0, or -1 when it is lost. */
int log_write(struct log *log, uint8_t stream, const void *data, uint32_t bytes);

void log_close(struct log *log);

#endif
