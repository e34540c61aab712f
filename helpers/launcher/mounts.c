/* What is mounted and made inside the new root: file systems, host files, device nodes, files of ours,
 * and the covers over what is hidden or locked. */
#include "setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int set_attributes(int mount, uint64_t attributes)
{
	struct abi_mount_attr attr = { .attr_set = attributes };
	return sys_mount_setattr(mount, ABI_AT_RECURSIVE, &attr);
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

int new_filesystem(struct context *ctx, const char *type, const char *const *options, size_t count,
		   unsigned attributes)
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

/* The set-up's procfs once more: the options of a procfs belong to its superblock, read-only and
 * covered places to each mount. */
static int clone_procfs(struct context *ctx, unsigned attributes)
{
	int mount = sys_open_tree(ctx->procfs, "");
	if (mount < 0 || set_attributes(mount, attributes) < 0)
		return fail(&ctx->failure, "/proc");
	return mount;
}

int op_filesystem(struct context *ctx, struct cursor *c)
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

int op_bind(struct context *ctx, struct operation *op)
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
int op_device(struct context *ctx, struct cursor *c)
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

int op_symlink(struct context *ctx, struct cursor *c)
{
	const char *text = take_string(c), *path = take_string(c);
	SCOPED_PLACE place;
	if (find_own(ctx, path, &place) < 0 || symlinkat(text, place.dir, place.name) < 0)
		return fail(&ctx->failure, path);
	return 0;
}

int op_directory(struct context *ctx, struct cursor *c)
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
int op_file(struct context *ctx, struct cursor *c)
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
int op_cover(struct context *ctx, struct cursor *c, int hide)
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

int op_remount(struct context *ctx, struct cursor *c)
{
	const char *path = take_string(c);
	struct abi_mount_attr attr = { .attr_set = take_u32(c) };
	SCOPED_FD target = sys_openat2(ctx->root, path, O_PATH, IN_ROOT | ABI_RESOLVE_NO_SYMLINKS);
	if (target < 0 || sys_mount_setattr(target, 0, &attr) < 0)
		return fail(&ctx->failure, path);
	return 0;
}
