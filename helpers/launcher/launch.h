/* What the stages share. No globals: every function gets what it works on. */
#ifndef SBX_LAUNCH_H
#define SBX_LAUNCH_H

#include "../newuidmap_wrapper/idmap.h"
#include "plan.h"
#include "report.h"

#include <limits.h>

#define EXEC_INIT 0x1U /* the payload runs under an init of ours */
#define EXEC_IDLE 0x2U /* there is no payload: init waits for those who join */
#define EXEC_LEAVE 0x4U /* who joined leaves its payload to the sandbox once that runs */

/* Who writes the outer maps (ID_MAP). */
enum map_way { MAP_DIRECT, MAP_HELPERS, MAP_SELF, MAP_STANDS };

/* Beside the descriptors of report.h; all close-on-exec. */
#define FD_EXEC_PIPE 103     /* its end of file tells that the payload's exec succeeded */
#define FD_EXEC_WATCH 104    /* the other end, in init or, without one, in the launcher */
#define FD_LIFELINE 105	     /* init reads: 0 = mapped, 0 = released, then orders */
#define FD_LIFELINE_END 106  /* the launcher's end: when it closes, init ends */
#define FD_CGROUP 109	     /* the launcher: the directory of the sandbox's control group */

/* Orders on the lifeline: 1 … 64 are signals to pass on. */
#define ORDER_FREEZE 65 /* stop all processes */
#define ORDER_THAW 66	/* continue them */

#define CODE_SETUP_FAILED 125
#define CODE_NOT_EXECUTABLE 126
#define CODE_NOT_FOUND 127

/* A mount of our own on a directory of the kernel's, /proc, /dev or /sys of the new root. */
struct own_mount {
	const char *path;
	size_t length;
	int mount;
};

#define MAX_OWN_MOUNTS 4
#define MAX_HELD 10 /* descriptors that leave with HOLD */

/* The network namespace in the making. */
struct network {
	int wanted;	  /* and not yet joined */
	int32_t op;	  /* the operation that asks for it, then the one that failed */
	int32_t loopback; /* the operation that wants lo up, or -1 */
	pid_t helper;
	int made; /* the namespace, or -1 */
	int error;
	const char *text;
};

/* Where the payload writes into memory, with a limit. */
#define MAX_SPACES 16

struct spaces {
	char *paths[MAX_SPACES];
	size_t count;
};

/* Descriptors and maps that the operations of one process hand on to each other. */
struct context {
	struct failure failure;
	int stage;    /* the staging tmpfs; also the working directory until the pivot */
	int root;     /* the new root */
	int procfs;   /* a procfs of the sandbox's pid namespace that nothing else sees */
	int fresh;    /* ... which we have made ourselves */
	int covers;   /* the files and directories that we made, on a read-only mount */
	int terminal; /* the payload's end of the sandbox's own terminal, or -1 */
	int ruleset;  /* Landlock ruleset under construction, or -1 */
	int *sources; /* by operation: the detached tree of its source, or -1 */
	int joined;   /* the namespaces are those of a sandbox that lives already */
	int shared;   /* ... or some of them are, and the rest is our own */
	int tenant;   /* another's process 1 is ours too: not all that it has is ours to end */
	const char *room; /* the limit of user namespaces that ours has to pass, or "" */
	struct own_mount own[MAX_OWN_MOUNTS];
	struct network network;
	size_t own_count;
	int held[MAX_HELD];
	size_t held_count;
	int inner_user;
	int inner_deny_setgroups;
	int inner_closed; /* no user namespaces below it: 1 must, 2 may fail */
	struct idmap_extent inner_uids[340];
	struct idmap_extent inner_gids[340];
	uint32_t inner_uid_count;
	uint32_t inner_gid_count;
};

/* Read a map of the plan into `extents` (room for 340); returns the number of extents. */
uint32_t take_extents(struct cursor *c, struct idmap_extent *extents);

/* Open the sources of all root and bind operations as detached trees, before anything of ours is
 * mounted that they could show. 0 or fail(). */
int open_sources(struct context *ctx, const struct plan *plan);

/* Begin to make the network namespace, if the plan wants one; enter it, once it is made: 0 or fail(). */
void start_network(struct context *ctx, const struct plan *plan);
int join_network(struct context *ctx);

