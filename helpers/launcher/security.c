/* The payload phase: runs in the process that becomes the payload, in the inner user namespace,
 * and gives up one thing after the other. The order stands in the plan; seccomp comes last. */
#include "sys.h"

#include "launch.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define SCOPED_MEMORY __attribute__((cleanup(free_memory)))
static void free_memory(void *at)
{
	free(*(void **)at);
}

/* keyrings(7): the caller's session keyring is inherited over exec and namespaces. The quota
 * of keys is the caller's, and an outer filter may refuse the call: then the refusal of keyctl by
 * our own filter is what remains. */
static int op_keyring(struct context *ctx)
{
	if (syscall(SYS_keyctl, ABI_KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0 || errno == ENOSYS)
		return 0;
	fail(&ctx->failure, "session keyring");
	if (ctx->failure.error != EDQUOT && ctx->failure.error != EPERM && ctx->failure.error != EACCES)
		return -1;
	send_failure(EVENT_WARNING, STAGE_SECURITY, &ctx->failure);
	return 0;
}

static int op_rlimit(struct context *ctx, struct cursor *c)
{
	unsigned resource = take_u32(c);
	struct rlimit limit;
	limit.rlim_cur = take_u64(c);
	limit.rlim_max = take_u64(c);
	return setrlimit((int)resource, &limit) < 0 ? fail(&ctx->failure, "setrlimit") : 0;
}

/* Group ids first: after setresuid there is no capability left to change them. */
static int op_ids(struct context *ctx, struct cursor *c)
{
	uid_t uid = take_u32(c);
	gid_t gid = take_u32(c);
	uint32_t set_groups = take_u32(c), count = take_u32(c);
	gid_t groups[64];
	if (count > sizeof(groups) / sizeof(groups[0]))
		return fail_with(&ctx->failure, E2BIG, "groups");
	for (uint32_t i = 0; i < count; i++)
		groups[i] = take_u32(c);
	if (set_groups && setgroups(count, groups) < 0)
		return fail(&ctx->failure, "setgroups");
	if (setresgid(gid, gid, gid) < 0)
		return fail(&ctx->failure, "setresgid");
	/* Keep the permitted set over the change of ids: the next operation trims it. */
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setresuid(uid, uid, uid) < 0 ||
	    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return fail(&ctx->failure, "setresuid");
	return 0;
}

static int op_capabilities(struct context *ctx, struct cursor *c)
{
	uint64_t keep = take_u64(c);
	struct abi_cap_header header = { ABI_CAP_VERSION_3, 0 };
	struct abi_cap_data data[2];

	/* Dropping from the bounding set takes CAP_SETPCAP in the effective set, which the change
	 * of ids has cleared: raise it from the permitted set. */
	if (syscall(SYS_capget, &header, data) < 0)
		return fail(&ctx->failure, "capget");
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (syscall(SYS_capset, &header, data) < 0)
		return fail(&ctx->failure, "capset");
	for (int cap = 0; cap < 64; cap++) {
		if (keep >> cap & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break; /* past the kernel's last capability */
			return fail(&ctx->failure, "bounding set");
		}
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail(&ctx->failure, "ambient set");
	uint32_t words[2] = { (uint32_t)keep, (uint32_t)(keep >> 32) };
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= words[i];
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) < 0 ? fail(&ctx->failure, "capset") : 0;
}

static int op_no_new_privs(struct context *ctx)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? fail(&ctx->failure, "prctl") : 0;
}

static int op_landlock(struct context *ctx, struct cursor *c)
{
	struct abi_landlock_ruleset_attr attr;
	attr.handled_access_fs = take_u64(c);
	attr.handled_access_net = take_u64(c);
	attr.scoped = take_u64(c);
	/* Older kernels know a shorter structure and refuse unknown bytes that are not zero. */
	size_t size = attr.scoped ? 24 : attr.handled_access_net ? 16 : 8;
	ctx->ruleset = (int)syscall(NR_landlock_create_ruleset, &attr, size, 0);
	return ctx->ruleset < 0 ? fail(&ctx->failure, "landlock_create_ruleset") : 0;
}

#define LANDLOCK_FILE_RIGHTS (1U << 0 | 1U << 1 | 1U << 2 | 1U << 14 | 1U << 15)

static int op_landlock_path(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c);
	struct abi_landlock_path_beneath_attr rule = { .allowed_access = take_u64(c) };
	struct stat st;

	rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return errno == ENOENT ? 0 : fail(&ctx->failure, path);
	int result = fstat(rule.parent_fd, &st);
	if (!result && !S_ISDIR(st.st_mode))
		rule.allowed_access &= LANDLOCK_FILE_RIGHTS;
	if (!result && rule.allowed_access)
		result = sys_noted(syscall(NR_landlock_add_rule, ctx->ruleset,
					   ABI_LANDLOCK_RULE_PATH_BENEATH, &rule, 0),
				   "landlock_add_rule");
	if (result < 0)
		fail(&ctx->failure, path);
	close(rule.parent_fd);
	return result;
}

static int op_landlock_enforce(struct context *ctx)
{
	if (syscall(NR_landlock_restrict_self, ctx->ruleset, 0) < 0)
		return fail(&ctx->failure, "landlock_restrict_self");
	close(ctx->ruleset);
	ctx->ruleset = -1;
	return 0;
}

