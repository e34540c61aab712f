/* The set-up phase: runs as root of the outer user namespace, in all new namespaces, before any
 * code of the sandbox exists. The rootfs is hostile data: its paths are walked only from the
 * root descriptor, inside it, and mounts are attached to descriptors, never to path strings. */
#include "sys.h"

#include "launch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>

#define IN_ROOT (ABI_RESOLVE_IN_ROOT | ABI_RESOLVE_NO_MAGICLINKS)
#define ALL_ATTRIBUTES                                                                             \
	(ABI_MOUNT_ATTR_RDONLY | ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV | ABI_MOUNT_ATTR_NOEXEC)
#define KERNEL_DIRECTORY 0x1U /* FILESYSTEM: the target may not be reached through symlinks */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define SCOPED_FD __attribute__((cleanup(close_fd))) int

static int set_attributes(int mount, uint64_t attributes)
{
	struct abi_mount_attr attr = { .attr_set = attributes };
	return sys_mount_setattr(mount, ABI_AT_RECURSIVE, &attr);
}

/* ---- targets inside the new root ------------------------------------------------------- */

static int make_component(int parent, const char *name, int directory)
{
	if (directory)
		return mkdirat(parent, name, 0755);
	SCOPED_FD made = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
				0644);
	return made < 0 ? -1 : 0;
}

/* Create what is missing of `path`, one checked component after the other. A dangling symlink
 * makes the creation fail with EEXIST: nothing is ever made where a link points. */
