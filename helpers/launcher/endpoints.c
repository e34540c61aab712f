/* What stands in the network namespace before the sandbox runs: a TUN device, addresses, routes and rules
 * as netlink messages, sockets. Python has made their content; here they reach the kernel. What has a
 * descriptor is collected, and leaves with the word that the sandbox is held. */
#include "setup.h"

#include <errno.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int hand_out(struct context *ctx, int fd, const char *what)
{
	if (ctx->held_count == MAX_HELD) {
		close(fd);
		return fail_with(&ctx->failure, EMFILE, what);
	}
	ctx->held[ctx->held_count++] = fd;
	return 0;
}

/* Before the pivot: /dev is still the host's. The device belongs to the namespace of who opens it. */
int op_tun(struct context *ctx, struct cursor *c)
{
	struct ifreq request;
	const char *path = "/dev/net/tun", *name = take_string(c);
	uint32_t flags = take_u32(c), index = take_u32(c), offloads = take_u32(c);
	memset(&request, 0, sizeof(request));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	request.ifr_flags = (short)flags;
	if (join_network(ctx) < 0)
		return -1;
	int tun = open(path, O_RDWR | O_CLOEXEC);
	if (tun < 0)
		return fail(&ctx->failure, path);
	if (ioctl(tun, (int)ABI_TUNSETIFINDEX, &index) < 0 ||
	    ioctl(tun, (int)ABI_TUNSETIFF, &request) < 0 ||
	    ioctl(tun, (int)ABI_TUNSETOFFLOAD, (unsigned long)offloads) < 0) {
		fail(&ctx->failure, path);
		close(tun);
		return -1;
	}
	return hand_out(ctx, tun, path);
}

/* netlink(7): the kernel works while we send, so every answer is there when the call returns. */
int op_netlink(struct context *ctx, struct cursor *c)
{
	const char *what = take_string(c);
	int protocol = (int)take_u32(c);
	uint32_t answers = take_u32(c);
	struct bytes batch = take_bytes(c);
	char buffer[8192] __attribute__((aligned(NLMSG_ALIGNTO)));
	if (join_network(ctx) < 0)
		return -1;
	SCOPED_FD talk = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (talk < 0 || send(talk, batch.data, batch.length, 0) < 0)
		return fail(&ctx->failure, what);
	while (answers > 0) {
		ssize_t length = recv(talk, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (length < 0)
			return fail(&ctx->failure, what);
		struct nlmsghdr *answer = (struct nlmsghdr *)buffer;
		for (; answers > 0 && NLMSG_OK(answer, length); answer = NLMSG_NEXT(answer, length)) {
			if (answer->nlmsg_type != NLMSG_ERROR || answer->nlmsg_len < NLMSG_LENGTH(sizeof(int)))
				continue;
			int error = *(int *)NLMSG_DATA(answer);
			if (error)
				return fail_with(&ctx->failure, -error, what);
			answers--;
		}
	}
	return 0;
}

int op_socket(struct context *ctx, struct cursor *c)
{
	const char *what = take_string(c);
	int family = (int)take_u32(c), type = (int)take_u32(c), protocol = (int)take_u32(c);
	if (join_network(ctx) < 0)
		return -1;
	int made = socket(family, type | SOCK_CLOEXEC, protocol);
	if (made < 0)
		return fail(&ctx->failure, what);
	int refused = 0;
	for (uint32_t left = take_u32(c); left >= 3; left -= 3) {
		int level = (int)take_u32(c), option = (int)take_u32(c), value = (int)take_u32(c);
		refused = refused || setsockopt(made, level, option, &value, sizeof(value)) < 0;
	}
	struct bytes address = take_bytes(c);
	int backlog = (int)take_u32(c);
	if (refused || (address.length && bind(made, (const void *)address.data, address.length) < 0) ||
	    (backlog && listen(made, backlog) < 0)) {
		fail(&ctx->failure, what);
		close(made);
		return -1;
	}
	return hand_out(ctx, made, what);
}

/* Nothing of it stays: the payload is a child of this process, or it itself. */
int op_hold(struct context *ctx, int32_t index)
{
	if (send_held(index, ctx->held, (int)ctx->held_count) < 0)
		return fail(&ctx->failure, "channel");
	while (ctx->held_count > 0)
		close(ctx->held[--ctx->held_count]);
	wait_for_word();
	return 0;
}
