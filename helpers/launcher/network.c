/* The network namespace. The kernel needs as long for one as for all mounts of the sandbox, so a
 * process of its own makes it while init goes on. It shares init's memory and descriptors, and so
 * makes raw calls only: errno is init's. No code of the sandbox runs before init has joined. */
#include "sys.h"

#include "launch.h"

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static long raw(long number, long a, long b, long c)
{
	long result;
#if defined(__x86_64__)
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
#else /* called by init itself, see start_network */
	result = syscall(number, a, b, c);
	if (result < 0)
		result = -errno;
#endif
	return result;
}

static void refuse(struct network *n, int32_t op, long error, const char *text)
{
	n->op = op;
	n->error = (int)-error;
	n->text = text;
}

/* SIOCGSKNS gives a descriptor of the namespace without /proc, which init is changing meanwhile. */
static int make_network(void *data)
{
	struct network *n = data;
	struct ifreq request;
	memset(&request, 0, sizeof(request));
	memcpy(request.ifr_name, "lo", 3);
	request.ifr_flags = IFF_UP;

	long result = raw(SYS_unshare, CLONE_NEWNET, 0, 0);
	if (result < 0)
		return refuse(n, n->op, result, "unshare"), 0;
	int family = n->loopback < 0 ? AF_UNIX : AF_INET;
	long s = raw(SYS_socket, family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	result = s < 0 || n->loopback < 0 ? s : raw(SYS_ioctl, s, SIOCSIFFLAGS, (long)&request);
	if (result < 0)
		return refuse(n, n->loopback, result, "lo"), 0;
	result = raw(SYS_ioctl, s, ABI_SIOCGSKNS, 0);
	if (result < 0)
		return refuse(n, n->op, result, "network namespace"), 0;
	n->made = (int)result;
	return 0;
}

void start_network(struct context *ctx, const struct plan *plan)
{
	struct operation namespaces = { 0 }, loopback = { 0 };
	find_operation(plan, OP_NAMESPACES, &namespaces);
	find_operation(plan, OP_LOOPBACK, &loopback);
	struct network *n = &ctx->network;
	n->op = namespaces.index;
	n->loopback = loopback.opcode ? loopback.index : -1;
	if (!(take_u32(&namespaces.body) & CLONE_NEWNET))
		return;
	n->wanted = 1;
#if defined(__x86_64__)
	static char stack[8192] __attribute__((aligned(16)));
	n->helper = clone(make_network, stack + sizeof(stack), CLONE_VM | CLONE_FILES, n);
	if (n->helper < 0)
		refuse(n, n->op, -errno, "clone");
#else
	make_network(n);
#endif
}

int join_network(struct context *ctx)
{
	struct network *n = &ctx->network;
	if (!n->wanted)
		return 0;
	n->wanted = 0;
	while (n->helper > 0 && waitpid(n->helper, NULL, __WALL) < 0)
		if (errno != EINTR)
			return fail(&ctx->failure, "waitpid");
	if (n->made < 0) {
		ctx->failure.op = n->op;
		return fail_with(&ctx->failure, n->error ? n->error : EINTR,
				 n->text ? n->text : "network namespace");
	}
	if (setns(n->made, CLONE_NEWNET) < 0)
		return fail(&ctx->failure, "setns");
	close(n->made);
	return 0;
}
