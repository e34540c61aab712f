/* What the code inside can reach. Runs as the payload and prints one line per check:
 *
 *   NAME: ok
 *   NAME: LEAK DETAIL
 *
 * and "end" at last, so that a probe that died is told from one that found nothing. It knows no
 * policy: it wants what the strictest one promises, and the tests say which leaks others allow.
 * Calls get arguments that do no harm when nothing stops them; "reached" means that the kernel's
 * own code has looked at them.
 *
 * Options: --abstract NAME, --port N, --shm KEY, --mqueue NAME, --key NAME (things of the host that
 * must not be there), --host-path TEXT (must not stand in mountinfo), --ids (print the ids and
 * leave), --list FOLDER (print what is in it and leave). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BAD ((long)1) /* a pointer that faults */
#define HIGH (1UL << 32)
#define CALL_DEADLINE_S 5
#define MAX_UPTIME_S 120

extern char **environ;

struct options {
	const char *abstract, *mqueue, *host_path, *key;
	int port, shm_key;
};
static struct options options;

static char detail[512];

static const char *leak(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *leak(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	for (char *c = detail; *c; c++)
		if ((unsigned char)*c < 32 || (unsigned char)*c > 126)
			*c = '?';
	return detail;
}

static ssize_t read_text(const char *path, char *into, size_t room)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, into, room - 1);
	int error = errno;
	if (fd >= 0)
		close(fd);
	into[n > 0 ? n : 0] = 0;
	errno = error;
	return n;
}

/* ---- system calls that must be refused ---------------------------------------------------- */

static int refusal(int error)
{
	return error == EPERM || error == ENOSYS || error == EACCES || error == EAFNOSUPPORT;
}

/* In a child, so that a kill by the filter or a success harms nobody. The child leaves with 0
 * when refused, else with 1 + errno. */
static int status_of(long (*call)(const long *), const long *args)
{
	pid_t pid = fork();
	if (pid == 0) {
		alarm(CALL_DEADLINE_S);
		errno = 0;
		long result = call(args);
		_exit(result < 0 && refusal(errno) ? 0 : 1 + (result < 0 ? errno : 0));
	}
	int status = 0;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static const char *judge(const char *what, int status)
{
	if (status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS))
		return NULL;
	if (!WIFEXITED(status))
		return leak("%s: ended with status %d", what, status);
	int error = WEXITSTATUS(status) - 1;
	return error ? leak("%s: reached: %s", what, strerror(error)) : leak("%s: succeeded", what);
}

static long native(const long *a)
{
	return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

struct call {
	const char *name;
	long args[7];
};

/* Numbers of x86-64; from 424 on they are the same everywhere. */
static const struct call calls[] = {
	{ "mount", { 165, BAD, BAD, BAD, 0, BAD, 0 } },
	{ "umount2", { 166, BAD, 0, 0, 0, 0, 0 } },
	{ "pivot_root", { 155, BAD, BAD, 0, 0, 0, 0 } },
	{ "chroot", { 161, BAD, 0, 0, 0, 0, 0 } },
	{ "fsopen", { 430, BAD, 0, 0, 0, 0, 0 } },
	{ "fsconfig", { 431, -1, 99, 0, 0, 0, 0 } },
	{ "fsmount", { 432, -1, 0, 0, 0, 0, 0 } },
	{ "fspick", { 433, -1, BAD, 0, 0, 0, 0 } },
	{ "open_tree", { 428, -1, BAD, 0, 0, 0, 0 } },
	{ "open_tree_attr", { 467, -1, BAD, 0, BAD, 32, 0 } },
	{ "move_mount", { 429, -1, BAD, -1, BAD, 0, 0 } },
	{ "mount_setattr", { 442, -1, BAD, 0, BAD, 32, 0 } },
	{ "setns", { 308, -1, 0, 0, 0, 0, 0 } },
	{ "sethostname", { 170, BAD, 1, 0, 0, 0, 0 } },
	{ "setdomainname", { 171, BAD, 1, 0, 0, 0, 0 } },
	{ "bpf", { 321, 0, BAD, 8, 0, 0, 0 } },
	{ "perf_event_open", { 298, BAD, 0, -1, -1, 0, 0 } },
	{ "userfaultfd", { 323, 1, 0, 0, 0, 0, 0 } },
	{ "io_uring_setup", { 425, 1, BAD, 0, 0, 0, 0 } },
	{ "io_uring_enter", { 426, -1, 0, 0, 0, 0, 0 } },
	{ "io_uring_register", { 427, -1, 0, 0, 0, 0, 0 } },
	{ "open_by_handle_at", { 304, -1, BAD, 0, 0, 0, 0 } },
	{ "kexec_load", { 246, 0, 99, BAD, 0, 0, 0 } },
	{ "kexec_file_load", { 320, -1, -1, 0, BAD, 0, 0 } },
	{ "init_module", { 175, BAD, 1, BAD, 0, 0, 0 } },
	{ "finit_module", { 313, -1, BAD, 0, 0, 0, 0 } },
	{ "delete_module", { 176, BAD, 0, 0, 0, 0, 0 } },
	{ "swapon", { 167, BAD, 0, 0, 0, 0, 0 } },
	{ "swapoff", { 168, BAD, 0, 0, 0, 0, 0 } },
	{ "reboot", { 169, 0, 0, 0, 0, 0, 0 } },
	{ "settimeofday", { 164, BAD, 0, 0, 0, 0, 0 } },
	{ "clock_settime", { 227, 0, BAD, 0, 0, 0, 0 } },
	{ "adjtimex", { 159, BAD, 0, 0, 0, 0, 0 } },
	{ "clock_adjtime", { 305, 0, BAD, 0, 0, 0, 0 } },
	{ "acct", { 163, BAD, 0, 0, 0, 0, 0 } },
	{ "quotactl", { 179, 0, BAD, 0, BAD, 0, 0 } },
	{ "quotactl_fd", { 443, -1, 0, 0, 0, 0, 0 } },
	{ "syslog", { 103, 3, BAD, 1, 0, 0, 0 } },
	{ "vhangup", { 153, 0, 0, 0, 0, 0, 0 } },
	{ "iopl", { 172, 9, 0, 0, 0, 0, 0 } },
	{ "ioperm", { 173, -1, 1, 0, 0, 0, 0 } },
	{ "ustat", { 136, 0, BAD, 0, 0, 0, 0 } },
	{ "sysfs", { 139, 99, 0, 0, 0, 0, 0 } },
	{ "add_key", { 248, BAD, BAD, BAD, 0, 0, 0 } },
	{ "request_key", { 249, BAD, BAD, 0, 0, 0, 0 } },
	{ "keyctl", { 250, 0, -3, 0, 0, 0, 0 } },
	{ "process_vm_readv", { 310, 1, BAD, 1, BAD, 1, 0 } },
	{ "process_vm_writev", { 311, 1, BAD, 1, BAD, 1, 0 } },
	{ "process_madvise", { 440, -1, BAD, 1, 0, 0, 0 } },
	{ "pidfd_getfd", { 438, -1, 0, 0, 0, 0, 0 } },
	{ "kcmp", { 312, 0, 0, 99, 0, 0, 0 } },
	{ "mbind", { 237, 1, 1, 0, 0, 0, 0 } },
	{ "set_mempolicy", { 238, 99, 0, 0, 0, 0, 0 } },
	{ "get_mempolicy", { 239, BAD, 0, 0, 0, 0, 0 } },
	{ "migrate_pages", { 256, 0, 64, BAD, BAD, 0, 0 } },
	{ "move_pages", { 279, 0, 1, BAD, 0, BAD, 0 } },
	{ "set_mempolicy_home_node", { 450, 1, 1, 0, 0, 0, 0 } },
	{ "fanotify_init", { 300, 0x80000000L, 0, 0, 0, 0, 0 } },
	{ "ptrace", { 101, PTRACE_TRACEME, 0, 0, 0, 0, 0 } },
	{ "personality", { 135, 0x0040000, 0, 0, 0, 0, 0 } },
	{ "modify_ldt", { 154, 0, BAD, 16, 0, 0, 0 } },
	{ "memfd_secret", { 447, 0xff00, 0, 0, 0, 0, 0 } },
	{ "name_to_handle_at", { 303, -1, BAD, BAD, BAD, 0, 0 } },
	{ "vmsplice", { 278, -1, BAD, 1, 0, 0, 0 } },
	{ "remap_file_pages", { 216, 1, 4096, 1, 0, 0, 0 } },
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Under another ABI the process must die, whatever it asks for: an answer of any kind, and be it
 * ENOSYS, would come from the kernel's own table. Without the gate it dies of SIGSEGV. */
#ifdef __x86_64__
static const char *want_death(const char *name, int status)
{
	if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV))
		return NULL;
	return leak("%s: answered, status %x", name, status);
}

