/* What the rooms of the set-up phase share: place.c finds where something goes, root.c makes the root,
 * mounts.c fills it, setup.c has the table of operations and all that is no mount. Where nothing else is
 * said, functions return 0, or -1 after fail(). */
#ifndef SBX_SETUP_H
#define SBX_SETUP_H

#include "sys.h"

#include "launch.h"

#define IN_ROOT (ABI_RESOLVE_IN_ROOT | ABI_RESOLVE_NO_MAGICLINKS)
#define ALL_ATTRIBUTES                                                                             \
	(ABI_MOUNT_ATTR_RDONLY | ABI_MOUNT_ATTR_NOSUID | ABI_MOUNT_ATTR_NODEV | ABI_MOUNT_ATTR_NOEXEC)
#define KERNEL_DIRECTORY 0x1U /* FILESYSTEM: the target may not be reached through symlinks */

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define SCOPED_FD __attribute__((cleanup(close_fd))) int

/* Where something stands on a mount of our own: name `name` in directory `dir`. */
struct place {
	int dir;
	int opened; /* what there is to close afterwards, or -1 */
	const char *name;
};
static inline void close_place(struct place *p)
{
	close_fd(&p->opened);
}
#define SCOPED_PLACE __attribute__((cleanup(close_place))) struct place

/* place.c: open the mount point `path` in the new root, made if it is missing: a descriptor. Attach a
 * detached mount to it. */
int open_target(struct context *ctx, const char *path, int directory, unsigned flags);
int attach(struct context *ctx, int mount, int target, const char *path);

/* Find `path` below one of our mounts: 0; or -1 with errno, EXDEV when it does not lie on one. What
 * remember_own is given stays open until the pivot. */
int find_own(const struct context *ctx, const char *path, struct place *p);
int remember_own(struct context *ctx, const char *path, int mount);

/* mounts.c: a new file system, detached: a descriptor. The attributes of a mount and all below it: 0, or
 * -1 with errno. */
int new_filesystem(struct context *ctx, const char *type, const char *const *options, size_t count,
		   unsigned attributes);
int set_attributes(int mount, uint64_t attributes);

/* root.c: pass over the device and inode that open_sources has compared. */
void skip_identity(struct cursor *c);

/* The operations: of root.c ... */
int op_private(struct context *ctx);
int op_procfs(struct context *ctx, struct cursor *c);
int op_stage(struct context *ctx, struct cursor *c);
int op_root_overlay(struct context *ctx, struct operation *op);
int op_root_bind(struct context *ctx, struct operation *op);
int op_pivot(struct context *ctx);

/* ... of endpoints.c ... */
int op_tun(struct context *ctx, struct cursor *c);
int op_netlink(struct context *ctx, struct cursor *c);
int op_socket(struct context *ctx, struct cursor *c);
int op_hold(struct context *ctx, int32_t index);

/* ... and of mounts.c. */
int op_filesystem(struct context *ctx, struct cursor *c);
int op_bind(struct context *ctx, struct operation *op);
int op_device(struct context *ctx, struct cursor *c);
int op_symlink(struct context *ctx, struct cursor *c);
int op_directory(struct context *ctx, struct cursor *c);
int op_file(struct context *ctx, struct cursor *c);
int op_cover(struct context *ctx, struct cursor *c, int hide);
int op_remount(struct context *ctx, struct cursor *c);

#endif
