/*
 * Helper processes: a store or a read that may block for ever is done in a child, so that the
 * caller can stop waiting. To fork a large caller takes long, so a helper serves until its caller
 * closes the socket. The caller may have threads, so the child uses nothing but async-signal-safe
 * calls (signal-safety(7)) and ends with _exit(2).
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vfiohost.cdef.h"

#define MAX_CLOSE 1048576	/* where RLIMIT_NOFILE is larger than any real table of fds */

/* What comes with a request: the root, and maybe an fd that stays open until a store has ended. */
#define ROOT 0
#define KEPT 1
#define MAX_FDS 2

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

static void close_between(unsigned int first, unsigned int last, int options)
{
	struct rlimit limit;

	if (first > last)
		return;
	if (!(options & VH_FALLBACK) && syscall(SYS_close_range, first, last, 0) == 0)
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > MAX_CLOSE)
		limit.rlim_cur = MAX_CLOSE;
	if (last >= limit.rlim_cur)
		last = (unsigned int)limit.rlim_cur - 1;
	for (unsigned int fd = first; fd <= last; fd++)
		close((int)fd);
}

static int send_answer(int socket, const struct vh_answer *answer, const char *content)
{
	struct iovec parts[] = {
		{ .iov_base = (void *)answer, .iov_len = sizeof(*answer) },
		{ .iov_base = (void *)content, .iov_len = 0 },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	if (answer->result > 0)
		parts[1].iov_len = (size_t)answer->result;
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Closes `root` before its last answer, as answer_store() does: see there. */
static int answer_reads(int socket, const struct vh_request *request, const char *path, int root)
{
	char content[VH_ANSWER_MAX];
	struct vh_answer answer;
	int rc = 0;

	for (answer.index = 0; rc == 0 && answer.index < request->count; answer.index++) {
		answer.result = vh_read(root, path, content, sizeof(content), request->options,
					&answer.phase);
		if (answer.index + 1 == request->count)
			close(root);
		rc = send_answer(socket, &answer, content);
		path += strlen(path) + 1;
	}
	return rc;
}

static int answer_store(int socket, const struct vh_request *request, const char *path,
			const int fds[MAX_FDS])
{
	const char *data = path + strlen(path) + 1;
	struct vh_answer answer = { .index = 0 };

	answer.result = vh_store(fds[ROOT], path, data, (size_t)request->size, request->options,
				 &answer.phase);
	/* Before the caller knows: what it then unlocks or unmounts, nobody holds any more. */
	close(fds[ROOT]);
	if (fds[KEPT] >= 0)
		close(fds[KEPT]);
	return send_answer(socket, &answer, NULL);
}

/* Receive one request; `body` gets a NUL behind its end. Return 0 when no more will come. */
static int receive(int socket, struct vh_request *request, char body[VH_REQUEST_MAX + 1],
		   int fds[MAX_FDS])
{
	union control control;
	struct iovec parts[] = {
		{ .iov_base = request, .iov_len = sizeof(*request) },
		{ .iov_base = body, .iov_len = VH_REQUEST_MAX },
	};
	struct msghdr message = {
		.msg_iov = parts, .msg_iovlen = 2,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	const struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (got < (ssize_t)sizeof(*request) || !header || header->cmsg_type != SCM_RIGHTS)
		return 0;
	body[(size_t)got - sizeof(*request)] = '\0';
	fds[KEPT] = -1;
	memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	return 1;
}

static void serve(int socket)
{
	char body[VH_REQUEST_MAX + 1];
	const struct vh_answer running = { .index = VH_RUNNING };
	struct vh_request request;
	int fds[MAX_FDS], rc = send_answer(socket, &running, NULL);

	while (rc == 0 && receive(socket, &request, body, fds)) {
		if (request.kind == VH_STORE)
			rc = answer_store(socket, &request, body, fds);
		else
			rc = answer_reads(socket, &request, body, fds[ROOT]);
	}
}

/**
 * vh_helper_start() - Start a helper process that serves its caller until that closes the socket.
 * @options: VH_FALLBACK, or 0.
 * @socket: Set to the caller's end of a socket, for vh_helper_ask(). Answers are messages, read one
 *	by one: a struct vh_answer, and the content of what was read. The first, of index VH_RUNNING,
 *	says that the helper runs: on a busy machine, what it does not answer before that is no sign
 *	of a lock. An end of file means that the helper is gone.
 *
 * The helper is in a session of its own, so that neither Ctrl-C nor a dropped terminal reaches it,
 * and has all signals blocked: a store that has begun is not to be torn by a SIGTERM. Every fd of
 * the caller is closed in it, the standard ones too: a helper that is stuck must not hold a
 * terminal, a pipe or a VFIO device.
 *
 * Return: The helper's pid, or -errno.
 */
int vh_helper_start(int options, int *socket)
{
	sigset_t all, before;
	int ends[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0) {
		setsid();
		if (ends[1] > 0)
			close_between(0, (unsigned int)ends[1] - 1, options);
		close_between((unsigned int)ends[1] + 1, ~0U, options);
		serve(ends[1]);
		_exit(0);
	}
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(ends[1]);
	if (pid < 0)
		close(ends[0]);
	else
		*socket = ends[0];
	return pid;
}

/**
 * vh_helper_ask() - Ask a helper, which must have answered all that it was asked before.
 * @socket: Of vh_helper_start().
 * @request: What for.
 * @body: For VH_READ, request->count paths, each ended by a NUL: as many answers will come. For
 *	VH_STORE a path, a NUL, and the request->size bytes of the value: one answer will come.
 * @size: Bytes of @body, at most VH_REQUEST_MAX.
 * @root: The root directory.
 * @keep_fd: An fd that the helper keeps open until a store has ended, or -1. With a lock's fd
 *	the lock outlives a caller that is killed meanwhile (flock(2) belongs to the open file).
 *
 * Return: 0, or -errno: the helper was not asked; -EPIPE or -ECONNRESET when it is gone.
 */
int vh_helper_ask(int socket, const struct vh_request *request, const char *body, size_t size,
		  int root, int keep_fd)
{
	int fds[MAX_FDS] = { [ROOT] = root, [KEPT] = keep_fd };
	size_t passed = (keep_fd < 0 ? 1 : 2) * sizeof(int);
	union control control = { .bytes = { 0 } };
	struct iovec parts[] = {
		{ .iov_base = (void *)request, .iov_len = sizeof(*request) },
		{ .iov_base = (void *)body, .iov_len = size },
	};
	struct msghdr message = {
		.msg_iov = parts, .msg_iovlen = 2,
		.msg_control = control.bytes, .msg_controllen = CMSG_SPACE(passed),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	if (size > VH_REQUEST_MAX)
		return -E2BIG;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(passed);
	memcpy(CMSG_DATA(header), fds, passed);
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/**
 * vh_helper_end() - Let a helper end, now or when the kernel has let go of it.
 * @socket: Of vh_helper_start(); it is closed.
 *
 * A fork of the caller may have the socket as well; the helper ends nevertheless.
 */
void vh_helper_end(int socket)
{
	shutdown(socket, SHUT_RDWR);
	close(socket);
}