static long through_int80(const long *a)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(a[0]), "b"(a[1]), "c"(a[2]), "d"(a[3])
			 : "memory", "r8", "r9", "r10", "r11");
	errno = result < 0 ? (int)-result : 0;
	return result < 0 ? -1 : result;
}
#endif

static const char *check_x32(void)
{
	const char *found = NULL;
#ifdef __x86_64__
	for (size_t i = 0; !found && i < COUNT(calls); i++) {
		struct call x32 = calls[i];
		x32.args[0] |= 0x40000000;
		found = want_death(x32.name, status_of(native, x32.args));
	}
#endif
	return found;
}

/* Numbers of i386; from 424 on they are those of the table above. Descriptors are -1, pointers
 * fault: what is answered does no harm. */
static const char *check_int80(void)
{
	const char *found = NULL;
#ifdef __x86_64__
	static const struct {
		const char *name;
		long number;
	} old[] = {
		{ "getpid", 20 },	       { "mount", 21 },		   { "umount", 22 },
		{ "umount2", 52 },	       { "pivot_root", 217 },	   { "chroot", 61 },
		{ "setns", 346 },	       { "sethostname", 74 },	   { "setdomainname", 121 },
		{ "bpf", 357 },		       { "perf_event_open", 336 }, { "userfaultfd", 374 },
		{ "open_by_handle_at", 342 },  { "kexec_load", 283 },	   { "init_module", 128 },
		{ "finit_module", 350 },       { "delete_module", 129 },   { "swapon", 87 },
		{ "swapoff", 115 },	       { "reboot", 88 },	   { "settimeofday", 79 },
		{ "clock_settime", 264 },      { "clock_settime64", 404 }, { "adjtimex", 124 },
		{ "clock_adjtime", 343 },      { "acct", 51 },		   { "quotactl", 131 },
		{ "syslog", 103 },	       { "vhangup", 111 },	   { "iopl", 110 },
		{ "ioperm", 101 },	       { "ustat", 62 },		   { "sysfs", 135 },
		{ "add_key", 286 },	       { "request_key", 287 },	   { "keyctl", 288 },
		{ "process_vm_readv", 347 },   { "process_vm_writev", 348 }, { "kcmp", 349 },
		{ "mbind", 274 },	       { "get_mempolicy", 275 },   { "set_mempolicy", 276 },
		{ "migrate_pages", 294 },      { "move_pages", 317 },	   { "fanotify_init", 338 },
		{ "ptrace", 26 },	       { "personality", 136 },	   { "modify_ldt", 123 },
		{ "name_to_handle_at", 341 },  { "vmsplice", 316 },	   { "remap_file_pages", 257 },
		{ "unshare", 310 },	       { "socketcall", 102 },	   { "socket", 359 },
		{ "prlimit64", 340 },
	};
	for (size_t i = 0; !found && i < COUNT(old); i++) {
		const long args[7] = { old[i].number, -1, BAD, BAD, 0, 0, 0 };
		found = want_death(old[i].name, status_of(through_int80, args));
	}
	for (size_t i = 0; !found && i < COUNT(calls); i++)
		if (calls[i].args[0] >= 424)
			found = want_death(calls[i].name, status_of(through_int80, calls[i].args));
#endif
	return found;
}

/* ---- namespaces ----------------------------------------------------------------------------- */

static const struct {
	const char *name;
	long flag;
} spaces[] = { { "user", CLONE_NEWUSER }, { "mount", CLONE_NEWNS },	{ "pid", CLONE_NEWPID },
	       { "net", CLONE_NEWNET },	  { "ipc", CLONE_NEWIPC },	{ "uts", CLONE_NEWUTS },
	       { "cgroup", 0x02000000 },  { "user+mount", CLONE_NEWUSER | CLONE_NEWNS } };

/* A call that may not come back refused shows as "succeeded". ENOSPC is the count of namespaces
 * that ran out: nothing was made. */
static const char *try_spaces(long (*call)(const long *), unsigned long more)
{
	for (size_t i = 0; i < COUNT(spaces); i++) {
		long args[7] = { (long)((unsigned long)spaces[i].flag | more), 0, 0, 0, 0, 0, 0 };
		int status = status_of(call, args);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 1 + ENOSPC)
			continue;
		const char *found = judge(spaces[i].name, status);
		if (found)
			return found;
	}
	return NULL;
}

static long do_unshare(const long *a)
{
	return syscall(SYS_unshare, a[0]);
}