static int make_target(const struct context *ctx, const char *path, int directory)
{
	char prefix[PATH_MAX];
	if (strlen(path) >= sizeof(prefix))
		return errno = ENAMETOOLONG, -1;
	int parent = sys_openat2(ctx->root, "/", O_PATH | O_DIRECTORY, IN_ROOT);

	for (const char *at = path; parent >= 0 && *at;) {
		at += strspn(at, "/");
		size_t length = strcspn(at, "/");
		if (!length)
			break;
		char name[NAME_MAX + 1];
		if (length > NAME_MAX) {
			close(parent);
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(name, at, length);
		name[length] = 0;
		at += length;
		memcpy(prefix, path, (size_t)(at - path));
		prefix[at - path] = 0;

		int last = at[strspn(at, "/")] == 0;
		int found = sys_openat2(ctx->root, prefix, O_PATH, IN_ROOT);
		if (found < 0 && errno == ENOENT && !make_component(parent, name, !last || directory))
			found = sys_openat2(ctx->root, prefix, O_PATH, IN_ROOT);
		int error = errno;
		close(parent);
		errno = error;
		parent = found;
	}
	return parent;
}

static int open_target(struct context *ctx, const char *path, int directory, unsigned flags)
{
	uint64_t resolve = IN_ROOT;
	if (flags & KERNEL_DIRECTORY)
		resolve |= ABI_RESOLVE_NO_SYMLINKS;
	int target = sys_openat2(ctx->root, path, O_PATH, resolve);
	if (target < 0 && errno == ENOENT)
		target = make_target(ctx, path, directory);
	if (target < 0) {
		fail(&ctx->failure, errno == ELOOP ? "a symbolic link stands there in the root file system"
						   : "cannot open or make the mount point");
		return -1;
	}
	struct stat st;
	if (fstat(target, &st) < 0 || (directory && !S_ISDIR(st.st_mode)) ||
	    (!directory && S_ISDIR(st.st_mode))) {
		close(target);
		return fail_with(&ctx->failure, directory ? ENOTDIR : EISDIR,
				 directory ? "the mount point is not a directory"
					   : "the mount point is a directory, the source is not");
	}
	return target;
}

/* Attach a detached mount and look again: a second process that swaps directories in the
 * rootfs must not leave us with another mount under this path. */
static int attach(struct context *ctx, int mount, int target, const char *path)
{
	if (sys_move_mount(mount, target, "") < 0)
		return fail(&ctx->failure, "move_mount");
	SCOPED_FD again = sys_openat2(ctx->root, path, O_PATH, IN_ROOT);
	struct stat mounted, seen;
	if (again < 0 || fstat(mount, &mounted) < 0 || fstat(again, &seen) < 0)
		return fail(&ctx->failure, "cannot open the new mount");
	if (mounted.st_dev != seen.st_dev || mounted.st_ino != seen.st_ino)
		return fail_with(&ctx->failure, ESTALE, "the mount point moved while it was mounted on");
	return 0;
}

/* ---- inside mounts of our own ------------------------------------------------------------ */

/* Where something stands on a mount of our own: name `name` in directory `dir`. */
struct place {
	int dir;
	int opened; /* what there is to close afterwards, or -1 */
	const char *name;
};
static void close_place(struct place *p)
{
	close_fd(&p->opened);
}
#define SCOPED_PLACE __attribute__((cleanup(close_place))) struct place

/* Find `path` below one of our mounts. What is on them comes from the kernel
 * or from us and no process of the sandbox exists yet, so nothing can be exchanged between two calls:
 * what is attached there needs no second look, unlike in the rootfs. No link is followed, no other
 * mount crossed. 0; or -1 with errno, EXDEV when the path does not lie on a mount of ours. */
static int find_own(const struct context *ctx, const char *path, struct place *p)
{
	char parent[PATH_MAX];
	*p = (struct place){ -1, -1, NULL };
	for (size_t i = ctx->own_count; i-- > 0;) {
		const struct own_mount *own = &ctx->own[i];
		if (strncmp(path, own->path, own->length) != 0 || path[own->length] != '/')
			continue;
		const char *from = path + own->length + 1;
		const char *slash = strrchr(from, '/');
		p->dir = own->mount;
		p->name = slash ? slash + 1 : from;
		if (!slash)
			return 0;
		size_t length = (size_t)(slash - from);
		if (length >= sizeof(parent))
			return errno = ENAMETOOLONG, -1;
		memcpy(parent, from, length);
		parent[length] = 0;
		p->dir = p->opened = sys_openat2(own->mount, parent, O_PATH | O_DIRECTORY,
						 ABI_RESOLVE_BENEATH | ABI_RESOLVE_NO_SYMLINKS |
							 ABI_RESOLVE_NO_XDEV);
		return p->dir < 0 ? -1 : 0;
	}
	return errno = EXDEV, -1;
}

static int remember_own(struct context *ctx, const char *path, int mount)
{
	if (ctx->own_count == MAX_OWN_MOUNTS)
		return fail_with(&ctx->failure, E2BIG, path);
	ctx->own[ctx->own_count++] = (struct own_mount){ path, strlen(path), mount };
	return 0;
}

/* Attach a new file system. Those of the kernel's directories are worked on later: they are kept. */
static int attach_filesystem(struct context *ctx, int mount, const char *path, unsigned flags)
{
	SCOPED_PLACE place;
	SCOPED_FD made = mount;
	if (find_own(ctx, path, &place) == 0)
		return sys_move_mount(mount, place.dir, place.name) < 0 ? fail(&ctx->failure, path) : 0;
	SCOPED_FD target = open_target(ctx, path, 1, flags);
	if (target < 0 || attach(ctx, mount, target, path) < 0)
		return -1;
	if (!(flags & KERNEL_DIRECTORY))
		return 0;
	made = -1;
	return remember_own(ctx, path, mount);
}

/* ---- file systems ---------------------------------------------------------------------- */

/* The kernel's own words wait in the context's log: "e overlay: ...". */
static int fail_context(struct context *ctx, int fs, const char *what)
{
	int error = errno;
	char log[300];
	ssize_t n = read(fs, log, sizeof(log) - 1);
	if (n <= 2) {
		errno = error;
		return fail(&ctx->failure, what);
	}
	log[n] = 0;
	return fail_with(&ctx->failure, error, log + 2);
}

static int configure(int fs, const char *option)
{
	char key[32];
	const char *value = strchr(option, '=');
	if (!value)
		return sys_fsconfig(fs, ABI_FSCONFIG_SET_FLAG, option, NULL);
	size_t length = (size_t)(value - option);
	if (length >= sizeof(key))
		return errno = EINVAL, -1;
	memcpy(key, option, length);
	key[length] = 0;
	return sys_fsconfig(fs, ABI_FSCONFIG_SET_STRING, key, value + 1);
}

static int new_filesystem(struct context *ctx, const char *type, const char *const *options,
			  size_t count, unsigned attributes)
{
	SCOPED_FD fs = sys_fsopen(type);
	if (fs < 0)
		return fail(&ctx->failure, "fsopen");
	for (size_t i = 0; i < count; i++)
		if (configure(fs, options[i]) < 0)
			return fail_context(ctx, fs, options[i]);
	if (sys_fsconfig(fs, ABI_FSCONFIG_CMD_CREATE, NULL, NULL) < 0)
		return fail_context(ctx, fs, "fsconfig");
	int mount = sys_fsmount(fs, attributes);
	return mount < 0 ? fail_context(ctx, fs, "fsmount") : mount;
}

static int op_private(struct context *ctx)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail(&ctx->failure, "mount");
	return 0;
}

