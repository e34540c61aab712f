/* sbx-idmap: run a command as root of a fresh user namespace with the given id maps.
 *
 *     sbx-idmap [--uid IN:OUT:COUNT]... [--gid IN:OUT:COUNT]... [--helpers | --direct]
 *               [--newuidmap PATH] [--newgidmap PATH] [--deny-setgroups] [--parent PID]
 *               -- COMMAND ARG...
 *
 * Without --helpers or --direct, the maps are written directly where the kernel allows it. With
 * --parent, it ends when that process, its parent, ends.
 *
 * Stages: parse (plain user), clone (the child waits on a pipe with a pidfd held here), map (this
 * process, directly or through the helpers), enter (the child takes id 0 of the namespace), exec
 * (fixed environment), wait (this process forwards signals). The child dies with this process.
 *
 * Exit status: the command's, 128+n for signal n, 125 for failures of its own, with one line.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../launcher/sys.h"
#include "idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_SETUP 125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND 127

enum method { METHOD_AUTO, METHOD_HELPERS, METHOD_DIRECT };

struct list {
	struct idmap_extent extents[IDMAP_MAX_EXTENTS];
	uint32_t count;
};

struct options {
	struct list uids, gids;
	enum method method;
	int deny_setgroups;
	const char *newuidmap, *newgidmap;
	uint32_t parent; /* 0: whoever it is */
	char **command;
};

static int complain(const char *object, const char *why)
{
	fprintf(stderr, "sbx-idmap: %s: %s\n", object, why);
	return -1;
}

/* ---- parse ---- */

static int parse_number(const char **at, char end, uint32_t *value)
{
	uint64_t number = 0;
	const char *start = *at;
	for (; **at >= '0' && **at <= '9'; ++*at) {
		number = number * 10 + (uint64_t)(**at - '0');
		if (number > UINT32_MAX)
			return -1;
	}
	if (*at == start || **at != end)
		return -1;
	*at += end != '\0';
	*value = (uint32_t)number;
	return 0;
}

static int parse_extent(struct list *list, const char *text)
{
	struct idmap_extent extent;
	const char *at = text;
	if (list->count == IDMAP_MAX_EXTENTS)
		return complain(text, "more than 340 extents");
	if (parse_number(&at, ':', &extent.inside) < 0 ||
	    parse_number(&at, ':', &extent.outside) < 0 ||
	    parse_number(&at, '\0', &extent.count) < 0 || extent.count == 0)
		return complain(text, "expected INSIDE:OUTSIDE:COUNT");
	list->extents[list->count++] = extent;
	return 0;
}

static int parse_valued(struct options *options, const char *name, const char *value)
{
	if (!strcmp(name, "--uid"))
		return parse_extent(&options->uids, value);
	if (!strcmp(name, "--gid"))
		return parse_extent(&options->gids, value);
	if (!strcmp(name, "--parent"))
		return parse_number(&value, '\0', &options->parent) < 0
			   ? complain(value, "expected a process id")
			   : 0;
	if (!strcmp(name, "--newuidmap"))
		options->newuidmap = value;
	else if (!strcmp(name, "--newgidmap"))
		options->newgidmap = value;
	else
		return complain(name, "unknown option");
	return 0;
}

static int parse_options(struct options *options, char **argv)
{
	for (char **at = argv + 1; *at; at++) {
		if (!strcmp(*at, "--")) {
			options->command = at + 1;
			break;
		}
		if (!strcmp(*at, "--helpers"))
			options->method = METHOD_HELPERS;
		else if (!strcmp(*at, "--direct"))
			options->method = METHOD_DIRECT;
		else if (!strcmp(*at, "--deny-setgroups"))
			options->deny_setgroups = 1;
		else if (!at[1])
			return complain(*at, "unknown option, or its value is missing");
		else if (parse_valued(options, at[0], at[1]) < 0)
			return -1;
		else
			at++;
	}
	if (!options->command || !*options->command)
		return complain("command", "expected -- COMMAND [ARG...]");
	if (!options->uids.count || !options->gids.count)
		return complain("map", "expected at least one --uid and one --gid");
	return 0;
}

/* ---- lifetime ---- */

/* The signal is lost when the parent dies before the call, hence the look at it afterwards. */
static int die_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return complain("prctl", strerror(errno));
	return getppid() == parent ? 0 : complain("parent", "has ended");
}

/* Signals for the command are taken by sigwaitinfo and passed on. */
static void block_signals(sigset_t *watched, sigset_t *before)
{
	static const int forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	/* An ignored SIGCHLD, inherited over exec, would reap the child behind our back. */
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(watched);
	sigaddset(watched, SIGCHLD);
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
		sigaddset(watched, forwarded[i]);
	sigprocmask(SIG_BLOCK, watched, before);
}

/* ---- map ---- */

static int is_only(const struct list *list, uint32_t id)
{
	return list->count == 1 && list->extents[0].count == 1 && list->extents[0].outside == id;
}

/* A namespace inherits it, and nobody there can set groups: user_namespaces(7). */
static int is_denied_here(void)
{
	char word[8] = "";
	int file = open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, word, sizeof(word) - 1);
	if (file >= 0)
		close(file);
	return length > 0 && !strncmp(word, "deny", 4);
}

