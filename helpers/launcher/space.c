/* Nobody counts the writes that a full file system refuses. What can be seen, at the payload's end, is
 * that one of ours has no block or no inode left. Its paths are the payload's to change: what is looked
 * at is only told of. */
#include "sys.h"

#include "launch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

static void add(struct spaces *spaces, const char *path)
{
	char *copy = spaces->count < MAX_SPACES ? strdup(path) : NULL;
	if (copy)
		spaces->paths[spaces->count++] = copy;
}

void spaces_find(struct spaces *spaces, const struct plan *plan)
{
	struct operation op = { 0 };
	for (size_t at = 0; plan_next(plan, &at, &op);) {
		if (op.opcode == OP_ROOT_OVERLAY) {
			take_string(&op.body);
			take_u64(&op.body);
			take_u64(&op.body);
			if (!*take_string(&op.body))
				add(spaces, "/");
		} else if (op.opcode == OP_FILESYSTEM && strcmp(take_string(&op.body), "tmpfs") == 0)
			add(spaces, take_string(&op.body));
	}
}

void spaces_tell(const struct spaces *spaces)
{
	struct statvfs found;
	for (size_t i = 0; spaces && i < spaces->count; i++)
		if (statvfs(spaces->paths[i], &found) == 0 && !(found.f_flag & ST_RDONLY) &&
		    ((found.f_blocks && !found.f_bavail) || (found.f_files && !found.f_ffree)))
			send_full(spaces->paths[i]);
}
