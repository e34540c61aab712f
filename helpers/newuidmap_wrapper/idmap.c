#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define U32_DIGITS 10
#define EXTENT_TEXT (3 * (U32_DIGITS + 1))
#define MAP_TEXT_MAX 4095 /* the kernel takes a map in one write of less than a page */
#define HELPER_DEADLINE_MS 10000
#define EXEC_FAILED 127
#define EXEC_MARK '\1'

/* ---- small text ---- */

struct text {
	char *at;
	size_t room; /* without the final NUL */
};

static void put_bytes(struct text *out, const char *bytes, size_t length)
{
	if (length > out->room)
		length = out->room;
	memcpy(out->at, bytes, length);
	out->at += length;
	out->room -= length;
	*out->at = '\0';
}

static void put(struct text *out, const char *string)
{
	put_bytes(out, string, strlen(string));
}

static size_t format_u32(char *to, uint32_t value)
{
	char digits[U32_DIGITS];
	size_t count = 0;
	do {
		digits[count++] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	for (size_t i = 0; i < count; i++)
		to[i] = digits[count - 1 - i];
	return count;
}

static void put_u32(struct text *out, uint32_t value)
{
	char digits[U32_DIGITS];
	put_bytes(out, digits, format_u32(digits, value));
}

static int fail(struct idmap_error *err, int error, const char *stage, const char *text)
{
	struct text to = {err->stage, sizeof err->stage - 1};
	put(&to, stage);
	to = (struct text){err->text, sizeof err->text - 1};
	put(&to, text);
	err->error = error;
	return -1;
}

/* "/proc/PID/name", for messages and for opening. */
static void put_proc_path(struct text *out, pid_t pid, const char *name)
{
	put(out, "/proc/");
	put_u32(out, (uint32_t)pid);
	put(out, "/");
	put(out, name);
}

static int fail_proc(struct idmap_error *err, int error, const char *stage, pid_t pid,
		     const char *name)
{
	char path[64];
	struct text to = {path, sizeof path - 1};
	put_proc_path(&to, pid, name);
	return fail(err, error, stage, path);
}

static int is_wanted(const struct idmap *map)
{
	return map && map->count;
}

/* ---- the proof ---- */

/* The last number of the line `name` of /proc/self/fdinfo/PIDFD, -1 with errno when there is none.
 * "Pid:" is the process's number in the procfs that is asked, "NSpid:" ends with its innermost. */
static pid_t number_of_pidfd(int proc, int pidfd, const char *name)
{
	char path[64], info[512];
	struct text to = {path, sizeof path - 1};
	put(&to, "self/fdinfo/");
	put_u32(&to, (uint32_t)pidfd);
	int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t length = read(fd, info, sizeof info - 1);
	int error = errno;
	close(fd);
	if (length < 0) {
		errno = error;
		return -1;
	}
	info[length] = '\0';
	const char *line = strstr(info, name);
	pid_t pid = -1;
	errno = EBADF;
	for (const char *at = line ? line + strlen(name) : ""; *at && *at != '\n'; at++) {
		if (*at == '\t')
			pid = 0;
		else if (*at >= '0' && *at <= '9')
			pid = pid * 10 + (*at - '0');
		else
			return -1;
	}
	return pid > 0 ? pid : -1;
}

/* Being our child or our parent, and alive, keeps a pid from being reused: so, once the process
 * behind the pidfd is shown to have this pid and to be one of them, every earlier lookup of the
 * pid found that same process. */
static int check_child(int proc, pid_t pid, int pidfd, struct idmap_error *err)
{
	pid_t found = pidfd < 0 ? -1 : number_of_pidfd(proc, pidfd, "\nPid:");
	if (found != pid)
		return fail(err, found < 0 ? (pidfd < 0 ? EBADF : errno) : ESRCH, "child",
			    "the pidfd does not refer to the process");
	siginfo_t state;
	memset(&state, 0, sizeof state);
	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &state, WEXITED | WNOHANG | WNOWAIT) < 0 &&
	    (errno != ECHILD || number_of_pidfd(proc, pidfd, "\nNSpid:") != getppid()))
		return fail(err, ECHILD, "child",
			    "the process is neither our child nor our parent");
	if (state.si_pid != 0 || syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0)
		return fail(err, ESRCH, "child", "the process has ended");
	return 0;
}

static int open_proc(int proc_fd, struct idmap_error *err)
{
	int proc = proc_fd < 0 ? open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC)
			       : fcntl(proc_fd, F_DUPFD_CLOEXEC, 3);
	if (proc < 0)
		fail(err, errno, "child", "/proc");
	return proc;
}