/* The staging tmpfs holds the writable layer and everything we make ourselves. It covers the
 * host's /proc, which is not needed by path any more: we reach it by descriptor and as the working
 * directory. Stacked on "/" instead, leaving the old root would take two umounts. */
static int op_stage(struct context *ctx, struct cursor *c)
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
static int op_procfs(struct context *ctx, struct cursor *c)
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

/* The device and inode that open_sources has compared. */
static void skip_identity(struct cursor *c)
{
	take_u64(c);
	take_u64(c);
}

static int prepare_upper(struct context *ctx, int lower, const char *keep)
{
	struct stat st;
	if (*keep) {
		if (mkdirat(ctx->stage, "kept", 0755) < 0)
			return fail(&ctx->failure, "kept");
		SCOPED_FD host = open(keep, O_PATH | O_DIRECTORY | O_CLOEXEC);
		SCOPED_FD tree = host < 0 ? -1 : sys_open_tree(host, "");
		if (tree < 0 || sys_move_mount(tree, ctx->stage, "kept") < 0)
			return fail(&ctx->failure, keep);
		if ((mkdirat(tree, "upper", 0755) < 0 && errno != EEXIST) ||
		    (mkdirat(tree, "work", 0755) < 0 && errno != EEXIST))
			return fail(&ctx->failure, keep);
		return 0;
	}
	if (fstat(lower, &st) < 0 || mkdirat(ctx->stage, "upper", 0700) < 0 ||
	    fchmodat(ctx->stage, "upper", st.st_mode & 07777, 0) < 0 ||
	    mkdirat(ctx->stage, "work", 0755) < 0)
		return fail(&ctx->failure, "upper");
	return 0;
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
static int op_root_overlay(struct context *ctx, struct operation *op)
{
	struct cursor *c = &op->body;
	SCOPED_FD lower = ctx->sources[op->index];
	take_string(c);
	skip_identity(c);
	const char *keep = take_string(c);

	if (mkdirat(ctx->stage, "lower", 0755) < 0 || sys_move_mount(lower, ctx->stage, "lower") < 0)
		return fail(&ctx->failure, "lower");
	if (prepare_upper(ctx, lower, keep) < 0)
		return -1;
	SCOPED_FD upper = openat(ctx->stage, *keep ? "kept/upper" : "upper", O_PATH | O_CLOEXEC);
	for (uint32_t left = take_u32(c); left > 0; left--) {
		const char *path = take_string(c);
		if (prepare_mount_point(lower, upper, path) < 0)
			return fail(&ctx->failure, path);
	}
	const char *options[] = { "lowerdir=lower", *keep ? "upperdir=kept/upper" : "upperdir=upper",
				  *keep ? "workdir=kept/work" : "workdir=work", "userxattr",
				  "volatile" };
	int root = new_filesystem(ctx, "overlay", options, *keep ? 4 : 5,
				  ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV);
	if (root < 0)
		return -1;
	if (sys_move_mount(root, ctx->stage, "root") < 0)
		return fail(&ctx->failure, "root");
	ctx->root = root;
	return 0;
}

static int op_root_bind(struct context *ctx, struct operation *op)
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

/* The set-up's procfs once more: the options of a procfs belong to its superblock, read-only and
 * covered places to each mount. */
static int clone_procfs(struct context *ctx, unsigned attributes)
{
	int mount = sys_open_tree(ctx->procfs, "");
	if (mount < 0 || set_attributes(mount, attributes) < 0)
		return fail(&ctx->failure, "/proc");
	return mount;
}

static int op_filesystem(struct context *ctx, struct cursor *c)
{
	const char *type = take_string(c), *path = take_string(c);
	unsigned attributes = take_u32(c), flags = take_u32(c);
	const char *options[16];
	uint32_t count = take_u32(c);
	if (count > sizeof(options) / sizeof(options[0]))
		return fail_with(&ctx->failure, E2BIG, path);
	for (uint32_t i = 0; i < count; i++)
		options[i] = take_string(c);

	/* A sysfs shows the network namespace of whoever makes it. */
	if (strcmp(type, "sysfs") == 0 && join_network(ctx) < 0)
		return -1;
	int mount = !count && ctx->fresh && strcmp(type, "proc") == 0
			    ? clone_procfs(ctx, attributes)
			    : new_filesystem(ctx, type, options, count, attributes);
	return mount < 0 ? -1 : attach_filesystem(ctx, mount, path, flags);
}

static int op_bind(struct context *ctx, struct operation *op)
{
	struct cursor *c = &op->body;
	SCOPED_FD tree = ctx->sources[op->index];
	take_string(c);
	skip_identity(c);
	uint32_t type = take_u32(c);
	const char *path = take_string(c);
	uint32_t attributes = take_u32(c);

	if (tree < 0)
		return 0; /* optional, and not there */
	SCOPED_FD target = open_target(ctx, path, type == S_IFDIR, 0);
	if (target < 0)
		return -1;
	if (set_attributes(tree, attributes) < 0)
		return fail(&ctx->failure, "mount_setattr");
	return attach(ctx, tree, target, path);
}

/* The host's node is bound: mknod of devices is not allowed in a user namespace. It must be
 * the very device: a name in /dev proves nothing, so what was cloned is looked at. Read-only does
 * not stop writing to a device: it keeps the host's inode, its times and mode, as it is. */
static int op_device(struct context *ctx, struct cursor *c)
{
	const char *name = take_string(c);
	uint32_t major_number = take_u32(c);
	uint32_t minor_number = take_u32(c);
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "/dev/%s", name);

	SCOPED_PLACE place;
	SCOPED_FD node = sys_open_tree(AT_FDCWD, path);
	if (node < 0 || fstat(node, &st) < 0)
		return fail(&ctx->failure, path);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(major_number, minor_number))
		return fail_with(&ctx->failure, ENODEV, path);
	if (find_own(ctx, path, &place) < 0 || mknodat(place.dir, place.name, S_IFREG | 0666, 0) < 0 ||
	    set_attributes(node, ALL_ATTRIBUTES & ~ABI_MOUNT_ATTR_NODEV) < 0 ||
	    sys_move_mount(node, place.dir, place.name) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

static int op_symlink(struct context *ctx, struct cursor *c)
{
	const char *text = take_string(c), *path = take_string(c);
	SCOPED_PLACE place;
	if (find_own(ctx, path, &place) < 0 || symlinkat(text, place.dir, place.name) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

static int op_directory(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c);
	mode_t mode = take_u32(c);
	SCOPED_PLACE place;
	/* mkdirat applies the umask, fchmodat does not. */
	if (find_own(ctx, path, &place) < 0 || mkdirat(place.dir, place.name, mode) < 0 ||
	    fchmodat(place.dir, place.name, mode, 0) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

/* A file of ours, shown read-only over the rootfs's own: nothing is written into the rootfs.
 * Where there is no place for it, its absence is said and the sandbox goes on. */
static int op_file(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c);
	struct bytes content = take_bytes(c);
	uint32_t number = take_u32(c);
	char name[24];
	snprintf(name, sizeof(name), "made/file%u", number);

	SCOPED_FD file = openat(ctx->stage, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (file < 0 || write(file, content.data, content.length) != (ssize_t)content.length)
		return fail(&ctx->failure, name);
	SCOPED_FD target = open_target(ctx, path, 0, 0);
	if (target < 0) {
		send_failure(EVENT_WARNING, STAGE_SETUP, &ctx->failure);
		return 0;
	}
	SCOPED_FD tree = sys_open_tree(ctx->covers, strchr(name, '/') + 1);
	return tree < 0 ? fail(&ctx->failure, name) : attach(ctx, tree, target, path);
}

/* ---- masks ----------------------------------------------------------------------------- */

/* The cover is an empty file or directory that we made ourselves: the rootfs's /dev/null may
 * be anything. */
static int clone_cover(const struct context *ctx, mode_t mode)
{
	return sys_open_tree(ctx->covers, S_ISDIR(mode) ? "empty" : "blank");
}

/* The same place once more, read-only. */
static int clone_read_only(int dir, const char *name)
{
	int tree = sys_open_tree(dir, name);
	if (tree < 0 || set_attributes(tree, ALL_ATTRIBUTES) == 0)
		return tree;
	close(tree);
	return -1;
}

static int absent(int error)
{
	return error == ENOENT || error == ENOTDIR || error == EACCES;
}

static int cover_in_root(struct context *ctx, const char *path, int hide)
{
	struct stat st;
	SCOPED_FD target = sys_openat2(ctx->root, path, O_PATH, IN_ROOT | ABI_RESOLVE_NO_SYMLINKS);
	if (target < 0 || fstat(target, &st) < 0)
		return absent(errno) ? 0 : fail(&ctx->failure, path);
	SCOPED_FD cover = hide ? clone_cover(ctx, st.st_mode) : clone_read_only(target, "");
	return cover < 0 ? fail(&ctx->failure, path) : attach(ctx, cover, target, path);
}

/* Hide `path`, or only make it read-only; what is not there needs neither. */
static int op_cover(struct context *ctx, struct cursor *c, int hide)
{
	const char *path = take_string(c);
	struct stat st;
	SCOPED_PLACE place;
	if (find_own(ctx, path, &place) < 0 && errno == EXDEV)
		return cover_in_root(ctx, path, hide);
	if (place.dir < 0 || fstatat(place.dir, place.name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return absent(errno) ? 0 : fail(&ctx->failure, path);
	if (S_ISLNK(st.st_mode))
		return fail_with(&ctx->failure, ELOOP, path);
	SCOPED_FD cover = hide ? clone_cover(ctx, st.st_mode) : clone_read_only(place.dir, place.name);
	if (cover < 0 || sys_move_mount(cover, place.dir, place.name) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

static int op_remount(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c);
	struct abi_mount_attr attr = { .attr_set = take_u32(c) };
	SCOPED_FD target = sys_openat2(ctx->root, path, O_PATH, IN_ROOT | ABI_RESOLVE_NO_SYMLINKS);
	if (target < 0 || sys_mount_setattr(target, 0, &attr) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

/* pivot_root(2), "pivot_root(".", ".")": the old root ends up over the new one and is then
 * detached with everything below it, the staging tmpfs too. */
static int op_pivot(struct context *ctx)
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

/* ---- the rest of the namespaces --------------------------------------------------------- */

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

static int write_proc(struct context *ctx, const char *path, const char *value)
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
		send_held(op->index);
		wait_for_word();
		return 0;
	default:
		return fail_with(&ctx->failure, EINVAL, "not a set-up operation");
	}
}