/* The raw system call, not the library's getcwd: a directory outside the root reads
 * "(unreachable)/..." there. */
static int op_workdir(struct context *ctx, const struct plan *plan)
{
	struct cursor c = plan->exec.body;
	take_u32(&c);
	for (int list = 0; list < 2; list++)
		for (uint32_t i = take_u32(&c); i > 0; i--)
			take_string(&c);
	const char *path = take_string(&c);
	char now[PATH_MAX];
	if (chdir(path) < 0)
		return fail(&ctx->failure, path);
	if (syscall(SYS_getcwd, now, sizeof(now)) < 0 || now[0] != '/')
		return fail_with(&ctx->failure, ESTALE, "the working directory lies outside the root");
	return 0;
}

static int op_close_descriptors(struct context *ctx, struct cursor *c)
{
	unsigned next = 3;
	uint32_t count = take_u32(c);
	for (uint32_t i = 0; i < count; i++) {
		unsigned keep = take_u32(c);
		if (keep < next)
			return fail_with(&ctx->failure, EINVAL, "descriptors must ascend");
		if (keep > next && sys_close_range(next, keep - 1) < 0)
			return fail(&ctx->failure, "close_range");
		next = keep + 1;
	}
	return sys_close_range(next, ~0U) < 0 ? fail(&ctx->failure, "close_range") : 0;
}

static int op_seccomp(struct context *ctx, struct cursor *c)
{
	struct bytes code = take_bytes(c);
	SCOPED_MEMORY void *aligned = malloc(code.length);
	if (!aligned)
		return fail(&ctx->failure, "malloc");
	memcpy(aligned, code.data, code.length);
	struct sock_fprog program = { (unsigned short)(code.length / sizeof(struct sock_filter)),
				      aligned };
	if (prctl(PR_SET_SECCOMP, ABI_SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
		return fail(&ctx->failure, "seccomp");
	return 0;
}

static char **take_vector(struct cursor *c)
{
	uint32_t count = take_u32(c);
	char **vector = calloc((size_t)count + 1, sizeof(*vector));
	for (uint32_t i = 0; vector && i < count; i++)
		vector[i] = (char *)(uintptr_t)take_string(c);
	return vector;
}

static const char *find_path(char *const *env)
{
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return "/usr/local/bin:/usr/bin:/bin";
}

/* execve(2) says ENOENT both for a missing file and for a file whose interpreter is missing. */
static int exec_error(const char *path)
{
	int error = errno;
	return error == ENOENT && access(path, F_OK) == 0 ? ELIBACC : error;
}

/* execvp(3) without its fall-back to a shell. EACCES is remembered over later ENOENT. */
static int search_and_exec(char **argv, char **env)
{
	char full[PATH_MAX];
	int error = ENOENT;
	if (strchr(argv[0], '/')) {
		execve(argv[0], argv, env);
		return exec_error(argv[0]);
	}
	for (const char *at = find_path(env); *argv[0];) {
		size_t length = strcspn(at, ":");
		size_t name = strlen(argv[0]);
		if (length + name + 2 <= sizeof(full)) {
			memcpy(full, length ? at : ".", length ? length : 1);
			size_t used = length ? length : 1;
			full[used] = '/';
			memcpy(full + used + 1, argv[0], name + 1);
			execve(full, argv, env);
			int failed = exec_error(full);
			if (failed != ENOENT && failed != ENOTDIR && error == ENOENT)
				error = failed;
		}
		if (!at[length])
			break;
		at += length + 1;
	}
	return error;
}

static int op_exec(struct context *ctx, struct cursor *c)
{
	take_u32(c);
	char **argv = take_vector(c), **env = take_vector(c);
	if (!argv || !env || !argv[0])
		return fail_with(&ctx->failure, EINVAL, "empty command");
	return fail_with(&ctx->failure, search_and_exec(argv, env), argv[0]);
}

int payload_operation(struct context *ctx, struct operation *op, const struct plan *plan)
{
	struct cursor *c = &op->body;
	ctx->failure.op = op->index;
	switch (op->opcode) {
	case OP_KEYRING:
		return op_keyring(ctx);
	case OP_RLIMIT:
		return op_rlimit(ctx, c);
	case OP_IDS:
		return op_ids(ctx, c);
	case OP_CAPABILITIES:
		return op_capabilities(ctx, c);
	case OP_NO_NEW_PRIVS:
		return op_no_new_privs(ctx);
	case OP_LANDLOCK:
		return op_landlock(ctx, c);
	case OP_LANDLOCK_PATH:
		return op_landlock_path(ctx, c);
	case OP_LANDLOCK_ENFORCE:
		return op_landlock_enforce(ctx);
	case OP_WORKDIR:
		return op_workdir(ctx, plan);
	case OP_CLOSE_DESCRIPTORS:
		return op_close_descriptors(ctx, c);
	case OP_SECCOMP:
		return op_seccomp(ctx, c);
	case OP_EXEC:
		return op_exec(ctx, c);
	default:
		return fail_with(&ctx->failure, EINVAL, "not a payload operation");
	}
}