static long do_clone(const long *a)
{
	long pid = syscall(SYS_clone, a[0] | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid((pid_t)pid, NULL, 0);
	return pid;
}

static long do_clone3(const long *a)
{
	uint64_t args[11] = { (uint64_t)a[0] & 0xffffffffU, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0 };
	long pid = syscall(435, args, sizeof(args));
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid((pid_t)pid, NULL, 0);
	return pid;
}

static const char *check_unshare(void)
{
	return try_spaces(do_unshare, 0);
}

static const char *check_unshare_high(void)
{
	return try_spaces(do_unshare, HIGH);
}

static const char *check_unshare_time(void)
{
	long args[7] = { 0x80, 0, 0, 0, 0, 0, 0 };
	return judge("time", status_of(do_unshare, args));
}

static const char *check_clone(void)
{
	return try_spaces(do_clone, 0);
}

static const char *check_clone_high(void)
{
	return try_spaces(do_clone, 1UL << 40);
}

static const char *check_clone3(void)
{
	return try_spaces(do_clone3, 0);
}

/* Into the init's namespaces: by its files, and by a pidfd with every flag. */
static long join_init(const long *a)
{
	static const char *const names[] = { "mnt", "net", "pid", "ipc", "uts", "user", "cgroup" };
	char path[64];
	if (a[0]) {
		int pidfd = (int)syscall(434, 1, 0);
		return syscall(SYS_setns, pidfd, a[1]);
	}
	snprintf(path, sizeof(path), "/proc/1/ns/%s", names[a[1]]);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 && errno == ENOENT ? (errno = EPERM, -1) : fd < 0 ? -1 : syscall(SYS_setns, fd, 0);
}

static const char *check_setns_init(void)
{
	for (long i = 0; i < 7; i++) {
		const long by_name[7] = { 0, i, 0, 0, 0, 0, 0 };
		const char *found = judge("by name", status_of(join_init, by_name));
		if (found)
			return found;
	}
	for (size_t i = 0; i < COUNT(spaces); i++) {
		const long by_pidfd[7] = { 1, spaces[i].flag, 0, 0, 0, 0, 0 };
		const char *found = judge(spaces[i].name, status_of(join_init, by_pidfd));
		if (found)
			return found;
	}
	return NULL;
}

/* nsfs: the owner and the parent of a namespace lie outside of ours. */
static const char *check_namespace_parents(void)
{
	static const struct {
		const char *path;
		int request;
	} asked[] = { { "/proc/self/ns/mnt", 0xb701 },
		      { "/proc/self/ns/net", 0xb701 },
		      { "/proc/self/ns/user", 0xb702 },
		      { "/proc/self/ns/pid", 0xb702 } };
	for (size_t i = 0; i < COUNT(asked); i++) {
		int fd = open(asked[i].path, O_RDONLY | O_CLOEXEC);
		int found = fd < 0 ? -1 : ioctl(fd, asked[i].request);
		if (found >= 0)
			return leak("%s %x", asked[i].path, (unsigned)asked[i].request);
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

/* ---- what is handed in ---------------------------------------------------------------------- */

static const char *check_descriptors(void)
{
	char link[64], target[256];
	for (int fd = 3; fd < 4096; fd++) {
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		return leak("%d is %s", fd, target);
	}
	return NULL;
}

/* A log file or a socket as standard stream could be reopened, or carry descriptors. */
static const char *check_streams(void)
{
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;
		if (fstat(fd, &st) == 0 && !S_ISFIFO(st.st_mode) && !isatty(fd))
			return leak("%d has mode %o", fd, st.st_mode);
	}
	return NULL;
}

static const char *check_cwd(void)
{
	char now[4096] = "";
	long n = syscall(SYS_getcwd, now, sizeof(now));
	return n > 0 && now[0] == '/' && strlen(now) < 2 ? NULL : leak("%s", now);
}

static const char *check_ids(void)
{
	uid_t r, e, s;
	gid_t g, h, i;
	getresuid(&r, &e, &s);
	getresgid(&g, &h, &i);
	if (r != e || e != s || g != h || h != i)
		return leak("%u %u %u, %u %u %u", r, e, s, g, h, i);
	return r == 0 || g == 0 || r == 65534 || g == 65534 ? leak("%u:%u", r, g) : NULL;
}

static const char *check_setuid(void)
{
	return setuid(0) == 0 ? leak("became user 0") : NULL;
}

static const char *check_setgroups(void)
{
	return setgroups(0, NULL) == 0 ? leak("groups dropped") : NULL;
}

static const char *check_groups(void)
{
	gid_t groups[256];
	int n = getgroups(256, groups);
	for (int i = 0; i < n; i++)
		if (groups[i] != getgid())
			return leak("group %u", groups[i]);
	return NULL;
}

static const char *status_field(const char *name, char *value, size_t room)
{
	static char text[8192];
	read_text("/proc/self/status", text, sizeof(text));
	char *at = strstr(text, name);
	snprintf(value, room, "%s", at ? at + strlen(name) + 2 : "unknown");
	value[strcspn(value, "\n")] = 0;
	return value;
}

static const char *want_status(const char *name, const char *wanted)
{
	char value[64];
	return strcmp(status_field(name, value, sizeof(value)), wanted) ? leak("%s", value) : NULL;
}

#define ZERO "0000000000000000"
static const char *check_cap_inheritable(void)
{
	return want_status("CapInh", ZERO);
}

static const char *check_cap_permitted(void)
{
	return want_status("CapPrm", ZERO);
}

static const char *check_cap_effective(void)
{
	return want_status("CapEff", ZERO);
}

static const char *check_cap_bounding(void)
{
	return want_status("CapBnd", ZERO);
}

static const char *check_cap_ambient(void)
{
	return want_status("CapAmb", ZERO);
}

static const char *check_no_new_privs(void)
{
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? NULL : leak("off");
}

static const char *check_seccomp(void)
{
	return want_status("Seccomp", "2");
}

static const char *check_signals_blocked(void)
{
	return want_status("SigBlk", ZERO);
}

static const char *check_signals_ignored(void)
{
	return want_status("SigIgn", ZERO);
}

static const char *check_umask(void)
{
	mode_t mask = umask(022);
	return mask == 022 ? NULL : leak("%03o", mask);
}

/* A session of outside the pid namespace has the number 0 in here. */
static const char *check_session(void)
{
	return getsid(0) > 0 && getpgrp() > 0 ? NULL : leak("session %d, group %d", getsid(0), getpgrp());
}

static const char *check_terminal(void)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	return fd < 0 ? NULL : leak("/dev/tty opens");
}

static const char *check_environment(void)
{
	static const char *const known[] = { "PATH=", "HOME=",	  "LANG=",    "TERM=",
					     "USER=", "LOGNAME=", "SHELL=" };
	for (char **at = environ; *at; at++) {
		size_t i = 0;
		while (i < COUNT(known) && strncmp(*at, known[i], strlen(known[i])) != 0)
			i++;
		if (i == COUNT(known))
			return leak("%s", *at);
	}
	return NULL;
}

static const char *check_oom_score(void)
{
	char text[32];
	read_text("/proc/self/oom_score_adj", text, sizeof(text));
	return atoi(text) >= 500 ? NULL : leak("%s", text);
}

static const char *check_oom_score_lower(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	int lowered = fd >= 0 && write(fd, "0", 1) == 1;
	if (lowered && write(fd, "500", 3) < 0)
		lowered = 2;
	if (fd >= 0)
		close(fd);
	return lowered ? leak("lowered to 0") : NULL;
}

/* ---- terminals and ioctl numbers -------------------------------------------------------------- */

static long do_ioctl(const long *a)
{
	return syscall(SYS_ioctl, 0, a[0], a[1]);
}

static const char *try_ioctl(unsigned long request)
{
	long args[7] = { (long)request, (long)(uintptr_t) "\3", 0, 0, 0, 0, 0 };
	return judge("ioctl", status_of(do_ioctl, args));
}

static const char *check_tiocsti(void)
{
	return try_ioctl(0x5412);
}

static const char *check_tiocsti_high(void)
{
	return try_ioctl(0x5412 | HIGH);
}

static const char *check_tioclinux(void)
{
	return try_ioctl(0x541c);
}

static const char *check_tioclinux_high(void)
{
	return try_ioctl(0x541c | HIGH);
}

/* ---- sockets ------------------------------------------------------------------------------------ */

static long do_socket(const long *a)
{
	return syscall(SYS_socket, a[0], a[1], a[2]);
}

static const struct call sockets[] = {
	{ "socket_packet", { AF_PACKET, SOCK_DGRAM, 0, 0, 0, 0, 0 } },
	{ "socket_raw", { AF_INET, SOCK_RAW, 99, 0, 0, 0, 0 } },
	{ "socket_raw6", { AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58, 0, 0, 0, 0 } },
	{ "socket_raw_high", { AF_INET, (long)(SOCK_RAW | HIGH), 1, 0, 0, 0, 0 } },
	{ "socket_vsock", { 40, SOCK_STREAM, 0, 0, 0, 0, 0 } },
	{ "socket_vsock_high", { (long)(40 | HIGH), SOCK_STREAM, 0, 0, 0, 0, 0 } },
	{ "socket_alg", { 38, SOCK_SEQPACKET, 0, 0, 0, 0, 0 } },
	{ "socket_netlink", { AF_NETLINK, SOCK_DGRAM, 0, 0, 0, 0, 0 } },
	{ "socket_key", { 15, SOCK_RAW, 2, 0, 0, 0, 0 } },
	{ "socket_xdp", { 44, SOCK_RAW, 0, 0, 0, 0, 0 } },
	{ "socket_bluetooth", { 31, SOCK_RAW, 0, 0, 0, 0, 0 } },
	{ "socket_tipc", { 30, SOCK_STREAM, 0, 0, 0, 0, 0 } },
	{ "socket_smc", { 43, SOCK_STREAM, 0, 0, 0, 0, 0 } },
	{ "socket_can", { 29, SOCK_RAW, 1, 0, 0, 0, 0 } },
};

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

/* Nobody listens on port 1: an answer of any kind means that packets travel. */
static const char *judge_network(int result)
{
	if (result < 0 && (refusal(errno) || errno == ENETUNREACH || errno == EADDRNOTAVAIL ||
			   errno == EPROTONOSUPPORT || errno == EOPNOTSUPP))
		return NULL;
	return result < 0 ? leak("%s", strerror(errno)) : leak("succeeded");
}

static const char *try_connect(int protocol, int port)
{
	struct sockaddr_in to = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol);
	const char *found =
		judge_network(fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, sizeof(to)));
	close(fd);
	return found;
}

