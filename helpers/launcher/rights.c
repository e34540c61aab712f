#include "sys.h"

#include "rights.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

union control {
	char bytes[CMSG_SPACE(sizeof(int) * RIGHTS_MOST)];
	struct cmsghdr align;
};

/* What a user has in flight, in all processes together, is held against the sender's soft limit of
 * open files (too_many_unix_fds): a payload with the caller's id can have taken as many. */
static ssize_t send_beyond(int socket, const struct msghdr *message)
{
	struct rlimit had, most;
	if (getrlimit(RLIMIT_NOFILE, &had) < 0)
		return -1;
	most = had;
	most.rlim_cur = had.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &most) < 0)
		return -1;
	ssize_t n = sendmsg(socket, message, MSG_NOSIGNAL);
	int error = errno;
	setrlimit(RLIMIT_NOFILE, &had);
	errno = error;
	return n;
}

int send_with(int socket, const void *data, size_t length, const int *fds, int count)
{
	struct iovec payload = { (void *)(uintptr_t)data, length };
	union control control;
	memset(&control, 0, sizeof(control));
	struct msghdr message = { .msg_iov = &payload, .msg_iovlen = 1 };
	if (count > 0) {
		size_t bytes = sizeof(int) * (size_t)count;
		message.msg_control = control.bytes;
		message.msg_controllen = (socklen_t)CMSG_SPACE(bytes);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = (socklen_t)CMSG_LEN(bytes);
		memcpy(CMSG_DATA(header), fds, bytes);
	}
	ssize_t n;
	do
		n = sendmsg(socket, &message, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == ETOOMANYREFS)
		n = send_beyond(socket, &message);
	return n < 0 ? -1 : 0;
}

ssize_t receive_with(int socket, void *data, size_t room, int flags, int *fds, int *count)
{
	struct iovec payload = { data, room };
	union control control;
	struct msghdr message = { .msg_iov = &payload,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	ssize_t n;
	do
		n = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*count = 0;
	struct cmsghdr *header = n < 0 ? NULL : CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		*count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(header), (size_t)*count * sizeof(int));
	}
	return n;
}
