/* The root of the sandbox, from the staging tmpfs to the pivot: the sources of its mounts, its layers, and
 * the procfs that the set-up writes to. */
#include "setup.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>

int op_private(struct context *ctx)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail(&ctx->failure, "mount");
	return 0;
}

/* The staging tmpfs holds the writable layer and everything we make ourselves. It covers the
 * host's /proc, which is not needed by path any more: we reach it by descriptor and as the working
 * directory. Stacked on "/" instead, leaving the old root would take two umounts. */
int op_stage(struct context *ctx, struct cursor *c)
{
	char size[40], inodes[40];
	snprintf(size, sizeof(size), "size=%llu", (unsigned long long)take_u64(c));
	snprintf(inodes, sizeof(inodes), "nr_inodes=%llu", (unsigned long long)take_u64(c));
	const char *options[] = { "mode=0755", size, inodes };

	ctx->procfs = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ctx->stage = new_filesystem(ctx, "tmpfs", options, 3,
				    ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV);
	if (ctx->stage < 0)
		return -1;
	if (ctx->procfs < 0 || sys_move_mount(ctx->stage, ctx->procfs, "") < 0 ||
	    fchdir(ctx->stage) < 0)
		return fail(&ctx->failure, "/proc");
	static const char *const folders[] = { "root", "proc", "covers", "made", "made/empty" };
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (mkdirat(ctx->stage, folders[i], i < 4 ? 0755 : 0555) < 0)
			return fail(&ctx->failure, folders[i]);
	if (mknodat(ctx->stage, "made/blank", S_IFREG | 0444, 0) < 0)
		return fail(&ctx->failure, "blank");
	/* Clones of a mount keep its attributes: what is shown from here is read-only at once. */
	ctx->covers = sys_open_tree(ctx->stage, "made");
	if (ctx->covers < 0 || set_attributes(ctx->covers, ALL_ATTRIBUTES) < 0 ||
	    sys_move_mount(ctx->covers, ctx->stage, "covers") < 0)
		return fail(&ctx->failure, "covers");
	return 0;
}

/* A procfs of our own pid namespace for every later write to /proc, seen by nothing else. When
 * an outer sandbox hides parts of its /proc, the kernel refuses a new one (mount_too_revealing)
 * and the plan asks for the one that is there. Attached below the staging tmpfs it goes with it:
 * closing a mount that was never attached waits for an RCU grace period. */
int op_procfs(struct context *ctx, struct cursor *c)
{
	struct statfs fs;
	if (take_u32(c)) {
		int fresh = new_filesystem(ctx, "proc", NULL, 0,
					   ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV |
						   ABI_MOUNT_ATTR_NOEXEC);
		if (fresh < 0)
			return -1;
		if (sys_move_mount(fresh, ctx->stage, "proc") < 0)
			return fail(&ctx->failure, "move_mount");
		close(ctx->procfs);
		ctx->procfs = fresh;
		ctx->fresh = 1;
	}
	if (fstatfs(ctx->procfs, &fs) < 0 || fs.f_type != 0x9fa0 /* PROC_SUPER_MAGIC */)
		return fail_with(&ctx->failure, ESTALE, "/proc is not a procfs");
	return 0;
}

/* Open a host path as a detached tree; refuse when it is not the file that was planned for. */
static int open_source(struct context *ctx, const char *path, uint64_t dev, uint64_t ino)
{
	SCOPED_FD source = open(path, O_PATH | O_CLOEXEC);
	if (source < 0)
		return fail(&ctx->failure, path);
	struct stat st;
	if (fstat(source, &st) < 0)
		return fail(&ctx->failure, path);
	if (st.st_dev != dev || st.st_ino != ino)
		return fail_with(&ctx->failure, ESTALE, "the source was exchanged after it was checked");
	int tree = sys_open_tree(source, "");
	return tree < 0 ? fail(&ctx->failure, path) : tree;
}

static int is_optional(struct operation op)
{
	if (op.opcode != OP_BIND)
		return 0;
	take_string(&op.body);
	take_u64(&op.body);
	take_u64(&op.body);
	take_u32(&op.body);
	take_string(&op.body);
	take_u32(&op.body);
	return (int)take_u32(&op.body);
}

int open_sources(struct context *ctx, const struct plan *plan)
{
	struct operation op = { 0 };
	ctx->sources = calloc(plan->count, sizeof(*ctx->sources));
	if (!ctx->sources)
		return fail(&ctx->failure, "calloc");
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		ctx->sources[op.index] = -1;
		if (op.opcode != OP_ROOT_OVERLAY && op.opcode != OP_ROOT_BIND && op.opcode != OP_BIND)
			continue;
		struct cursor c = op.body;
		ctx->failure.op = op.index;
		const char *path = take_string(&c);
		uint64_t dev = take_u64(&c);
		uint64_t ino = take_u64(&c);
		ctx->sources[op.index] = open_source(ctx, path, dev, ino);
		if (ctx->sources[op.index] < 0 && !(is_optional(op) && ctx->failure.error == ENOENT))
			return -1;
	}
	return 0;
}

