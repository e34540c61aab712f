/* Fuzz target of the plan decoder: whatever the bytes, nothing outside them is read, and what
 * passes the check can be walked field by field without a further check. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *fields_of(uint16_t opcode)
{
#define AS_FIELDS(name, number, phase, fields) \
	if (opcode == (number))                \
		return (fields);
	PLAN_OPERATIONS(AS_FIELDS)
#undef AS_FIELDS
	return NULL;
}

static void walk_list(struct cursor *body, char kind)
{
	uint32_t count = take_u32(body);
	for (uint32_t i = 0; i < count && !body->bad; i++) {
		if (kind == 'S')
			take_string(body);
		else
			for (int word = 0; word < (kind == 'L' ? 3 : 1); word++)
				take_u32(body);
	}
}

static void walk(const struct operation *op)
{
	const char *fields = fields_of(op->opcode);
	if (!fields)
		abort();
	struct cursor body = op->body;
	for (; *fields; fields++) {
		if (*fields == 'u')
			take_u32(&body);
		else if (*fields == 'q')
			take_u64(&body);
		else if (*fields == 's')
			take_string(&body);
		else if (*fields == 'b')
			take_bytes(&body);
		else
			walk_list(&body, *fields);
	}
	if (body.bad || body.at != body.end)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of the exact size, so that AddressSanitizer sees the first byte too many. */
	uint8_t *copy = malloc(size ? size : 1);
	if (!copy)
		return 0;
	if (size)
		memcpy(copy, data, size);
	if (size >= 12 && (copy[size - 1] & 1)) {
		uint32_t total = (uint32_t)size;
		memcpy(copy, "SBXP\1\0\0\0", 8);
		memcpy(copy + 8, &total, sizeof(total));
	}
	struct plan plan;
	const char *why = NULL;
	int32_t index = 0;
	if (plan_decode(copy, size, &plan, &why, &index) == 0) {
		struct operation op = { 0 };
		size_t position = 0;
		uint32_t seen = 0;
		while (plan_next(&plan, &position, &op)) {
			walk(&op);
			seen++;
		}
		if (seen != plan.count)
			abort();
	} else if (!why) {
		abort();
	}
	free(copy);
	return 0;
}