/* Execute one operation of the set-up or the payload phase; 0 or fail(). */
int setup_operation(struct context *ctx, struct operation *op);
int payload_operation(struct context *ctx, struct operation *op, const struct plan *plan);

/* Write to a file of our own procfs: 0, or -1 with errno (setup.c). */
int write_proc(struct context *ctx, const char *path, const char *value);

/* Wait for the zero byte on the lifeline with which the launcher lets init go on. */
void wait_for_word(void);

/* PID 1 of the sandbox: never returns; the exit status is the launcher's. */
_Noreturn void init_main(const struct plan *plan, const int shared[NAMESPACE_COUNT]);

/* Join a living sandbox (join.c): the launcher takes the descriptors that were sent to it and enters
 * the user namespace; the process that it clones then enters the rest. 0 or fail(). */
int join_prepare(const struct plan *plan, int namespaces[NAMESPACE_COUNT], struct failure *f);
_Noreturn void join_main(const struct plan *plan, int namespaces[NAMESPACE_COUNT]);
/* Kill all that descends from the process that has joined, and it; where that cannot be seen, it
 * does so itself once its lifeline ends. */
void join_end(pid_t joined);

/* Share namespaces with a living sandbox (share.c): the launcher takes their descriptors, enters that
 * sandbox's user namespace, and makes its children join its pid namespace, if that is shared; the
 * child enters the rest. `shared` is empty (-1) in other plans. 0 or fail(). */
int share_prepare(const struct plan *plan, int shared[NAMESPACE_COUNT], struct failure *f);
int share_enter(struct context *ctx, const struct plan *plan, const int shared[NAMESPACE_COUNT]);
/* Whether that sandbox's process 1 is the first of this one's processes too. */
int shares_pids(const struct plan *plan);
/* Make the payload's process in a user namespace that has to be its neighbour's neighbour: a pid, or
 * -1 with errno. */
pid_t share_clone(struct context *ctx, int *pidfd);
/* Kill all that lives in the payload's user namespace and below it. */
void share_end(int inner);
/* Take the descriptors that were sent over the channel, by place; enter one of them. 0 or fail(). */
int take_descriptors(int namespaces[NAMESPACE_COUNT], struct failure *f);
int enter_namespace(int fd, enum namespace_place place, struct failure *f);
/* Kill all descendants and end. */
_Noreturn void end_descendants(int code);

/* The control group (cgroup.c): its directory taken from the channel, with its name, where the plan has
 * one, and its limits set; a process cloned in it; what that process does before all else; a file of
 * it written; all in it killed, where there is one; its figures left in `folder` and itself removed.
 * 0, a pid, or fail() / -1 with errno. */
int cgroup_take(const struct plan *plan, char name[NAME_MAX + 1], struct failure *f);
pid_t cgroup_clone(uint64_t flags, int *pidfd, int *inside);
int cgroup_begin(uint64_t flags, int inside, struct failure *f);
int cgroup_write(const char *file, const char *value);
void cgroup_kill(void);
void cgroup_finish(const char *name, int folder);
int has_cgroup(void);

/* A signalfd of what somebody sends to the launcher to end it, -1 where there can be none. */
int signals_to_us(void);

/* Used by both kinds of first process (init.c). */
_Noreturn void become_payload(struct context *ctx, const struct plan *plan);
_Noreturn void give_up(enum stage stage, const struct failure *f, int code);
_Noreturn void give_up_now(struct context *ctx, enum stage stage, const char *text);
void die_with_parent(void);
void run_setup(struct context *ctx, const struct plan *plan);
void keep_only_kill(void);
void close_all_but_ours(void);
uint32_t exec_flags(const struct plan *plan);
/* `ended` comes after the payload's end, with `leaving` once it runs, `broken` when the launcher has
 * gone; neither returns. */
_Noreturn void watch_over(pid_t payload, void (*ended)(int code), void (*broken)(int code),
			  const struct spaces *spaces, int leaving);

/* The writable file systems in memory that the plan makes (space.c): found while there is a plan, and
 * those that have no room left told of. */
void spaces_find(struct spaces *spaces, const struct plan *plan);
void spaces_tell(const struct spaces *spaces);

#endif
