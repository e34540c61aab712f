/* Places where something of ours goes. The rootfs is hostile data: its paths are walked only from the
 * root descriptor, inside it, and mounts are attached to descriptors, never to path strings. */
#include "setup.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* ---- in the root file system ------------------------------------------------------------ */

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

int open_target(struct context *ctx, const char *path, int directory, unsigned flags)
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
int attach(struct context *ctx, int mount, int target, const char *path)
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

/* ---- on mounts of our own ---------------------------------------------------------------- */

/* What is on them comes from the kernel or from us and no process of the sandbox exists yet, so nothing
 * can be exchanged between two calls: what is attached there needs no second look, unlike in the
 * rootfs. No link is followed, no other mount crossed. */
int find_own(const struct context *ctx, const char *path, struct place *p)
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

int remember_own(struct context *ctx, const char *path, int mount)
{
	if (ctx->own_count == MAX_OWN_MOUNTS)
		return fail_with(&ctx->failure, E2BIG, path);
	ctx->own[ctx->own_count++] = (struct own_mount){ path, strlen(path), mount };
	return 0;
}
