/*
 * Helper processes: a store or a read that may block for ever is done in a child, so that the
 * caller can stop waiting. The caller may have threads, so the child uses nothing but
 * async-signal-safe calls (signal-safety(7)) and ends with _exit(2).
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "vfiohost.cdef.h"
#include "helper.h"

#define MAX_CLOSE 1048576	/* where RLIMIT_NOFILE is larger than any real table of fds */

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

/* Close every fd but those in `keep`; it is sorted in place, -1 means none. */
static void close_all_but(int *keep, int kept, int options)
{
	unsigned int first = 0;

	for (int i = 1; i < kept; i++) {
		for (int j = i; j > 0 && keep[j - 1] > keep[j]; j--) {
			int swap = keep[j];

			keep[j] = keep[j - 1];
			keep[j - 1] = swap;
		}
	}
	for (int i = 0; i < kept; i++) {
		unsigned int fd = (unsigned int)keep[i];

		if (keep[i] < 0 || fd < first)
			continue;
		if (fd > first)
			close_between(first, fd - 1, options);
		first = fd + 1;
	}
	close_between(first, ~0U, options);
}

/**
 * vh_fork() - Start a helper process that answers over a pipe.
 * @pipe_fd: Set to the pipe's read end in the caller, to its write end in the helper.
 * @keep: The fds that the helper keeps besides; -1 is skipped. All others are closed in it, the
 *	standard ones too: a helper that is stuck must not hold a terminal, a pipe or a VFIO device.
 * @kept: How many, at most VH_HELPER_FDS - 1.
 * @options: VH_FALLBACK, or 0.
 *
 * The helper is in a session of its own, so that neither Ctrl-C nor a dropped terminal reaches it,
 * and has all signals blocked: a store that has begun is not to be torn by a SIGTERM.
 *
 * Return: The helper's pid in the caller, 0 in the helper, or -errno.
 */
int vh_fork(int *pipe_fd, const int *keep, int kept, int options)
{
	int ends[2], own[VH_HELPER_FDS];
	sigset_t all, before;
	pid_t pid;

	if (kept >= VH_HELPER_FDS)
		return -EINVAL;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0) {
		own[0] = ends[1];
		for (int i = 0; i < kept; i++)
			own[i + 1] = keep[i];
		setsid();
		close_all_but(own, kept + 1, options);
		*pipe_fd = ends[1];
		return 0;
	}
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(ends[1]);
	if (pid < 0)
		close(ends[0]);
	else
		*pipe_fd = ends[0];
	return pid;
}

/**
 * vh_send() - Write all of a message to the caller's pipe.
 * @fd: The pipe's write end.
 * @data: The message.
 * @size: Its bytes.
 *
 * Return: 0, or -errno; -EPIPE when the caller no longer listens.
 */
int vh_send(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size > 0) {
		ssize_t sent = write(fd, at, size);

		if (sent < 0)
			return -errno;
		at += sent;
		size -= (size_t)sent;
	}
	return 0;
}
