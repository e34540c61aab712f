/* A small valid plan, built by hand, that the decoder's tests start from. */
#ifndef SBX_SAMPLE_PLAN_H
#define SBX_SAMPLE_PLAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SAMPLE_MAX 4096U

struct sample {
	uint8_t *data;
	size_t length;
	size_t operation; /* where the last operation's header starts */
};

static inline void sample_u32(struct sample *s, uint32_t value)
{
	memcpy(s->data + s->length, &value, sizeof(value));
	s->length += sizeof(value);
}

static inline void sample_u64(struct sample *s, uint64_t value)
{
	memcpy(s->data + s->length, &value, sizeof(value));
	s->length += sizeof(value);
}

static inline void sample_string(struct sample *s, const char *text)
{
	uint32_t length = (uint32_t)strlen(text);
	sample_u32(s, length);
	memcpy(s->data + s->length, text, (size_t)length + 1);
	s->length += (size_t)length + 1;
}

static inline void sample_begin(struct sample *s, uint32_t opcode)
{
	s->operation = s->length;
	sample_u32(s, opcode);
	sample_u32(s, 0);
}

static inline void sample_end(struct sample *s)
{
	uint32_t body = (uint32_t)(s->length - s->operation - 8);
	memcpy(s->data + s->operation + 4, &body, sizeof(body));
}

/* Fill `data`, at least SAMPLE_MAX bytes, with: namespaces, pivot, loopback, hold, limit, exec. */
static inline size_t sample_plan(uint8_t *data)
{
	struct sample s = { data, 0, 0 };
	memcpy(data, "SBXP", 4);
	s.length = 4;
	sample_u32(&s, 1);
	sample_u32(&s, 0);
	sample_u32(&s, 6);
	sample_begin(&s, 1);
	sample_u32(&s, 0x10000000);
	sample_end(&s);
	sample_begin(&s, 24);
	sample_end(&s);
	sample_begin(&s, 28);
	sample_end(&s);
	sample_begin(&s, 32);
	sample_end(&s);
	sample_begin(&s, 41);
	sample_u32(&s, 7);
	sample_u64(&s, 1024);
	sample_u64(&s, 4096);
	sample_end(&s);
	sample_begin(&s, 60);
	sample_u32(&s, 1);
	sample_u32(&s, 1);
	sample_string(&s, "true");
	sample_u32(&s, 1);
	sample_string(&s, "PATH=/bin");
	sample_string(&s, "/");
	sample_end(&s);
	uint32_t total = (uint32_t)s.length;
	memcpy(data + 8, &total, sizeof(total));
	return s.length;
}

/* The same of two operations: a socket with so many numbers for options, and exec. */
static inline size_t sample_socket(uint8_t *data, uint32_t numbers)
{
	struct sample s = { data, 0, 0 };
	memcpy(data, "SBXP", 4);
	s.length = 4;
	sample_u32(&s, 1);
	sample_u32(&s, 0);
	sample_u32(&s, 3);
	sample_begin(&s, 1);
	sample_u32(&s, 0x10000000);
	sample_end(&s);
	sample_begin(&s, 35);
	sample_string(&s, "socket");
	for (uint32_t field = 0; field < 3; field++)
		sample_u32(&s, 1);
	sample_u32(&s, numbers);
	for (uint32_t i = 0; i < numbers; i++)
		sample_u32(&s, i);
	sample_u32(&s, 0);
	sample_u32(&s, 0);
	sample_end(&s);
	sample_begin(&s, 60);
	sample_u32(&s, 1);
	sample_u32(&s, 1);
	sample_string(&s, "true");
	sample_u32(&s, 0);
	sample_string(&s, "/");
	sample_end(&s);
	uint32_t total = (uint32_t)s.length;
	memcpy(data + 8, &total, sizeof(total));
	return s.length;
}

#endif