static const char *check_tcp(void)
{
	return try_connect(0, 1);
}

static const char *check_mptcp(void)
{
	return try_connect(262, 1);
}

static const char *check_host_port(void)
{
	if (!options.port)
		return NULL;
	const char *found = try_connect(0, options.port);
	return found && strstr(found, "succeeded") ? found : NULL;
}

static const char *check_fastopen(void)
{
	struct sockaddr_in to = loopback(1);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *found = judge_network(
		fd < 0 ? -1
		       : (int)sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof(to)));
	close(fd);
	return found;
}

/* The connect that setsockopt puts off until the first write. */
static const char *check_fastopen_connect(void)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result = fd < 0 ? -1 : setsockopt(fd, 6, 30, &on, sizeof(on));
	close(fd);
	return result < 0 ? NULL : leak("TCP_FASTOPEN_CONNECT");
}

static const char *check_fastopen_message(void)
{
	struct sockaddr_in to = loopback(1);
	struct iovec data = { "x", 1 };
	struct mmsghdr message = { .msg_hdr = { .msg_name = &to,
						.msg_namelen = sizeof(to),
						.msg_iov = &data,
						.msg_iovlen = 1 } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *found =
		judge_network(fd < 0 ? -1 : (int)sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN));
	if (!found)
		found = judge_network(fd < 0 ? -1 : sendmmsg(fd, &message, 1, MSG_FASTOPEN));
	close(fd);
	return found;
}

static const char *check_tcp_bind(void)
{
	struct sockaddr_in at = loopback(0);
	at.sin_addr.s_addr = htonl(INADDR_ANY);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *found =
		judge_network(fd < 0 ? -1 : bind(fd, (struct sockaddr *)&at, sizeof(at)));
	close(fd);
	return found;
}

static const char *check_low_port(void)
{
	struct sockaddr_in at = loopback(80);
	at.sin_addr.s_addr = htonl(INADDR_ANY);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&at, sizeof(at));
	close(fd);
	return result < 0 ? NULL : leak("port 80 can be bound");
}

static const char *check_ping_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 1 /* ICMP */);
	close(fd);
	return fd < 0 ? NULL : leak("opens");
}

static const char *check_interfaces(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request;
	for (int i = 1; fd >= 0 && i < 64; i++) {
		memset(&request, 0, sizeof(request));
		request.ifr_ifindex = i;
		if (ioctl(fd, SIOCGIFNAME, &request) == 0 && strcmp(request.ifr_name, "lo") != 0)
			return leak("%.16s", request.ifr_name);
	}
	close(fd);
	return NULL;
}

static const char *check_abstract_socket(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (!options.abstract)
		return NULL;
	size_t length = strlen(options.abstract);
	if (length >= sizeof(to.sun_path))
		return leak("name too long");
	memcpy(to.sun_path + 1, options.abstract, length);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
	int result = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, size);
	close(fd);
	return result < 0 ? NULL : leak("connected to the host's");
}

/* ---- the init and other processes ----------------------------------------------------------- */

static const char *try_link(const char *path)
{
	char target[256];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return NULL;
	target[n] = 0;
	return leak("%s", target);
}

static const char *try_read(const char *path)
{
	char text[256];
	ssize_t n = read_text(path, text, sizeof(text));
	return n > 0 ? leak("%s", text) : NULL;
}

static const char *check_init_exe(void)
{
	return try_link("/proc/1/exe");
}

static const char *check_init_root(void)
{
	return try_link("/proc/1/root");
}

static const char *check_init_cwd(void)
{
	return try_link("/proc/1/cwd");
}

static const char *check_init_environ(void)
{
	return try_read("/proc/1/environ");
}

static const char *check_init_cmdline(void)
{
	char text[4096];
	ssize_t n = read_text("/proc/1/cmdline", text, sizeof(text));
	return n <= 0 || (n == 5 && strcmp(text, "init") == 0) ? NULL : leak("%s", text);
}

