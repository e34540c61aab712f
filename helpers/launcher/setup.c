/* The set-up phase: runs as root of the outer user namespace, in all new namespaces, before any
 * code of the sandbox exists. Here: its table of operations, the terminal, and what is set in the
 * namespaces by name or number. The root is in root.c, what is mounted in it in mounts.c. */
#include "setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>

/* TIOCGPTPEER opens the peer of this very master: no path of the sandbox is looked up for it.
 * The master leaves for the controlling process and stays nowhere inside. */
static int op_terminal(struct context *ctx, struct cursor *c)
{
	uid_t uid = take_u32(c);
	gid_t gid = take_u32(c);
	SCOPED_FD master = sys_openat2(ctx->root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY,
				       IN_ROOT | ABI_RESOLVE_NO_SYMLINKS);
	int unlocked = 0;
	if (master < 0 || ioctl(master, (int)ABI_TIOCSPTLCK, &unlocked) < 0)
		return fail(&ctx->failure, "/dev/pts/ptmx");
	ctx->terminal = ioctl(master, ABI_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (ctx->terminal < 0 || fchown(ctx->terminal, uid, gid) < 0)
		return fail(&ctx->failure, "/dev/pts");
	if (ctx->joined)
		return send_terminal(master) < 0 ? fail(&ctx->failure, "channel") : 0;
	SCOPED_FD tree = sys_open_tree(ctx->terminal, "");
	if (tree < 0)
		return fail(&ctx->failure, "/dev/console");
	SCOPED_FD target = open_target(ctx, "/dev/console", 0, KERNEL_DIRECTORY);
	if (target < 0 || attach(ctx, tree, target, "/dev/console") < 0)
		return -1;
	return send_terminal(master) < 0 ? fail(&ctx->failure, "channel") : 0;
}

int write_proc(struct context *ctx, const char *path, const char *value)
{
	SCOPED_FD file = sys_openat2(ctx->procfs, path, O_WRONLY, ABI_RESOLVE_NO_MAGICLINKS);
	if (file < 0)
		return -1;
	size_t length = strlen(value);
	return write(file, value, length) == (ssize_t)length ? 0 : -1;
}

static int op_proc_write(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c), *value = take_string(c);
	uint32_t optional = take_u32(c);
	if (ctx->joined)
		return 0; /* inherited: join.c has written it */
	if (join_network(ctx) < 0)
		return -1;
	if (write_proc(ctx, path, value) == 0)
		return 0;
	fail(&ctx->failure, path);
	if (!optional)
		return -1;
	send_failure(EVENT_WARNING, STAGE_SETUP, &ctx->failure);
	return 0;
}

static int op_hostname(struct context *ctx, struct cursor *c)
{
	const char *host = take_string(c), *domain = take_string(c);
	if (sethostname(host, strlen(host)) < 0 || setdomainname(domain, strlen(domain)) < 0)
		return fail(&ctx->failure, host);
	return 0;
}

/* time_namespaces(7): offsets are set before the first process enters. Only children enter by
 * themselves; without an init this process is the payload. */
static int op_time_namespace(struct context *ctx)
{
	struct timespec monotonic, boottime;
	char offsets[96];
	if (unshare(ABI_CLONE_NEWTIME) < 0)
		return fail(&ctx->failure, "unshare");
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	clock_gettime(CLOCK_BOOTTIME, &boottime);
	snprintf(offsets, sizeof(offsets), "monotonic -%lld 0\nboottime -%lld 0\n",
		 (long long)monotonic.tv_sec, (long long)boottime.tv_sec);
	if (write_proc(ctx, "self/timens_offsets", offsets) < 0)
		return fail(&ctx->failure, "timens_offsets");
	SCOPED_FD made = openat(ctx->procfs, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	if (made < 0 || setns(made, ABI_CLONE_NEWTIME) < 0)
		return fail(&ctx->failure, "setns");
	return 0;
}

/* The limit that this process holds when the inner user namespace is made bounds all ids of
 * that namespace together (kernel: create_user_ns, UCOUNT_RLIMIT_NPROC). */
static int op_process_limit(struct context *ctx, struct cursor *c)
{
	rlim_t most = take_u64(c);
	struct rlimit limit = { most, most };
	return setrlimit(RLIMIT_NPROC, &limit) < 0 ? fail(&ctx->failure, "RLIMIT_NPROC") : 0;
}

uint32_t take_extents(struct cursor *c, struct idmap_extent *extents)
{
	uint32_t count = take_u32(c);
	for (uint32_t i = 0; i < count; i++) {
		extents[i].inside = take_u32(c);
		extents[i].outside = take_u32(c);
		extents[i].count = take_u32(c);
	}
	return count;
}

static int op_inner_user(struct context *ctx, struct cursor *c)
{
	ctx->inner_user = 1;
	ctx->inner_deny_setgroups = (int)take_u32(c);
	ctx->inner_closed = (int)take_u32(c);
	ctx->inner_uid_count = take_extents(c, ctx->inner_uids);
	ctx->inner_gid_count = take_extents(c, ctx->inner_gids);
	return 0;
}

int setup_operation(struct context *ctx, struct operation *op)
{
	struct cursor *c = &op->body;
	ctx->failure.op = op->index;
	refused_call = NULL;
	switch (op->opcode) {
	case OP_PRIVATE:
		return op_private(ctx);
	case OP_PROCFS:
		return op_procfs(ctx, c);
	case OP_STAGE:
		return op_stage(ctx, c);
	case OP_ROOT_OVERLAY:
		return op_root_overlay(ctx, op);
	case OP_ROOT_BIND:
		return op_root_bind(ctx, op);
	case OP_FILESYSTEM:
		return op_filesystem(ctx, c);
	case OP_BIND:
		return op_bind(ctx, op);
	case OP_DEVICE:
		return op_device(ctx, c);
	case OP_SYMLINK:
		return op_symlink(ctx, c);
	case OP_DIRECTORY:
		return op_directory(ctx, c);
	case OP_FILE:
		return op_file(ctx, c);
	case OP_MASK:
		return op_cover(ctx, c, 1);
	case OP_LOCK:
		return op_cover(ctx, c, 0);
	case OP_REMOUNT:
		return op_remount(ctx, c);
	case OP_PIVOT:
		return op_pivot(ctx);
	case OP_TERMINAL:
		return op_terminal(ctx, c);
	case OP_PROC_WRITE:
		return op_proc_write(ctx, c);
	case OP_HOSTNAME:
		return op_hostname(ctx, c);
	case OP_LOOPBACK:
		return join_network(ctx); /* it is made with lo up */
	case OP_TIME_NAMESPACE:
		return op_time_namespace(ctx);
	case OP_PROCESS_LIMIT:
		return op_process_limit(ctx, c);
	case OP_INNER_USER:
		return op_inner_user(ctx, c);
	case OP_HOLD:
		return op_hold(ctx, op->index);
	case OP_TUN:
		return op_tun(ctx, c);
	case OP_NETLINK:
		return op_netlink(ctx, c);
	case OP_SOCKET:
		return op_socket(ctx, c);
	default:
		return fail_with(&ctx->failure, EINVAL, "not a set-up operation");
	}
}
