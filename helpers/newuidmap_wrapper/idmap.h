/* Installs the id maps of a child's user namespace: directly, or through newuidmap/newgidmap.
 *
 * Owns: the text of a map, the proof that the process being mapped is the child that waits, and
 * the two set-user-ID helpers from start to reaped. Does not own: which maps are wanted.
 * Needs no heap; keeps its buffers static, so it serves one caller at a time.
 */
#ifndef SBX_IDMAP_H
#define SBX_IDMAP_H

#include <stdint.h>
#include <sys/types.h>

#define IDMAP_MAX_EXTENTS 340 /* user_namespaces(7), since Linux 4.15 */

struct idmap_extent {
	uint32_t inside, outside, count;
};

/* A map without extents (or a NULL map) leaves that file of the child alone. */
struct idmap {
	const struct idmap_extent *extents;
	uint32_t count;
};

/* `error`: an errno value. `stage`: "child", "uid_map", "gid_map", "setgroups", "newuidmap" or
 * "newgidmap". `text`: one line, the helper's own words, or the object of the failed call. */
struct idmap_error {
	int error;
	char stage[24];
	char text[400];
};

/* Write the maps of `pid` through procfs. `pid` must be our child (or our parent) that waits, and
 * `pidfd` must refer to it; both are checked after /proc/PID was opened, so a reused pid is never
 * mapped.
 * `proc_fd`: a descriptor of a procfs, or -1 for /proc. `deny_setgroups` writes "deny" to
 * /proc/PID/setgroups first, which an unprivileged caller needs for a gid map.
 * Returns 0, or -1 with *err filled. */
int idmap_write_direct(int proc_fd, pid_t pid, int pidfd, const struct idmap *uids,
		       const struct idmap *gids, int deny_setgroups, struct idmap_error *err);

/* Install the maps through the helpers at these absolute paths (NULL: skip that one). Both run at
 * the same time with an empty environment and no descriptors but stdio; 10 s is their deadline.
 * A helper must be a regular file of root that nobody else can write.
 * Returns 0, or -1 with *err filled. */
int idmap_run_helpers(const char *newuidmap, const char *newgidmap, pid_t pid, int pidfd,
		      const struct idmap *uids, const struct idmap *gids, struct idmap_error *err);

#endif