static const char *check_init_mem(void)
{
	int fd = open("/proc/1/mem", O_RDONLY | O_CLOEXEC);
	return fd < 0 ? NULL : leak("opens");
}

static const char *check_init_files(void)
{
	static const char *const files[] = { "maps", "auxv",  "stack",   "syscall",
					     "io",   "wchan", "pagemap", "timers" };
	char path[64], text[64];
	for (size_t i = 0; i < COUNT(files); i++) {
		snprintf(path, sizeof(path), "/proc/1/%s", files[i]);
		if (read_text(path, text, sizeof(text)) > 0 && strcmp(text, "0") != 0)
			return leak("%s", path);
	}
	return NULL;
}

static int count_entries(const char *path, char *first, size_t room)
{
	DIR *folder = opendir(path);
	int n = 0;
	for (struct dirent *entry; folder && (entry = readdir(folder));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && n++ == 0)
			snprintf(first, room, "%s", entry->d_name);
	if (folder)
		closedir(folder);
	return n;
}

static const char *check_init_fd(void)
{
	char first[256] = "";
	int n = count_entries("/proc/1/fd", first, sizeof(first));
	return n ? leak("%d descriptors, %s first", n, first) : NULL;
}

static const char *check_init_namespaces(void)
{
	char first[256] = "";
	if (count_entries("/proc/1/ns", first, sizeof(first)))
		return leak("/proc/1/ns lists %s", first);
	/* pidfs ioctls PIDFD_GET_*_NAMESPACE, from Linux 6.11 on */
	int pidfd = (int)syscall(434, 1, 0);
	for (int i = 1; pidfd >= 0 && i <= 10; i++)
		if (ioctl(pidfd, 0xff00 + i) >= 0)
			return leak("namespace %d of the init through a pidfd", i);
	return NULL;
}

/* hidepid=invisible: not even its number. */
static const char *check_init_hidden(void)
{
	return access("/proc/1", F_OK) == 0 ? leak("/proc/1 shows") : NULL;
}

/* proc(5): the files of a process that is not dumpable belong to the host's root, and so some of
 * them cannot be written by whoever has the same user id. */
static const char *check_init_owner(void)
{
	struct stat st;
	static const char *const files[] = { "oom_score_adj", "comm",	    "coredump_filter",
					     "clear_refs",    "autogroup",  "loginuid",
					     "uid_map",	      "gid_map",    "projid_map",
					     "setgroups",     "sched",	    "timens_offsets" };
	char path[64];
	for (size_t i = 0; i < COUNT(files); i++) {
		snprintf(path, sizeof(path), "/proc/1/%s", files[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			return leak("%s can be written", path);
	}
	return stat("/proc/1/status", &st) == 0 && st.st_uid == getuid() ? leak("user %u", st.st_uid) : NULL;
}

/* CAP_KILL is all that it needs, and what it has may show in no other set. */
static const char *check_init_capabilities(void)
{
	static char text[8192];
	read_text("/proc/1/status", text, sizeof(text));
	char *at = strstr(text, "CapPrm:");
	unsigned long long held = at ? strtoull(at + 7, NULL, 16) : 0;
	return held & ~0x20ULL ? leak("%llx", held) : NULL;
}

/* Limits need only the same user id, no right to trace. */
static const char *check_init_limits(void)
{
	struct rlimit now;
	for (int i = 0; i < 16; i++)
		if (syscall(SYS_prlimit64, 1, i, NULL, &now) == 0 ||
		    syscall(SYS_prlimit64, HIGH | 1, i, NULL, &now) == 0)
			return leak("limit %d", i);
	return NULL;
}

/* A lease on a file makes those wait who open it outside, be it mounted read-only or not. */
static const char *check_leases(void)
{
	static const int commands[] = { 1024, 1040 }; /* F_SETLEASE, F_SETDELEG */
	char path[] = "/tmp/lease-XXXXXX";
	int made = mkstemp(path), file = open(path, O_RDONLY | O_CLOEXEC);
	if (made < 0 || file < 0)
		return leak("no file to lease: %s", strerror(errno));
	close(made);
	const char *found = NULL;
	for (int i = 0; i < 4 && !found; i++) {
		long command = i < 2 ? commands[i] : (long)(HIGH | (unsigned long)commands[i - 2]);
		if (syscall(SYS_fcntl, file, command, F_RDLCK) == 0 || errno != EPERM)
			found = leak("fcntl %ld", command & 0xffff);
	}
	close(file);
	unlink(path);
	return found;
}

/* Landlock's scope: signals go to processes of the same domain alone. */
static const char *check_init_signal(void)
{
	return kill(1, 0) == 0 ? leak("may be signalled") : NULL;
}

/* The child's end lets go of the init again. */
static long do_seize(const long *a)
{
	long result = ptrace((int)PTRACE_SEIZE, (pid_t)a[0], NULL, NULL);
	return result < 0 && errno == ESRCH ? (errno = EPERM, -1) : result;
}

static const char *check_init_ptrace(void)
{
	long args[7] = { 1, 0, 0, 0, 0, 0, 0 };
	return judge("seize", status_of(do_seize, args));
}

static const char *check_init_memory(void)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };
	long n = syscall(310, 1, &here, 1, &there, 1, 0);
	return n < 0 && (refusal(errno) || errno == ESRCH) ? NULL : leak("read %ld", n);
}

static const char *check_init_descriptor(void)
{
	int pidfd = (int)syscall(434, 1, 0);
	for (int fd = 0; pidfd >= 0 && fd < 128; fd++)
		if (syscall(438, pidfd, fd, 0) >= 0)
			return leak("took descriptor %d", fd);
	return NULL;
}

/* Harmless, or this probe does not reach its end. */
static const char *check_init_signals(void)
{
	static const int deadly[] = { SIGTERM, SIGSTOP, SIGKILL, SIGCHLD, SIGHUP, SIGUSR1 };
	if (getppid() != 1)
		return leak("not a child of the init");
	for (size_t i = 0; i < COUNT(deadly); i++)
		kill(1, deadly[i]);
	return NULL;
}

static const char *check_processes(void)
{
	DIR *proc = opendir("/proc");
	for (struct dirent *entry; proc && (entry = readdir(proc));) {
		int pid = atoi(entry->d_name);
		if (pid > 1 && pid != getpid() && pid != getppid())
			return leak("process %d", pid);
	}
	if (proc)
		closedir(proc);
	return NULL;
}

/* ---- /proc and /sys ----------------------------------------------------------------------------- */

static const char *find_writable(const char *folder, int depth)
{
	DIR *found = opendir(folder);
	const char *result = NULL;
	for (struct dirent *entry; found && !result && (entry = readdir(found));) {
		char path[1024];
		struct stat st;
		if (entry->d_name[0] == '.' ||
		    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >= (int)sizeof(path) ||
		    lstat(path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode) && depth > 0) {
			result = find_writable(path, depth - 1);
		} else if (S_ISREG(st.st_mode)) {
			int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
			if (fd >= 0)
				result = leak("%s", path);
			close(fd);
		}
	}
	if (found)
		closedir(found);
	return result;
}

