/* Reads the plan message. Every length is checked here, once, before anything is done. */
#include "plan.h"

#include <string.h>

struct signature {
	uint16_t opcode;
	enum phase phase;
	const char *fields;
};

static const struct signature signatures[] = {
#define AS_SIGNATURE(name, opcode, phase, fields) { (opcode), (phase), (fields) },
	PLAN_OPERATIONS(AS_SIGNATURE)
#undef AS_SIGNATURE
};

#define HEADER_BYTES 16U
#define MAX_EXTENTS 340U /* user_namespaces(7): lines of one map */

static const struct signature *find_signature(uint16_t opcode)
{
	for (size_t i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++)
		if (signatures[i].opcode == opcode)
			return &signatures[i];
	return NULL;
}

static const uint8_t *take(struct cursor *c, size_t length)
{
	if (c->bad || (size_t)(c->end - c->at) < length) {
		c->bad = 1;
		return NULL;
	}
	const uint8_t *start = c->at;
	c->at += length;
	return start;
}

uint32_t take_u32(struct cursor *c)
{
	uint32_t value = 0;
	const uint8_t *from = take(c, sizeof(value));
	if (from)
		memcpy(&value, from, sizeof(value));
	return value;
}

uint64_t take_u64(struct cursor *c)
{
	uint64_t value = 0;
	const uint8_t *from = take(c, sizeof(value));
	if (from)
		memcpy(&value, from, sizeof(value));
	return value;
}

const char *take_string(struct cursor *c)
{
	uint32_t length = take_u32(c);
	if (c->bad || length == UINT32_MAX)
		return c->bad = 1, "";
	const uint8_t *from = take(c, (size_t)length + 1);
	if (!from)
		return "";
	if (from[length] != 0 || memchr(from, 0, length))
		return c->bad = 1, "";
	return (const char *)from;
}

struct bytes take_bytes(struct cursor *c)
{
	struct bytes found = { NULL, take_u32(c) };
	found.data = take(c, found.length);
	if (!found.data)
		found.length = 0;
	return found;
}

static void check_list(struct cursor *c, char kind)
{
	uint32_t count = take_u32(c);
	if (kind == 'L' && count > MAX_EXTENTS)
		c->bad = 1;
	for (uint32_t i = 0; i < count && !c->bad; i++) {
		if (kind == 'S')
			take_string(c);
		else
			take(c, kind == 'L' ? 3 * sizeof(uint32_t) : sizeof(uint32_t));
	}
}

static int fields_fit(struct cursor body, const char *fields)
{
	for (; *fields; fields++) {
		switch (*fields) {
		case 'u':
			take_u32(&body);
			break;
		case 'q':
			take_u64(&body);
			break;
		case 's':
			take_string(&body);
			break;
		case 'b':
			take_bytes(&body);
			break;
		default:
			check_list(&body, *fields);
		}
	}
	return !body.bad && body.at == body.end;
}

int plan_next(const struct plan *plan, size_t *position, struct operation *op)
{
	struct cursor c = { plan->data + HEADER_BYTES + *position, plan->data + plan->length, 0 };
	if (c.at == c.end)
		return 0;
	uint32_t word = take_u32(&c);
	uint32_t length = take_u32(&c);
	const uint8_t *body = take(&c, length);
	if (!body)
		return 0;
	op->index = *position ? op->index + 1 : 0;
	op->opcode = (uint16_t)(word & 0xffff);
	op->body = (struct cursor){ body, body + length, (word >> 16) != 0 };
	*position = (size_t)(c.at - plan->data) - HEADER_BYTES;
	return 1;
}

enum phase plan_phase(uint16_t opcode)
{
	const struct signature *known = find_signature(opcode);
	return known ? known->phase : PHASE_PAYLOAD;
}

/* seccomp(2): BPF_MAXINSNS instructions of eight bytes at most. */
static int filter_fits(struct cursor body)
{
	struct bytes code = take_bytes(&body);
	return code.length && code.length % 8 == 0 && code.length / 8 <= 4096;
}

/* Options are triples: level, name, value. */
static int options_fit(struct cursor body)
{
	take_string(&body);
	for (int i = 0; i < 3; i++)
		take_u32(&body);
	return take_u32(&body) % 3 == 0;
}

static const char *check_operation(const struct operation *op, enum phase *phase, uint32_t left)
{
	const struct signature *known = find_signature(op->opcode);
	if (!known)
		return "unknown operation";
	if (op->body.bad || !fields_fit(op->body, known->fields))
		return "fields do not match the operation";
	if (op->opcode == OP_SECCOMP && !filter_fits(op->body))
		return "not a system call filter";
	if (op->opcode == OP_SOCKET && !options_fit(op->body))
		return "options of a socket are triples";
	if (known->phase < *phase)
		return "operation out of order";
	if ((op->opcode == OP_EXEC) != (left == 0))
		return "exec must be the last operation";
	*phase = known->phase;
	return NULL;
}

int plan_decode(const uint8_t *data, size_t length, struct plan *plan, const char **why,
		int32_t *index)
{
	struct cursor c = { data, data + length, 0 };
	const uint8_t *magic = take(&c, 4);
	uint32_t version = take_u32(&c);
	uint32_t total = take_u32(&c);
	uint32_t count = take_u32(&c);

	*index = -1;
	*why = "not a plan";
	if (c.bad || memcmp(magic, "SBXP", 4) != 0)
		return -1;
	*why = "made for another version of the launcher";
	if (version != PLAN_VERSION)
		return -1;
	*why = "length does not match";
	if (total != length || length > PLAN_MAX_BYTES || count == 0 || count > PLAN_MAX_OPS)
		return -1;

	*plan = (struct plan){ .data = data, .length = length, .count = count };
	struct operation op = { 0 };
	enum phase phase = PHASE_LAUNCHER;
	size_t position = 0;
	for (uint32_t i = 0; i < count; i++) {
		*why = "truncated";
		*index = (int32_t)i;
		if (!plan_next(plan, &position, &op))
			return -1;
		*why = check_operation(&op, &phase, count - 1 - i);
		if (*why)
			return -1;
	}
	plan->exec = op;
	*why = "bytes after the last operation";
	return position + HEADER_BYTES == length ? 0 : -1;
}

void find_operation(const struct plan *plan, uint16_t opcode, struct operation *found)
{
	struct operation op = { 0 };
	for (size_t at = 0; plan_next(plan, &at, &op);)
		if (op.opcode == opcode)
			*found = op;
}

int plan_has(const struct plan *plan, uint16_t opcode)
{
	struct operation op = { 0 };
	find_operation(plan, opcode, &op);
	return op.opcode != 0;
}