/* Without rights, the kernel takes a map of just the caller's own id, once setgroups is denied. */
static void choose_method(struct options *options)
{
	if (options->method != METHOD_AUTO)
		return;
	options->method = METHOD_HELPERS;
	if (geteuid() == 0) {
		options->method = METHOD_DIRECT;
		options->deny_setgroups |= is_denied_here();
	} else if (is_only(&options->uids, geteuid()) && is_only(&options->gids, getegid())) {
		options->method = METHOD_DIRECT;
		options->deny_setgroups = 1;
	}
}

static int install_maps(const struct options *options, pid_t child, int pidfd)
{
	struct idmap_error err;
	const struct idmap uids = {options->uids.extents, options->uids.count};
	const struct idmap gids = {options->gids.extents, options->gids.count};
	const struct idmap none = {NULL, 0};
	int result = 0;
	if (options->method == METHOD_DIRECT) {
		result = idmap_write_direct(-1, child, pidfd, &uids, &gids, options->deny_setgroups,
					    &err);
	} else {
		if (options->deny_setgroups)
			result = idmap_write_direct(-1, child, pidfd, &none, &none, 1, &err);
		if (result == 0)
			result = idmap_run_helpers(options->newuidmap, options->newgidmap, child,
						   pidfd, &uids, &gids, &err);
	}
	if (result == 0)
		return 0;
	/* newuidmap already begins its words with its own name. */
	if (!strncmp(err.text, err.stage, strlen(err.stage)))
		fprintf(stderr, "sbx-idmap: %s\n", err.text);
	else
		fprintf(stderr, "sbx-idmap: %s: %s: %s\n", err.stage, err.text,
			strerror(err.error));
	return -1;
}

/* ---- enter, exec (in the child) ---- */

static int holds_zero(const struct list *list)
{
	for (uint32_t i = 0; i < list->count; i++)
		if (list->extents[i].inside == 0)
			return 1;
	return 0;
}

static int enter(const struct options *options)
{
	if (!options->deny_setgroups && setgroups(0, NULL) < 0)
		return complain("setgroups", strerror(errno));
	if (holds_zero(&options->gids) && setresgid(0, 0, 0) < 0)
		return complain("setresgid", strerror(errno));
	if (holds_zero(&options->uids) && setresuid(0, 0, 0) < 0)
		return complain("setresuid", strerror(errno));
	return 0;
}

static _Noreturn void run_child(const struct options *options, int go, pid_t parent,
				const sigset_t *mask)
{
	static char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C.UTF-8";
	static char *environment[] = {path, locale, NULL};
	char byte;
	if (die_with(parent) < 0 || read(go, &byte, 1) != 1)
		_exit(EXIT_SETUP);
	/* A change of ids clears the parent-death signal: ask for it again. */
	if (enter(options) < 0 || die_with(parent) < 0)
		_exit(EXIT_SETUP);
	sigprocmask(SIG_SETMASK, mask, NULL);
	syscall(SYS_close_range, 3U, ~0U, 0U);
	environ = environment; /* execvp looks the command up in this PATH */
	execvp(options->command[0], options->command);
	int error = errno;
	complain(options->command[0], strerror(error));
	_exit(error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

/* ---- clone, wait ---- */

/* As owner of the namespace this process may signal the child whatever its ids are. */
static int wait_child(pid_t child, int pidfd, const sigset_t *watched)
{
	int status;
	for (;;) {
		int signal_number = sigwaitinfo(watched, NULL);
		if (signal_number > 0 && signal_number != SIGCHLD)
			syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0);
		pid_t done = waitpid(child, &status, WNOHANG);
		if (done == child)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (done < 0)
			return EXIT_SETUP;
	}
}

static int run(const struct options *options, const sigset_t *watched, const sigset_t *before)
{
	int go[2], pidfd = -1;
	pid_t self = getpid();
	if (pipe2(go, O_CLOEXEC) < 0) {
		complain("pipe", strerror(errno));
		return EXIT_SETUP;
	}
	pid_t child = sys_clone(CLONE_NEWUSER, &pidfd);
	if (child < 0) {
		complain("cannot create a user namespace", strerror(errno));
		return EXIT_SETUP;
	}
	if (child == 0) {
		close(go[1]);
		run_child(options, go[0], self, before);
	}
	close(go[0]);
	if (install_maps(options, child, pidfd) < 0 || write(go[1], "", 1) != 1) {
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		waitpid(child, NULL, 0);
		return EXIT_SETUP;
	}
	close(go[1]);
	return wait_child(child, pidfd, watched);
}

int main(int argc, char **argv)
{
	static struct options options;
	sigset_t watched, before;
	options.newuidmap = "/usr/bin/newuidmap";
	options.newgidmap = "/usr/bin/newgidmap";
	if (argc < 1 || parse_options(&options, argv) < 0)
		return EXIT_SETUP;
	if (options.parent && die_with((pid_t)options.parent) < 0)
		return EXIT_SETUP;
	choose_method(&options);
	block_signals(&watched, &before);
	return run(&options, &watched, &before);
}