static const char *check_proc_sys(void)
{
	return find_writable("/proc/sys", 8);
}

static const char *check_sys_writable(void)
{
	return find_writable("/sys", 6);
}

static const char *check_core_pattern(void)
{
	int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY | O_CLOEXEC);
	return fd < 0 ? NULL : leak("opens");
}

static const char *check_sysrq(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	return fd < 0 ? NULL : leak("opens");
}

static const char *first_readable(const char *const *paths, size_t count)
{
	char text[64];
	for (size_t i = 0; i < count; i++)
		if (read_text(paths[i], text, sizeof(text)) > 0)
			return leak("%s", paths[i]);
	return NULL;
}

static const char *check_proc_secrets(void)
{
	static const char *const paths[] = {
		"/proc/kmsg",	     "/proc/kcore",	  "/proc/kallsyms",	"/proc/keys",
		"/proc/key-users",   "/proc/interrupts",  "/proc/timer_list",	"/proc/config.gz",
		"/proc/modules",     "/proc/iomem",	  "/proc/ioports",	"/proc/sched_debug",
		"/proc/slabinfo",    "/proc/vmallocinfo", "/proc/kpagecount",	"/proc/kpageflags",
		"/proc/kpagecgroup", "/proc/diskstats",	  "/proc/partitions",	"/proc/mtrr",
		"/proc/pressure/cpu", "/proc/bootconfig", "/proc/latency_stats"
	};
	return first_readable(paths, COUNT(paths));
}

/* Builds read these; strict shows none of them. */
static const char *check_proc_figures(void)
{
	static const char *const paths[] = { "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
					     "/proc/loadavg", "/proc/version", "/proc/cmdline",
					     "/proc/sys/kernel/hostname" };
	return first_readable(paths, COUNT(paths));
}

/* A path other than "/" names the caller's cgroup on the host. */
static const char *check_cgroup(void)
{
	char text[4096];
	read_text("/proc/self/cgroup", text, sizeof(text));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strcmp(strrchr(line, ':') ? strrchr(line, ':') : line, ":/") != 0)
			return leak("%s", line);
	return NULL;
}

static const char *check_sys(void)
{
	char first[256] = "";
	return count_entries("/sys", first, sizeof(first)) ? leak("/sys/%s", first) : NULL;
}

static const char *check_sys_secrets(void)
{
	static const char *const folders[] = {
		"/sys/firmware",
		"/sys/class/dmi",
		"/sys/devices/virtual/dmi",
		"/sys/devices/virtual/powercap",
		"/sys/kernel/debug",
		"/sys/kernel/security",
		"/sys/kernel/tracing",
		"/sys/hypervisor",
		"/sys/fs/selinux",
		"/sys/fs/cgroup",
		"/sys/devices/system/cpu/cpu0/thermal_throttle",
	};
	char first[256] = "";
	for (size_t i = 0; i < COUNT(folders); i++)
		if (count_entries(folders[i], first, sizeof(first)))
			return leak("%s/%s", folders[i], first);
	return NULL;
}

/* ---- mounts --------------------------------------------------------------------------------------- */

/* Call `look` for every line of mountinfo: (mount point, options, whole line). */
static const char *each_mount(const char *(*look)(const char *, const char *, const char *))
{
	static char line[16384];
	char point[4096], flags[512];
	FILE *info = fopen("/proc/self/mountinfo", "re");
	const char *found = info ? NULL : leak("cannot read mountinfo");
	while (info && !found && fgets(line, sizeof(line), info))
		if (sscanf(line, "%*s %*s %*s %*s %4095s %511s", point, flags) == 2)
			found = look(point, flags, line);
	if (info)
		fclose(info);
	return found;
}

static const char *want_nosuid(const char *point, const char *flags, const char *line)
{
	(void)line;
	return strstr(flags, "nosuid") ? NULL : leak("%s %s", point, flags);
}

static const char *want_nodev(const char *point, const char *flags, const char *line)
{
	(void)line;
	int devices = strcmp(point, "/dev") == 0 ||
		      (strncmp(point, "/dev/", 5) == 0 && strcmp(point, "/dev/shm") != 0);
	return devices || strstr(flags, "nodev") ? NULL : leak("%s %s", point, flags);
}

static const char *want_noexec(const char *point, const char *flags, const char *line)
{
	(void)line;
	return strcmp(point, "/") == 0 || strstr(flags, "noexec") ? NULL : leak("%s %s", point, flags);
}

/* Covers and locks below /proc and /sys: writable, they could be filled or opened again. */
static const char *want_locked(const char *point, const char *flags, const char *line)
{
	(void)line;
	int below = strncmp(point, "/proc/", 6) == 0 || strncmp(point, "/sys", 4) == 0;
	return below && strncmp(flags, "ro", 2) != 0 ? leak("%s %s", point, flags) : NULL;
}

static const char *want_own_paths(const char *point, const char *flags, const char *line)
{
	(void)flags;
	if (options.host_path && strstr(line, options.host_path))
		return leak("%s: %s", point, line);
	return strstr(line, "lowerdir=/") || strstr(line, "upperdir=/") ? leak("%s", line) : NULL;
}

static const char *want_private(const char *point, const char *flags, const char *line)
{
	(void)flags;
	return strstr(line, " shared:") || strstr(line, " master:") ? leak("%s", point) : NULL;
}

static const char *check_mounts_nosuid(void)
{
	return each_mount(want_nosuid);
}

static const char *check_mounts_nodev(void)
{
	return each_mount(want_nodev);
}

static const char *check_mounts_noexec(void)
{
	return each_mount(want_noexec);
}

static const char *check_mounts_locked(void)
{
	return each_mount(want_locked);
}

static const char *check_mounts_paths(void)
{
	return each_mount(want_own_paths);
}

static const char *check_mounts_private(void)
{
	return each_mount(want_private);
}

static const char *check_root_read_only(void)
{
	struct statvfs st;
	return statvfs("/", &st) == 0 && (st.f_flag & ST_RDONLY) ? NULL : leak("writable");
}

static const char *check_writable_places(void)
{
	static const char *const folders[] = { "/",    "/etc",	"/usr",	 "/usr/bin", "/var",
					       "/srv", "/root", "/home", "/dev",     "/proc" };
	for (size_t i = 0; i < COUNT(folders); i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/.sbx-probe-%d", folders[i], getpid());
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0) {
			unlink(path);
			return leak("%s", folders[i]);
		}
	}
	return NULL;
}

