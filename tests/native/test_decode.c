/* The decoder's unit tests: one valid plan, and one rule broken at a time. */
#include "plan.h"
#include "sample_plan.h"

#include <stdio.h>
#include <stdlib.h>

static int failures;

#define EXPECT(condition)                                                        \
	do {                                                                     \
		if (!(condition)) {                                              \
			printf("%s:%d: %s\n", __func__, __LINE__, #condition); \
			failures++;                                              \
		}                                                                \
	} while (0)

/* Decode a heap copy of the exact size, so that a read past the end is seen. */
static int decode(const uint8_t *data, size_t length, const char **why, int32_t *index)
{
	uint8_t *copy = malloc(length ? length : 1);
	if (!copy)
		abort();
	if (length)
		memcpy(copy, data, length);
	struct plan plan;
	int result = plan_decode(copy, length, &plan, why, index);
	free(copy);
	return result;
}

static void test_valid(void)
{
	uint8_t data[SAMPLE_MAX];
	size_t length = sample_plan(data);
	struct plan plan;
	const char *why = NULL;
	int32_t index = 0;
	EXPECT(plan_decode(data, length, &plan, &why, &index) == 0);
	EXPECT(plan.count == 6);
	EXPECT(plan.exec.opcode == OP_EXEC && plan.exec.index == 5);
	struct operation op = { 0 };
	size_t position = 0;
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_NAMESPACES && op.index == 0);
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_PIVOT && op.index == 1);
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_LOOPBACK && op.index == 2);
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_HOLD && op.index == 3);
	EXPECT(op.body.at == op.body.end);
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_RLIMIT && op.index == 4);
	EXPECT(take_u32(&op.body) == 7);
	EXPECT(take_u64(&op.body) == 1024);
	EXPECT(take_u64(&op.body) == 4096);
	EXPECT(op.body.at == op.body.end && !op.body.bad);
	EXPECT(plan_next(&plan, &position, &op) && op.opcode == OP_EXEC);
	EXPECT(!plan_next(&plan, &position, &op));
}

static void test_every_truncation(void)
{
	uint8_t data[SAMPLE_MAX];
	size_t length = sample_plan(data);
	for (size_t cut = 0; cut < length; cut++) {
		const char *why = NULL;
		int32_t index = 0;
		EXPECT(decode(data, cut, &why, &index) == -1 && why);
		if (cut >= 12) { /* the same, with a header that agrees */
			uint32_t total = (uint32_t)cut;
			memcpy(data + 8, &total, sizeof(total));
			EXPECT(decode(data, cut, &why, &index) == -1 && why);
			sample_plan(data);
		}
	}
}

static void expect_refused(size_t offset, uint32_t value, const char *reason)
{
	uint8_t data[SAMPLE_MAX];
	size_t length = sample_plan(data);
	const char *why = NULL;
	int32_t index = 0;
	memcpy(data + offset, &value, sizeof(value));
	EXPECT(decode(data, length, &why, &index) == -1);
	if (!why || strcmp(why, reason) != 0) {
		printf("offset %zu: expected \"%s\", found \"%s\"\n", offset, reason, why ? why : "");
		failures++;
	}
}

static void test_broken_rules(void)
{
	uint8_t data[SAMPLE_MAX];
	size_t length = sample_plan(data);
	expect_refused(0, 0, "not a plan");
	expect_refused(4, 2, "made for another version of the launcher");
	expect_refused(8, (uint32_t)length + 1, "length does not match");
	expect_refused(12, 0, "length does not match");
	expect_refused(12, PLAN_MAX_OPS + 1, "length does not match");
	expect_refused(12, 5, "exec must be the last operation");
	expect_refused(16, 9999, "unknown operation");
	expect_refused(16, 60, "fields do not match the operation");
	expect_refused(16, 0x10001, "fields do not match the operation");
	expect_refused(28, 40, "operation out of order");
	expect_refused(44, 31, "fields do not match the operation"); /* 32 takes none, 31 three */
	expect_refused(44, 2, "fields do not match the operation");
	expect_refused(44, 5, "operation out of order"); /* takes none either, before the set-up */
	expect_refused(44, 6, "fields do not match the operation");
	for (uint32_t opcode = 33; opcode <= 35; opcode++)
		expect_refused(44, opcode, "fields do not match the operation");
}

/* A socket with `numbers` numbers for options, between two operations of the sample. */
static void test_socket(void)
{
	for (uint32_t numbers = 0; numbers <= 6; numbers++) {
		uint8_t data[SAMPLE_MAX];
		const char *why = NULL;
		int32_t index = 0;
		size_t length = sample_socket(data, numbers);
		int result = decode(data, length, &why, &index);
		EXPECT(result == (numbers % 3 ? -1 : 0));
		EXPECT(result == 0 || strcmp(why, "options of a socket are triples") == 0);
		EXPECT(result == 0 || index == 1);
	}
}

int main(void)
{
	test_valid();
	test_every_truncation();
	test_broken_rules();
	test_socket();
	printf("%d failed\n", failures);
	return failures != 0;
}