/* ---- direct writes ---- */

static int write_proc(int child, const char *name, const char *bytes, size_t length)
{
	int fd = openat(child, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -1;
	ssize_t written;
	do
		written = write(fd, bytes, length);
	while (written < 0 && errno == EINTR);
	int error = written < 0 ? errno : EIO;
	close(fd);
	if (written == (ssize_t)length)
		return 0;
	errno = error;
	return -1;
}

static int write_map(int child, pid_t pid, const char *name, const struct idmap *map,
		     struct idmap_error *err)
{
	static char lines[MAP_TEXT_MAX + 1];
	size_t length = 0;
	if (!is_wanted(map))
		return 0;
	if (map->count > IDMAP_MAX_EXTENTS)
		return fail(err, E2BIG, name, "the map has more than 340 extents");
	for (uint32_t i = 0; i < map->count; i++) {
		if (length + EXTENT_TEXT > MAP_TEXT_MAX)
			return fail(err, E2BIG, name, "the map is longer than one page of text");
		length += format_u32(lines + length, map->extents[i].inside);
		lines[length++] = ' ';
		length += format_u32(lines + length, map->extents[i].outside);
		lines[length++] = ' ';
		length += format_u32(lines + length, map->extents[i].count);
		lines[length++] = '\n';
	}
	if (write_proc(child, name, lines, length) < 0)
		return fail_proc(err, errno, name, pid, name);
	return 0;
}

static int write_maps(int child, pid_t pid, const struct idmap *uids, const struct idmap *gids,
		      int deny_setgroups, struct idmap_error *err)
{
	/* The kernel takes "deny" only before the gid map is written. */
	if (deny_setgroups && write_proc(child, "setgroups", "deny", 4) < 0)
		return fail_proc(err, errno, "setgroups", pid, "setgroups");
	if (write_map(child, pid, "uid_map", uids, err) < 0)
		return -1;
	return write_map(child, pid, "gid_map", gids, err);
}

int idmap_write_direct(int proc_fd, pid_t pid, int pidfd, const struct idmap *uids,
		       const struct idmap *gids, int deny_setgroups, struct idmap_error *err)
{
	char name[U32_DIGITS + 1];
	memset(err, 0, sizeof *err);
	int proc = open_proc(proc_fd, err);
	if (proc < 0)
		return -1;
	name[format_u32(name, (uint32_t)pid)] = '\0';
	int child = openat(proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int result = -1;
	if (child < 0)
		fail_proc(err, errno, "child", pid, "");
	else if (check_child(proc, pid, pidfd, err) == 0)
		result = write_maps(child, pid, uids, gids, deny_setgroups, err);
	if (child >= 0)
		close(child);
	close(proc);
	return result;
}

/* ---- helpers ---- */

/* One running helper. `pid` is 0 when there is none. */
struct helper {
	const char *stage;
	const char *path;
	const struct idmap *map;
	int file;   /* O_PATH of the checked program */
	int output; /* read end of its stdout and stderr */
	int handle; /* pidfd */
	pid_t pid;
	int status;
	size_t length;
	char words[sizeof(((struct idmap_error *)0)->text)];
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int fail_helper(const struct helper *helper, int error, const char *why,
		       struct idmap_error *err)
{
	fail(err, error, helper->stage, helper->path);
	struct text to = {err->text + strlen(err->text), 0};
	to.room = sizeof err->text - 1 - (size_t)(to.at - err->text);
	if (*why) {
		put(&to, ": ");
		put(&to, why);
	}
	return -1;
}

/* The program that is checked here is the one that is executed: by descriptor, not by name. */
static int open_helper(struct helper *helper, struct idmap_error *err)
{
	struct stat found;
	struct statvfs mount;
	if (helper->path[0] != '/')
		return fail_helper(helper, EINVAL, "the path of a helper must be absolute", err);
	if (helper->map->count > IDMAP_MAX_EXTENTS)
		return fail_helper(helper, E2BIG, "the map has more than 340 extents", err);
	helper->file = open(helper->path, O_PATH | O_CLOEXEC);
	if (helper->file < 0 || fstat(helper->file, &found) < 0)
		return fail_helper(helper, errno, "", err);
	if (!S_ISREG(found.st_mode))
		return fail_helper(helper, EACCES, "not a regular file", err);
	if (found.st_uid != 0)
		return fail_helper(helper, EACCES, "not owned by root", err);
	if (found.st_mode & (S_IWGRP | S_IWOTH))
		return fail_helper(helper, EACCES, "writable by others than its owner", err);
	if (geteuid() == 0)
		return 0;
	if (fstatvfs(helper->file, &mount) == 0 && (mount.f_flag & ST_NOSUID))
		return fail_helper(helper, EPERM, "on a file system mounted nosuid", err);
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return fail_helper(helper, EPERM, "no_new_privs is set, so it gains no rights",
				   err);
	return 0;
}

static char **helper_argv(const struct helper *helper, pid_t pid)
{
	static char *argv[3 + 3 * IDMAP_MAX_EXTENTS];
	static char numbers[(1 + 3 * IDMAP_MAX_EXTENTS) * (U32_DIGITS + 1)];
	static char name[sizeof "newuidmap"];
	char *at = numbers;
	size_t argc = 0;
	memcpy(name, helper->stage, sizeof name);
	argv[argc++] = name;
	argv[argc++] = at;
	at += format_u32(at, (uint32_t)pid);
	*at++ = '\0';
	for (uint32_t i = 0; i < helper->map->count; i++) {
		const struct idmap_extent *extent = &helper->map->extents[i];
		const uint32_t values[3] = {extent->inside, extent->outside, extent->count};
		for (size_t j = 0; j < 3; j++) {
			argv[argc++] = at;
			at += format_u32(at, values[j]);
			*at++ = '\0';
		}
	}
	argv[argc] = NULL;
	return argv;
}

/* Runs in the forked child: stdio, nothing else open, no environment, signals as after boot. */
static _Noreturn void become_helper(const struct helper *helper, int output, pid_t pid)
{
	static char *no_environment[] = {NULL};
	static const int reset[] = {SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGCHLD, SIGHUP};
	char **argv = helper_argv(helper, pid);
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);
	/* The write end and the program may sit on 0..2 themselves: move them away first. */
	int out = fcntl(output, F_DUPFD_CLOEXEC, 3);
	int file = fcntl(helper->file, F_DUPFD_CLOEXEC, 3);
	if (null > 0) {
		dup2(null, 0);
		close(null);
	}
	if (null < 0 || out < 0 || file < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(EXEC_FAILED);
	unsigned low = (unsigned)file, high = low + 1;
	if (low > 3)
		syscall(SYS_close_range, 3U, low - 1, 0U);
	syscall(SYS_close_range, high, ~0U, 0U);
	for (size_t i = 0; i < sizeof reset / sizeof *reset; i++)
		signal(reset[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_execveat, file, "", argv, no_environment, AT_EMPTY_PATH);
	if (errno == ENOSYS)
		execve(helper->path, argv, no_environment);
	char message[1 + sizeof(int)] = {EXEC_MARK};
	int error = errno;
	memcpy(message + 1, &error, sizeof error);
	ssize_t sent = write(1, message, sizeof message);
	_exit(sent < 0 ? EXEC_FAILED - 1 : EXEC_FAILED);
}

static int start_helper(struct helper *helper, pid_t pid, struct idmap_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fail_helper(helper, errno, "cannot make a pipe", err);
	helper->output = ends[0];
	pid_t child = fork();
	if (child == 0)
		become_helper(helper, ends[1], pid);
	int error = errno;
	close(ends[1]);
	if (child < 0)
		return fail_helper(helper, error, "cannot fork", err);
	helper->pid = child;
	helper->handle = (int)syscall(SYS_pidfd_open, child, 0);
	if (helper->handle < 0 || fcntl(helper->output, F_SETFL, O_NONBLOCK) < 0)
		return fail_helper(helper, errno, "cannot watch it", err);
	return 0;
}

/* Keep the first words, throw the rest away; returns 0 once nothing more will come for now. */
static int read_words(struct helper *helper)
{
	char bytes[512];
	ssize_t got = read(helper->output, bytes, sizeof bytes);
	if (got <= 0) {
		if (got == 0 || (errno != EAGAIN && errno != EINTR))
			close_fd(&helper->output);
		return 0;
	}
	struct text to = {helper->words + helper->length,
			  sizeof helper->words - 1 - helper->length};
	put_bytes(&to, bytes, (size_t)got);
	helper->length = (size_t)(to.at - helper->words);
	return 1;
}

static void reap(struct helper *helper)
{
	while (waitpid(helper->pid, &helper->status, 0) < 0 && errno == EINTR)
		;
	helper->pid = 0;
	close_fd(&helper->handle);
	while (helper->output >= 0 && read_words(helper))
		;
	close_fd(&helper->output);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Returns 0 once all helpers are reaped, -1 with errno at the deadline. */
static int wait_helpers(struct helper *helpers, size_t count)
{
	int64_t deadline = now_ms() + HELPER_DEADLINE_MS;
	for (;;) {
		struct pollfd watched[4];
		size_t running = 0;
		for (size_t i = 0; i < count; i++) {
			running += helpers[i].pid != 0;
			watched[2 * i] = (struct pollfd){helpers[i].handle, POLLIN, 0};
			watched[2 * i + 1] = (struct pollfd){helpers[i].output, POLLIN, 0};
		}
		int64_t left = deadline - now_ms();
		if (!running)
			return 0;
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		int ready = poll(watched, (nfds_t)(2 * count), (int)left);
		if (ready < 0 && errno != EINTR)
			return -1;
		for (size_t i = 0; ready > 0 && i < count; i++) {
			if (watched[2 * i + 1].revents)
				read_words(&helpers[i]);
			if (watched[2 * i].revents)
				reap(&helpers[i]);
		}
	}
}

/* Their real user id is still ours, so they can be killed although they run as root. */
static void end_helper(struct helper *helper)
{
	close_fd(&helper->file);
	if (helper->pid && kill(helper->pid, SIGKILL) == 0)
		reap(helper);
	close_fd(&helper->output);
	close_fd(&helper->handle);
}

/* One line of printable text: shadow's helpers end theirs with a newline. */
static void tidy_words(struct helper *helper)
{
	char *words = helper->words;
	size_t length = helper->length;
	while (length && (words[length - 1] == '\n' || words[length - 1] == ' '))
		words[--length] = '\0';
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)words[i] < ' ' || words[i] == 127)
			words[i] = ' ';
}

static int judge_helper(struct helper *helper, struct idmap_error *err)
{
	int status = helper->status;
	char why[64];
	struct text to = {why, sizeof why - 1};
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXEC_FAILED &&
	    helper->length == 1 + sizeof(int) && helper->words[0] == EXEC_MARK) {
		int error;
		memcpy(&error, helper->words + 1, sizeof error);
		return fail_helper(helper, error, "cannot be executed", err);
	}
	tidy_words(helper);
	if (helper->words[0])
		return fail(err, EPERM, helper->stage, helper->words);
	put(&to, WIFSIGNALED(status) ? "killed by signal " : "ended with status ");
	put_u32(&to, (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	return fail_helper(helper, EPERM, why, err);
}

static int run_helpers(struct helper *helpers, size_t count, pid_t pid, struct idmap_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (open_helper(&helpers[i], err) < 0)
			return -1;
	for (size_t i = 0; i < count; i++)
		if (start_helper(&helpers[i], pid, err) < 0)
			return -1;
	if (wait_helpers(helpers, count) < 0) {
		const struct helper *late = &helpers[helpers[0].pid ? 0 : count - 1];
		return fail_helper(late, errno, errno == ETIMEDOUT ? "no answer in 10 s" : "", err);
	}
	for (size_t i = 0; i < count; i++)
		if (judge_helper(&helpers[i], err) < 0)
			return -1;
	return 0;
}

int idmap_run_helpers(const char *newuidmap, const char *newgidmap, pid_t pid, int pidfd,
		      const struct idmap *uids, const struct idmap *gids, struct idmap_error *err)
{
	static struct helper helpers[2];
	size_t count = 0;
	memset(err, 0, sizeof *err);
	memset(helpers, 0, sizeof helpers);
	for (size_t i = 0; i < 2; i++)
		helpers[i].file = helpers[i].output = helpers[i].handle = -1;
	if (newuidmap && is_wanted(uids)) {
		helpers[count].stage = "newuidmap";
		helpers[count].path = newuidmap;
		helpers[count++].map = uids;
	}
	if (newgidmap && is_wanted(gids)) {
		helpers[count].stage = "newgidmap";
		helpers[count].path = newgidmap;
		helpers[count++].map = gids;
	}
	int proc = open_proc(-1, err);
	if (proc < 0)
		return -1;
	int result = check_child(proc, pid, pidfd, err);
	if (result == 0)
		result = run_helpers(helpers, count, pid, err);
	for (size_t i = 0; i < count; i++)
		end_helper(&helpers[i]);
	/* The helpers looked the pid up by number: it counts only if our child still has it. */
	if (result == 0)
		result = check_child(proc, pid, pidfd, err);
	close(proc);
	return result;
}