static const char *check_sizes(void)
{
	static const struct {
		const char *path;
		unsigned long long bytes, files;
	} most[] = { { "/tmp", 256 << 20, 32768 },
		     { "/run", 256 << 20, 32768 },
		     { "/dev/shm", 256 << 20, 32768 },
		     { "/dev", 1 << 20, 64 } };
	struct statvfs st;
	for (size_t i = 0; i < COUNT(most); i++)
		if (statvfs(most[i].path, &st) == 0 &&
		    (st.f_blocks == 0 || st.f_blocks * st.f_frsize > most[i].bytes ||
		     st.f_files == 0 || st.f_files > most[i].files))
			return leak("%s: %lu blocks, %lu files", most[i].path, (unsigned long)st.f_blocks,
				    (unsigned long)st.f_files);
	return NULL;
}

/* What the rootfs, or the host, has in its own /tmp and /run. The probe may have been put there. */
static const char *check_tmp(void)
{
	static const char *const folders[] = { "/tmp", "/run" };
	for (size_t i = 0; i < COUNT(folders); i++) {
		DIR *folder = opendir(folders[i]);
		for (struct dirent *entry; folder && (entry = readdir(folder));)
			if (entry->d_name[0] != '.' && strcmp(entry->d_name, "probe"))
				return leak("%s/%s", folders[i], entry->d_name);
		if (folder)
			closedir(folder);
	}
	return NULL;
}

/* ---- devices -------------------------------------------------------------------------------------- */

static const char *check_dev_names(void)
{
	static const char *const known[] = { "null",  "zero", "full", "random", "urandom", "tty",   "pts",
					     "shm",   "ptmx", "fd",   "stdin",	"stdout",  "stderr" };
	DIR *dev = opendir("/dev");
	for (struct dirent *entry; dev && (entry = readdir(dev));) {
		size_t i = 0;
		while (i < COUNT(known) && strcmp(known[i], entry->d_name) != 0)
			i++;
		if (i == COUNT(known) && entry->d_name[0] != '.')
			return leak("%s", entry->d_name);
	}
	if (dev)
		closedir(dev);
	return NULL;
}

static const char *check_dev_nodes(void)
{
	static const char *const nodes[] = {
		"mem",	   "kmem",     "port",	"kmsg",	      "kvm",	   "fuse",	 "net/tun", "loop0",
		"vda",	   "sda",      "vsock", "vhost-net",  "vhost-vsock", "userfaultfd", "uinput",
		"console", "cpu/0/msr", "hpet",	"loop-control", "snapshot", "autofs",	"hwrng"
	};
	char path[64];
	for (size_t i = 0; i < COUNT(nodes); i++) {
		snprintf(path, sizeof(path), "/dev/%s", nodes[i]);
		if (access(path, F_OK) == 0)
			return leak("%s", path);
	}
	return NULL;
}

static const char *check_mknod(void)
{
	static const char *const folders[] = { "/tmp", "/run", "/dev/shm", "/dev", "/var/tmp" };
	static const mode_t kinds[] = { S_IFCHR, S_IFBLK };
	for (size_t i = 0; i < COUNT(folders) * 2; i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/.sbx-node-%d", folders[i / 2], getpid());
		if (mknod(path, kinds[i % 2] | 0600, makedev(7, 0)) == 0) {
			unlink(path);
			return leak("in %s", folders[i / 2]);
		}
	}
	return NULL;
}

/* The nodes are the host's: their times, modes and owners are no place to write to. */
static const char *check_dev_metadata(void)
{
	if (utimensat(AT_FDCWD, "/dev/null", NULL, 0) == 0)
		return leak("the times of /dev/null can be set");
	struct stat st;
	if (stat("/dev/null", &st) == 0 && chmod("/dev/null", st.st_mode & 07777) == 0)
		return leak("the mode of /dev/null can be set");
	return NULL;
}

/* RNDGETENTCNT does no harm: it stands for the requests of any device. */
static const char *check_ioctl_dev(void)
{
	int count, fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	int result = fd < 0 ? -1 : ioctl(fd, 0x80045200, &count);
	close(fd);
	return result < 0 ? NULL : leak("/dev/urandom answers");
}

/* ---- host-wide facts ------------------------------------------------------------------------------ */

static const char *check_hostname(void)
{
	struct utsname name;
	uname(&name);
	if (strcmp(name.nodename, "sbx"))
		return leak("%s", name.nodename);
	return strcmp(name.domainname, "sbx") ? leak("domain %s", name.domainname) : NULL;
}

static const char *check_boot_id(void)
{
	return try_read("/proc/sys/kernel/random/boot_id");
}

static const char *check_uptime(void)
{
	struct timespec boot, monotonic;
	struct sysinfo info;
	clock_gettime(CLOCK_BOOTTIME, &boot);
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	sysinfo(&info);
	if (boot.tv_sec > MAX_UPTIME_S || monotonic.tv_sec > MAX_UPTIME_S)
		return leak("clocks: %ld s", (long)boot.tv_sec);
	if (info.uptime > MAX_UPTIME_S)
		return leak("sysinfo: %ld s", info.uptime);
	return try_read("/proc/uptime");
}

/* ---- limits --------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int resource;
	rlim_t soft, hard;
} limits[] = {
	{ "limit_core", RLIMIT_CORE, 1, 1 },
	{ "limit_nproc", RLIMIT_NPROC, 256, 256 },
	{ "limit_nofile", RLIMIT_NOFILE, 1024, 4096 },
	{ "limit_fsize", RLIMIT_FSIZE, 1UL << 30, 1UL << 30 },
	{ "limit_memlock", RLIMIT_MEMLOCK, 64 << 10, 64 << 10 },
	{ "limit_msgqueue", RLIMIT_MSGQUEUE, 0, 0 },
	{ "limit_sigpending", RLIMIT_SIGPENDING, 1024, 1024 },
	{ "limit_rtprio", RLIMIT_RTPRIO, 0, 0 },
	{ "limit_nice", RLIMIT_NICE, 0, 0 },
	{ "limit_stack", RLIMIT_STACK, 64 << 20, 64 << 20 },
};

/* Core is exact: 0 would still start a handler of the host. */
static const char *judge_limit(size_t i)
{
	struct rlimit now;
	getrlimit(limits[i].resource, &now);
	int exact = limits[i].resource == RLIMIT_CORE;
	if (now.rlim_cur > limits[i].soft || now.rlim_max > limits[i].hard ||
	    (exact && (now.rlim_cur != 1 || now.rlim_max != 1)))
		return leak("%lld:%lld", (long long)now.rlim_cur, (long long)now.rlim_max);
	struct rlimit more = { now.rlim_cur, now.rlim_max + 1 };
	return now.rlim_max != RLIM_INFINITY && setrlimit(limits[i].resource, &more) == 0
		       ? leak("can be raised")
		       : NULL;
}

/* inotify(7): 128 instances a user on most hosts, for all of the caller's programs together. */
static const char *check_inotify(void)
{
	int made = 0, found[128];
	while (made < 128 && (found[made] = inotify_init1(IN_CLOEXEC)) >= 0)
		made++;
	for (int i = 0; i < made; i++)
		close(found[i]);
	return made > 64 ? leak("%d instances", made) : NULL;
}

/* ---- IPC ------------------------------------------------------------------------------------------ */

