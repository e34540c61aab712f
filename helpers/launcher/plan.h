/* The plan message: what Python decided, as a flat list of operations.
 *
 * Layout, little endian: header { "SBXP", version, total bytes, number of operations }, then
 * operations { u16 opcode, u16 zero, u32 body bytes, body }. A body is the fields that the
 * opcode's signature lists, unaligned:
 *   u  u32                     q  u64
 *   s  u32 length, bytes, NUL  b  u32 length, bytes
 *   S  u32 count, that many s  G  u32 count, that many u32
 *   L  u32 count, that many { u32 inside, u32 outside, u32 count }
 * The same table stands in sandbox/plan/ops.py; a test compares the two. */
#ifndef SBX_PLAN_H
#define SBX_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define PLAN_VERSION 1U
#define PLAN_MAX_BYTES (8U << 20)
#define PLAN_MAX_OPS 4096U

/* Which process executes an operation; operations stand in this order. */
enum phase { PHASE_LAUNCHER, PHASE_SETUP, PHASE_PAYLOAD };

/* OPERATION(name, opcode, phase, signature) */
#define PLAN_OPERATIONS(OPERATION)                               \
	OPERATION(NAMESPACES, 1, PHASE_LAUNCHER, "u")            \
	OPERATION(ID_MAP, 2, PHASE_LAUNCHER, "uuLLss")           \
	OPERATION(KEEP, 3, PHASE_LAUNCHER, "uuqqqG")             \
	OPERATION(JOIN, 4, PHASE_LAUNCHER, "uu")                 \
	OPERATION(CGROUP, 5, PHASE_LAUNCHER, "")                 \
	OPERATION(CGROUP_LIMIT, 6, PHASE_LAUNCHER, "ssu")        \
	OPERATION(SHARE, 7, PHASE_LAUNCHER, "sGs")               \
	OPERATION(PRIVATE, 10, PHASE_SETUP, "")                  \
	OPERATION(PROCFS, 11, PHASE_SETUP, "u")                  \
	OPERATION(STAGE, 12, PHASE_SETUP, "qq")                  \
	OPERATION(ROOT_OVERLAY, 13, PHASE_SETUP, "sqqsqquS")     \
	OPERATION(ROOT_BIND, 14, PHASE_SETUP, "sqqu")            \
	OPERATION(FILESYSTEM, 15, PHASE_SETUP, "ssuuS")          \
	OPERATION(BIND, 16, PHASE_SETUP, "sqqusuu")              \
	OPERATION(DEVICE, 17, PHASE_SETUP, "suu")                \
	OPERATION(SYMLINK, 18, PHASE_SETUP, "ss")                \
	OPERATION(DIRECTORY, 19, PHASE_SETUP, "su")              \
	OPERATION(FILE, 20, PHASE_SETUP, "sbu")                  \
	OPERATION(MASK, 21, PHASE_SETUP, "s")                    \
	OPERATION(LOCK, 22, PHASE_SETUP, "s")                    \
	OPERATION(REMOUNT, 23, PHASE_SETUP, "su")                \
	OPERATION(PIVOT, 24, PHASE_SETUP, "")                    \
	OPERATION(TERMINAL, 25, PHASE_SETUP, "uu")               \
	OPERATION(PROC_WRITE, 26, PHASE_SETUP, "ssu")            \
	OPERATION(HOSTNAME, 27, PHASE_SETUP, "ss")               \
	OPERATION(LOOPBACK, 28, PHASE_SETUP, "")                 \
	OPERATION(TIME_NAMESPACE, 29, PHASE_SETUP, "")           \
	OPERATION(PROCESS_LIMIT, 30, PHASE_SETUP, "q")           \
	OPERATION(INNER_USER, 31, PHASE_SETUP, "uuLL")           \
	OPERATION(HOLD, 32, PHASE_SETUP, "")                     \
	OPERATION(TUN, 33, PHASE_SETUP, "suuu")                  \
	OPERATION(NETLINK, 34, PHASE_SETUP, "suub")              \
	OPERATION(SOCKET, 35, PHASE_SETUP, "suuuGbu")            \
	OPERATION(KEYRING, 40, PHASE_PAYLOAD, "")                \
	OPERATION(RLIMIT, 41, PHASE_PAYLOAD, "uqq")              \
	OPERATION(IDS, 42, PHASE_PAYLOAD, "uuuG")                \
	OPERATION(CAPABILITIES, 43, PHASE_PAYLOAD, "q")          \
	OPERATION(NO_NEW_PRIVS, 44, PHASE_PAYLOAD, "")           \
	OPERATION(LANDLOCK, 45, PHASE_PAYLOAD, "qqq")            \
	OPERATION(LANDLOCK_PATH, 46, PHASE_PAYLOAD, "sq")        \
	OPERATION(LANDLOCK_ENFORCE, 47, PHASE_PAYLOAD, "")       \
	OPERATION(WORKDIR, 48, PHASE_PAYLOAD, "")                \
	OPERATION(CLOSE_DESCRIPTORS, 49, PHASE_PAYLOAD, "G")     \
	OPERATION(SECCOMP, 50, PHASE_PAYLOAD, "b")               \
	OPERATION(EXEC, 60, PHASE_PAYLOAD, "uSSs")

enum opcode {
#define AS_ENUM(name, opcode, phase, signature) OP_##name = (opcode),
	PLAN_OPERATIONS(AS_ENUM)
#undef AS_ENUM
};

/* A position in the message; `bad` sticks once a read went past the end or broke a rule. */
struct cursor {
	const uint8_t *at;
	const uint8_t *end;
	int bad;
};

struct bytes {
	const uint8_t *data;
	uint32_t length;
};

struct operation {
	uint16_t opcode;
	int32_t index;
	struct cursor body;
};

struct plan {
	const uint8_t *data;
	size_t length;
	uint32_t count;
	struct operation exec; /* the last operation: argv, environment, working directory */
};

uint32_t take_u32(struct cursor *c);
uint64_t take_u64(struct cursor *c);
const char *take_string(struct cursor *c);
struct bytes take_bytes(struct cursor *c);

/* Check the whole message and fill `plan`. Returns 0, or -1 with the reason in *why and the
 * operation it concerns in *index (-1: the header). Reads nothing outside [data, data+length). */
int plan_decode(const uint8_t *data, size_t length, struct plan *plan, const char **why,
		int32_t *index);

/* Iterate: start with *position = 0; returns 0 at the end. Only on a decoded plan. */
int plan_next(const struct plan *plan, size_t *position, struct operation *op);

/* The last operation with this opcode; *found stays as it was when there is none. */
void find_operation(const struct plan *plan, uint16_t opcode, struct operation *found);

/* Whether there is one. */
int plan_has(const struct plan *plan, uint16_t opcode);

/* The phase of a valid opcode. */
enum phase plan_phase(uint16_t opcode);

#endif
