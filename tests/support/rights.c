/* What the payload may do to files, devices, TCP ports and other processes. Runs as the payload:
 * rights FOLDER ABSTRACT-NAME. One line each: the name of an access right of landlock(7) and the
 * errno of trying it, 0 for success. FOLDER holds what tests/escape/test_landlock.py puts there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define RNDGETENTCNT 0x80045200UL

static void told(const char *name, long result)
{
	printf("%s %d\n", name, result < 0 ? errno : 0);
}

static int make_socket(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	return bind(fd, (struct sockaddr *)&at, sizeof(at));
}

static int run(const char *path)
{
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		execl(path, path, (char *)NULL);
		_exit(errno);
	}
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

static void try_files(void)
{
	told("execute", run("program"));
	told("read_file", open("file", O_RDONLY));
	told("read_dir", open("folder", O_RDONLY | O_DIRECTORY));
	told("write_file", open("file", O_WRONLY));
	told("truncate", truncate("file", 1));
	told("make_char", mknod("char", S_IFCHR | 0600, 0)); /* 0, 0: a whiteout, which needs no right */
	told("make_dir", mkdir("dir", 0700));
	told("make_reg", mknod("reg", S_IFREG | 0600, 0));
	told("make_sock", make_socket("sock"));
	told("make_fifo", mkfifo("fifo", 0600));
	told("make_sym", symlink("x", "sym"));
	told("refer", rename("folder/moves", "other/moves"));
	told("remove_file", unlink("gone"));
	told("remove_dir", rmdir("gone-too"));
}

static void try_network(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(1) };
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int one = socket(AF_INET, SOCK_STREAM, 0), two = socket(AF_INET, SOCK_STREAM, 0);
	told("connect_tcp", connect(one, (struct sockaddr *)&at, sizeof(at)));
	at.sin_port = 0;
	told("bind_tcp", bind(two, (struct sockaddr *)&at, sizeof(at)));
}

static void try_scopes(const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	size_t length = strlen(name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(at.sun_path + 1, name, length);
	length += offsetof(struct sockaddr_un, sun_path) + 1;
	told("abstract_unix_socket", connect(fd, (struct sockaddr *)&at, (socklen_t)length));
	told("signal", kill(1, 0));
}

int main(int argc, char **argv)
{
	unsigned entropy;
	if (argc != 3 || strlen(argv[2]) > 90 || chdir(argv[1]) < 0)
		return 99;
	try_files();
	told("ioctl_dev", ioctl(open("/dev/urandom", O_RDONLY), RNDGETENTCNT, &entropy));
	try_network();
	try_scopes(argv[2]);
	puts("end 0");
	return 0;
}
