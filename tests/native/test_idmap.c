/* The id-map library against real user namespaces, as root or as a user. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                  \
	do {                                                                              \
		if (!(condition)) {                                                       \
			fprintf(stderr, "%s:%d: %s (error %d, stage %s, text %s)\n",      \
				__FILE__, __LINE__, #condition, err.error, err.stage,     \
				err.text);                                                \
			exit(1);                                                          \
		}                                                                         \
	} while (0)

static struct idmap_error err;

struct child {
	pid_t pid;
	int pidfd;
};

/* A child in a fresh user namespace that waits to be killed. */
static struct child start_child(void)
{
	struct child child = { 0, -1 };
	struct clone_args args;
	memset(&args, 0, sizeof(args));
	args.flags = CLONE_NEWUSER | CLONE_PIDFD;
	args.pidfd = (uint64_t)(uintptr_t)&child.pidfd;
	args.exit_signal = SIGCHLD;
	child.pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (child.pid == 0)
		for (;;)
			pause();
	CHECK(child.pid > 0);
	return child;
}

static void end_child(struct child child)
{
	kill(child.pid, SIGKILL);
	waitpid(child.pid, NULL, 0);
	close(child.pidfd);
}

static void read_proc(struct child child, const char *name, char *text, size_t size)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)child.pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = read(fd, text, size - 1);
	CHECK(length >= 0);
	text[length] = '\0';
	close(fd);
}

static struct idmap own_ids(struct idmap_extent *extent, uint32_t inside, uint32_t outside)
{
	*extent = (struct idmap_extent){ inside, outside, 1 };
	return (struct idmap){ extent, 1 };
}