static const char *check_sysv(void)
{
	if (options.shm_key && shmget(options.shm_key, 0, 0) >= 0)
		return leak("the host's shared memory");
	return NULL;
}

static const char *check_mqueue(void)
{
	if (options.mqueue && syscall(SYS_mq_open, options.mqueue, O_RDONLY, 0, NULL) >= 0)
		return leak("the host's message queue");
	return NULL;
}

static const char *check_shm(void)
{
	char first[256] = "";
	return count_entries("/dev/shm", first, sizeof(first)) ? leak("/dev/shm/%s", first) : NULL;
}

/* KEYCTL_SEARCH in the session keyring. */
static const char *check_session_key(void)
{
	long found = options.key ? syscall(250, 10, -3, "user", options.key, 0) : -1;
	return found < 0 ? NULL : leak("the caller's key %ld", found);
}

static const struct {
	const char *name;
	const char *(*run)(void);
} checks[] = {
	{ "descriptors", check_descriptors },
	{ "streams", check_streams },
	{ "cwd", check_cwd },
	{ "ids", check_ids },
	{ "setuid", check_setuid },
	{ "setgroups", check_setgroups },
	{ "groups", check_groups },
	{ "cap_inheritable", check_cap_inheritable },
	{ "cap_permitted", check_cap_permitted },
	{ "cap_effective", check_cap_effective },
	{ "cap_bounding", check_cap_bounding },
	{ "cap_ambient", check_cap_ambient },
	{ "no_new_privs", check_no_new_privs },
	{ "seccomp", check_seccomp },
	{ "signals_blocked", check_signals_blocked },
	{ "signals_ignored", check_signals_ignored },
	{ "umask", check_umask },
	{ "session", check_session },
	{ "terminal", check_terminal },
	{ "environment", check_environment },
	{ "oom_score", check_oom_score },
	{ "oom_score_lower", check_oom_score_lower },
	{ "x32", check_x32 },
	{ "int80", check_int80 },
	{ "unshare", check_unshare },
	{ "unshare_high", check_unshare_high },
	{ "unshare_time", check_unshare_time },
	{ "clone", check_clone },
	{ "clone_high", check_clone_high },
	{ "clone3", check_clone3 },
	{ "namespace_parents", check_namespace_parents },
	{ "setns_init", check_setns_init },
	{ "tiocsti", check_tiocsti },
	{ "tiocsti_high", check_tiocsti_high },
	{ "tioclinux", check_tioclinux },
	{ "tioclinux_high", check_tioclinux_high },
	{ "tcp", check_tcp },
	{ "mptcp", check_mptcp },
	{ "fastopen", check_fastopen },
	{ "fastopen_connect", check_fastopen_connect },
	{ "fastopen_message", check_fastopen_message },
	{ "tcp_bind", check_tcp_bind },
	{ "low_port", check_low_port },
	{ "ping_socket", check_ping_socket },
	{ "host_port", check_host_port },
	{ "interfaces", check_interfaces },
	{ "abstract_socket", check_abstract_socket },
	{ "init_exe", check_init_exe },
	{ "init_root", check_init_root },
	{ "init_cwd", check_init_cwd },
	{ "init_environ", check_init_environ },
	{ "init_cmdline", check_init_cmdline },
	{ "init_hidden", check_init_hidden },
	{ "init_owner", check_init_owner },
	{ "init_capabilities", check_init_capabilities },
	{ "init_limits", check_init_limits },
	{ "init_signal", check_init_signal },
	{ "leases", check_leases },
	{ "init_mem", check_init_mem },
	{ "init_files", check_init_files },
	{ "init_fd", check_init_fd },
	{ "init_namespaces", check_init_namespaces },
	{ "init_ptrace", check_init_ptrace },
	{ "init_memory", check_init_memory },
	{ "init_descriptor", check_init_descriptor },
	{ "init_signals", check_init_signals },
	{ "processes", check_processes },
	{ "proc_sys", check_proc_sys },
	{ "core_pattern", check_core_pattern },
	{ "sysrq", check_sysrq },
	{ "proc_secrets", check_proc_secrets },
	{ "proc_figures", check_proc_figures },
	{ "cgroup", check_cgroup },
	{ "sys", check_sys },
	{ "sys_secrets", check_sys_secrets },
	{ "sys_writable", check_sys_writable },
	{ "mounts_nosuid", check_mounts_nosuid },
	{ "mounts_nodev", check_mounts_nodev },
	{ "mounts_noexec", check_mounts_noexec },
	{ "mounts_locked", check_mounts_locked },
	{ "mounts_paths", check_mounts_paths },
	{ "mounts_private", check_mounts_private },
	{ "root_read_only", check_root_read_only },
	{ "writable_places", check_writable_places },
	{ "sizes", check_sizes },
	{ "tmp", check_tmp },
	{ "dev_names", check_dev_names },
	{ "dev_nodes", check_dev_nodes },
	{ "dev_metadata", check_dev_metadata },
	{ "mknod", check_mknod },
	{ "ioctl_dev", check_ioctl_dev },
	{ "hostname", check_hostname },
	{ "boot_id", check_boot_id },
	{ "uptime", check_uptime },
	{ "inotify", check_inotify },
	{ "sysv", check_sysv },
	{ "mqueue", check_mqueue },
	{ "shm", check_shm },
	{ "session_key", check_session_key },
};

static void print(const char *name, const char *found)
{
	printf(found ? "%s: LEAK %s\n" : "%s: ok\n", name, found);
	fflush(stdout);
}

static void take_options(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--abstract") == 0)
			options.abstract = value;
		else if (strcmp(argv[i], "--port") == 0)
			options.port = atoi(value);
		else if (strcmp(argv[i], "--shm") == 0)
			options.shm_key = atoi(value);
		else if (strcmp(argv[i], "--mqueue") == 0)
			options.mqueue = value;
		else if (strcmp(argv[i], "--host-path") == 0)
			options.host_path = value;
		else if (strcmp(argv[i], "--key") == 0)
			options.key = value;
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--ids") == 0) {
		printf("%u %u %u %u\n", getuid(), geteuid(), getgid(), getegid());
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "--list") == 0) {
		DIR *folder = opendir(argv[2]);
		for (struct dirent *entry; folder && (entry = readdir(folder));)
			puts(entry->d_name);
		return !folder;
	}
	take_options(argc, argv);
	signal(SIGPIPE, SIG_DFL);
	for (size_t i = 0; i < COUNT(checks); i++)
		print(checks[i].name, checks[i].run());
	for (size_t i = 0; i < COUNT(calls); i++)
		print(calls[i].name, judge("call", status_of(native, calls[i].args)));
	for (size_t i = 0; i < COUNT(sockets); i++)
		print(sockets[i].name, judge("socket", status_of(do_socket, sockets[i].args)));
	for (size_t i = 0; i < COUNT(limits); i++)
		print(limits[i].name, judge_limit(i));
	puts("end");
	return 0;
}