void skip_identity(struct cursor *c)
{
	take_u64(c);
	take_u64(c);
}

/* overlay walks to its layers by name. What was kept may have been a bound folder of another
 * sandbox, which may still be there: no link in it is followed, whenever it is made. */
static int close_links(int kept)
{
	static const char *const folders[] = { "upper", "work" };
	if (set_attributes(kept, ABI_MOUNT_ATTR_NOSYMFOLLOW) < 0 && errno != EINVAL)
		return -1;
	for (int i = 0; i < 2; i++) {
		SCOPED_FD folder = sys_openat2(kept, folders[i], O_PATH | O_DIRECTORY,
					       ABI_RESOLVE_BENEATH | ABI_RESOLVE_NO_SYMLINKS);
		if (folder < 0)
			return -1;
	}
	return 0;
}

/* A folder in `host` that no earlier start of this sandbox has used: the mark that a volatile
 * overlay leaves in its work directory keeps the next one from using that. */
static int fresh_folder(int host)
{
	char name[16];
	for (unsigned i = 0; i < UINT16_MAX; i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (mkdirat(host, name, 0700) == 0)
			return openat(host, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (errno != EEXIST)
			return -1;
	}
	return -1;
}

static int make_layer(int folder)
{
	if (mkdirat(folder, "upper", 0755) < 0 && errno != EEXIST)
		return -1;
	return mkdirat(folder, "work", 0755) < 0 && errno != EEXIST ? -1 : 0;
}

/* Where the changes go. */
struct changes {
	const char *folder; /* of the host, "" = in the staging tmpfs */
	uint64_t dev, ino;  /* 0: whichever folder is there */
	uint32_t discarded;
};

static int attach_layer(struct context *ctx, const struct changes *to)
{
	const char *folder = to->folder;
	const uint32_t discarded = to->discarded;
	struct stat st;
	SCOPED_FD host = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (host >= 0 && to->ino && (fstat(host, &st) < 0 || st.st_dev != to->dev || st.st_ino != to->ino))
		return fail_with(&ctx->failure, ESTALE, "the folder for changes was exchanged after it was checked");
	SCOPED_FD fresh = host >= 0 && discarded ? fresh_folder(host) : -1;
	if (host < 0 || (discarded && fresh < 0))
		return fail(&ctx->failure, folder);
	SCOPED_FD tree = sys_open_tree(discarded ? fresh : host, "");
	if (tree < 0 || sys_move_mount(tree, ctx->stage, "layer") < 0 || make_layer(tree) < 0)
		return fail(&ctx->failure, folder);
	if (close_links(tree) < 0)
		return fail(&ctx->failure, "upper and work of a kept layer must be folders");
	return 0;
}

static int prepare_upper(struct context *ctx, int lower, const struct changes *to)
{
	struct stat st;
	if (mkdirat(ctx->stage, "layer", 0755) < 0)
		return fail(&ctx->failure, "layer");
	if (*to->folder && attach_layer(ctx, to) < 0)
		return -1;
	SCOPED_FD layer = openat(ctx->stage, "layer", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (layer < 0 || make_layer(layer) < 0)
		return fail(&ctx->failure, "layer");
	if (to->discarded && (fstat(lower, &st) < 0 ||
			  fchmodat(layer, "upper", st.st_mode & 07777, 0) < 0))
		return fail(&ctx->failure, "upper");
	return openat(layer, "upper", O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/* May root of this user namespace make a file here? Not where the owner is not mapped. */
static int may_create(int directory)
{
	return syscall(NR_faccessat2, directory, "", W_OK | X_OK,
		       ABI_AT_EMPTY_PATH | AT_EACCESS) == 0 ||
	       errno != EACCES;
}

/* Make the directories of `path` up to `end` in the upper layer, with the lower one's modes. */
static int mirror_directories(int lower, int upper, const char *path, size_t end)
{
	char prefix[PATH_MAX];
	for (size_t i = 1; i <= end; i++) {
		if (i < end && path[i] != '/')
			continue;
		memcpy(prefix, path, i);
		prefix[i] = 0;
		struct stat st = { .st_mode = 0755 };
		SCOPED_FD shown = sys_openat2(lower, prefix + 1, O_PATH | O_DIRECTORY,
					      ABI_RESOLVE_BENEATH | ABI_RESOLVE_NO_SYMLINKS);
		if (shown >= 0 && fstat(shown, &st) < 0)
			return -1;
		if (mkdirat(upper, prefix + 1, 0700) == 0) {
			if (fchmodat(upper, prefix + 1, st.st_mode & 07777, 0) < 0)
				return -1;
		} else if (errno != EEXIST) {
			return -1;
		}
	}
	return 0;
}

/* A mount point that the rootfs lacks is normally made through the overlay. In a directory whose
 * owner has no id here, only the upper layer itself, not yet mounted, can take it. */
static int prepare_mount_point(int lower, int upper, const char *path)
{
	size_t length = strlen(path), known = 0;
	int directory = length > 1 && path[length - 1] == '/';
	char prefix[PATH_MAX];
	if (path[0] != '/' || length >= sizeof(prefix))
		return errno = EINVAL, -1;
	length -= (size_t)directory;
	for (size_t i = 1; i <= length; i++) {
		if (i < length && path[i] != '/')
			continue;
		memcpy(prefix, path, i);
		prefix[i] = 0;
		SCOPED_FD found = sys_openat2(lower, prefix + 1, O_PATH,
					      ABI_RESOLVE_BENEATH | ABI_RESOLVE_NO_SYMLINKS);
		if (found < 0 && errno == ENOENT)
			break;
		if (found < 0 || i == length)
			return 0; /* it is there, or leads through a link: seen to when it is mounted on */
		known = i;
	}
	memcpy(prefix, path, known);
	prefix[known] = 0;
	SCOPED_FD parent = sys_openat2(lower, known ? prefix + 1 : ".", O_PATH | O_DIRECTORY,
				       ABI_RESOLVE_BENEATH | ABI_RESOLVE_NO_SYMLINKS);
	if (known == 0 || parent < 0 || may_create(parent))
		return 0;
	memcpy(prefix, path, length);
	prefix[length] = 0;
	if (directory)
		return mirror_directories(lower, upper, prefix, length);
	const char *slash = strrchr(prefix, '/');
	if (mirror_directories(lower, upper, prefix, (size_t)(slash - prefix)) < 0)
		return -1;
	return mknodat(upper, prefix + 1, S_IFREG | 0644, 0) < 0 && errno != EEXIST ? -1 : 0;
}

/* Layers are named relative to the staging tmpfs, so mountinfo shows no path of the host.
 * userxattr is needed in a user namespace: without it, removing a lower directory is EIO. */
int op_root_overlay(struct context *ctx, struct operation *op)
{
	struct cursor *c = &op->body;
	SCOPED_FD lower = ctx->sources[op->index];
	take_string(c);
	skip_identity(c);
	struct changes to = { .folder = take_string(c) };
	to.dev = take_u64(c);
	to.ino = take_u64(c);
	to.discarded = take_u32(c);

	if (mkdirat(ctx->stage, "lower", 0755) < 0 || sys_move_mount(lower, ctx->stage, "lower") < 0)
		return fail(&ctx->failure, "lower");
	SCOPED_FD upper = prepare_upper(ctx, lower, &to);
	if (upper < 0)
		return -1;
	for (uint32_t left = take_u32(c); left > 0; left--) {
		const char *path = take_string(c);
		if (prepare_mount_point(lower, upper, path) < 0)
			return fail(&ctx->failure, path);
	}
	static const char *const options[] = { "lowerdir=lower", "upperdir=layer/upper",
					       "workdir=layer/work", "userxattr", "volatile" };
	/* Without the last one, the end of an overlay flushes the whole file system of its upper. */
	int root = new_filesystem(ctx, "overlay", options, to.discarded ? 5 : 4,
				  ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV);
	if (root < 0)
		return -1;
	if (sys_move_mount(root, ctx->stage, "root") < 0)
		return fail(&ctx->failure, "root");
	ctx->root = root;
	return 0;
}

int op_root_bind(struct context *ctx, struct operation *op)
{
	struct cursor *c = &op->body;
	const char *source = take_string(c);
	skip_identity(c);
	uint64_t attributes = ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV;
	if (take_u32(c))
		attributes |= ABI_MOUNT_ATTR_RDONLY;
	int root = ctx->sources[op->index];
	if (set_attributes(root, attributes) < 0 || sys_move_mount(root, ctx->stage, "root") < 0)
		return fail(&ctx->failure, source);
	ctx->root = root;
	return 0;
}

/* pivot_root(2), "pivot_root(".", ".")": the old root ends up over the new one and is then
 * detached with everything below it, the staging tmpfs too. */
int op_pivot(struct context *ctx)
{
	if (join_network(ctx) < 0)
		return -1;
	SCOPED_FD old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0 || fchdir(ctx->root) < 0)
		return fail(&ctx->failure, "/");
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return fail(&ctx->failure, "pivot_root");
	if (fchdir(old) < 0 || umount2(".", MNT_DETACH) < 0)
		return fail(&ctx->failure, "umount of the old root");
	if (chdir("/") < 0)
		return fail(&ctx->failure, "/");
	/* A working directory that is a link to /proc/self/fd/N must lead nowhere. */
	while (ctx->own_count > 0)
		close(ctx->own[--ctx->own_count].mount);
	return 0;
}
