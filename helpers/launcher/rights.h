/* Messages with descriptors over a socket (SCM_RIGHTS), at most RIGHTS_MOST of them. */
#ifndef SBX_RIGHTS_H
#define SBX_RIGHTS_H

#include "report.h"

#define RIGHTS_MOST NAMESPACE_COUNT

/* 0, or -1 with errno. */
int send_with(int socket, const void *data, size_t length, const int *fds, int count);

/* The length of the message, or -1 with errno; `fds` has room for RIGHTS_MOST, which come close-on-exec. */
ssize_t receive_with(int socket, void *data, size_t room, int flags, int *fds, int *count);

#endif