static void test_direct(int proc)
{
	char text[256], expected[256];
	struct idmap_extent uid, gid;
	struct idmap uids = own_ids(&uid, 7, geteuid()), gids = own_ids(&gid, 8, getegid());
	struct child child = start_child();
	CHECK(idmap_write_direct(proc, child.pid, child.pidfd, &uids, &gids, 1, &err) == 0);
	read_proc(child, "uid_map", text, sizeof(text));
	snprintf(expected, sizeof(expected), "%10u %10u %10u\n", 7U, geteuid(), 1U);
	CHECK(strcmp(text, expected) == 0);
	read_proc(child, "setgroups", text, sizeof(text));
	CHECK(strcmp(text, "deny\n") == 0);
	/* A map is written once. */
	CHECK(idmap_write_direct(proc, child.pid, child.pidfd, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == EPERM && strcmp(err.stage, "uid_map") == 0);
	snprintf(expected, sizeof(expected), "/proc/%d/uid_map", (int)child.pid);
	CHECK(strcmp(err.text, expected) == 0);
	end_child(child);
}

static void test_nothing_wanted(void)
{
	const struct idmap none = { NULL, 0 };
	char text[64];
	struct child child = start_child();
	CHECK(idmap_write_direct(-1, child.pid, child.pidfd, &none, NULL, 0, &err) == 0);
	CHECK(idmap_run_helpers(NULL, NULL, child.pid, child.pidfd, &none, &none, &err) == 0);
	CHECK(idmap_run_helpers("/bin/false", "/bin/false", child.pid, child.pidfd, &none, NULL,
				&err) == 0);
	read_proc(child, "uid_map", text, sizeof(text));
	CHECK(text[0] == '\0');
	end_child(child);
}

static void test_proof(void)
{
	struct idmap_extent uid;
	struct idmap uids = own_ids(&uid, 0, geteuid());
	struct child one = start_child(), two = start_child();
	int not_a_pidfd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	CHECK(idmap_write_direct(-1, one.pid, two.pidfd, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == ESRCH && strcmp(err.stage, "child") == 0);
	CHECK(idmap_run_helpers("/bin/true", NULL, one.pid, two.pidfd, &uids, NULL, &err) == -1);
	CHECK(err.error == ESRCH && strcmp(err.stage, "child") == 0);
	CHECK(idmap_write_direct(-1, one.pid, not_a_pidfd, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == EBADF);
	CHECK(idmap_write_direct(-1, one.pid, -1, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == EBADF);
	CHECK(idmap_write_direct(-1, getpid(), self, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == ECHILD);
	/* Dead, but not reaped: /proc/PID and the pidfd still answer. */
	siginfo_t state;
	kill(one.pid, SIGKILL);
	waitid(P_PID, (id_t)one.pid, &state, WEXITED | WNOWAIT);
	CHECK(idmap_write_direct(-1, one.pid, one.pidfd, &uids, NULL, 0, &err) == -1);
	CHECK(err.error == ESRCH && strcmp(err.text, "the process has ended") == 0);
	waitpid(one.pid, NULL, 0);
	CHECK(idmap_write_direct(-1, one.pid, one.pidfd, &uids, NULL, 0, &err) == -1);
	CHECK(strcmp(err.stage, "child") == 0);
	close(self);
	close(not_a_pidfd);
	close(one.pidfd);
	end_child(two);
}

static void test_limits(void)
{
	static struct idmap_extent extents[IDMAP_MAX_EXTENTS + 1];
	struct child child = start_child();
	for (uint32_t i = 0; i < IDMAP_MAX_EXTENTS + 1; i++)
		extents[i] = (struct idmap_extent){ 4000000000U + i, 4100000000U + i, 1 };
	struct idmap many = { extents, IDMAP_MAX_EXTENTS + 1 };
	CHECK(idmap_write_direct(-1, child.pid, child.pidfd, &many, NULL, 0, &err) == -1);
	CHECK(err.error == E2BIG && strcmp(err.stage, "uid_map") == 0);
	CHECK(idmap_run_helpers(NULL, "/bin/true", child.pid, child.pidfd, NULL, &many, &err) ==
	      -1);
	CHECK(err.error == E2BIG && strcmp(err.stage, "newgidmap") == 0);
	many.count = IDMAP_MAX_EXTENTS;
	CHECK(idmap_write_direct(-1, child.pid, child.pidfd, NULL, &many, 0, &err) == -1);
	CHECK(err.error == E2BIG && strstr(err.text, "one page"));
	CHECK(idmap_run_helpers("/bin/true", "/bin/true", child.pid, child.pidfd, &many, &many,
				&err) == 0);
	end_child(child);
}

static int helper(struct child child, const char *path)
{
	struct idmap_extent uid = { 0, geteuid(), 1 };
	struct idmap uids = { &uid, 1 };
	return idmap_run_helpers(path, NULL, child.pid, child.pidfd, &uids, NULL, &err);
}

/* A file of the wrong owner, or writable by others. */
static void test_untrusted_helper(struct child child)
{
	char path[] = "/tmp/sbx-idmap-test-XXXXXX";
	int fd = mkstemp(path);
	CHECK(fd >= 0);
	close(fd);
	CHECK(chmod(path, 0777) == 0);
	CHECK(helper(child, path) == -1);
	CHECK(err.error == EACCES);
	CHECK(strstr(err.text, geteuid() == 0 ? "writable by others" : "not owned by root"));
	unlink(path);
}

static void test_helper_choice(void)
{
	struct child child = start_child();
	CHECK(helper(child, "bin/true") == -1);
	CHECK(err.error == EINVAL && strcmp(err.stage, "newuidmap") == 0);
	CHECK(helper(child, "/nowhere/newuidmap") == -1);
	CHECK(err.error == ENOENT && strcmp(err.text, "/nowhere/newuidmap") == 0);
	CHECK(helper(child, "/usr/bin") == -1);
	CHECK(err.error == EACCES && strcmp(err.text, "/usr/bin: not a regular file") == 0);
	CHECK(helper(child, "/etc/passwd") == -1);
	CHECK(err.error == EACCES && strcmp(err.text, "/etc/passwd: cannot be executed") == 0);
	test_untrusted_helper(child);
	end_child(child);
}

static void test_helper_words(void)
{
	char expected[64];
	struct child child = start_child();
	CHECK(helper(child, "/bin/true") == 0);
	CHECK(helper(child, "/bin/false") == -1);
	CHECK(err.error == EPERM && strcmp(err.text, "/bin/false: ended with status 1") == 0);
	/* Says "newuidmap: PID: No such file or directory" and more of the kind. */
	CHECK(helper(child, "/bin/cat") == -1);
	snprintf(expected, sizeof(expected), "%d: No such file", (int)child.pid);
	CHECK(err.error == EPERM && strstr(err.text, expected));
	CHECK(!strchr(err.text, '\n'));
	end_child(child);
}

/* The first failing helper is named, whichever it is, and no helper stays behind. */
static void test_both_helpers(void)
{
	struct idmap_extent id = { 0, 1, 1 };
	struct idmap ids = { &id, 1 };
	struct child child = start_child();
	CHECK(idmap_run_helpers("/bin/true", "/bin/false", child.pid, child.pidfd, &ids, &ids,
				&err) == -1);
	CHECK(strcmp(err.stage, "newgidmap") == 0);
	CHECK(idmap_run_helpers("/bin/true", "/nowhere", child.pid, child.pidfd, &ids, &ids,
				&err) == -1);
	CHECK(strcmp(err.stage, "newgidmap") == 0);
	end_child(child);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
}

/* sleep(1) adds its arguments up: the pid, 0, the user's id and 1 are longer than the deadline. */
static void test_deadline(void)
{
	struct child child = start_child();
	CHECK(helper(child, "/bin/sleep") == -1);
	CHECK(err.error == ETIMEDOUT && strcmp(err.text, "/bin/sleep: no answer in 10 s") == 0);
	end_child(child);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
}

int main(void)
{
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	test_direct(-1);
	test_direct(proc);
	test_nothing_wanted();
	test_proof();
	test_limits();
	test_helper_choice();
	test_helper_words();
	test_both_helpers();
	test_deadline();
	close(proc);
	return 0;
}
