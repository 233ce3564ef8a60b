/* Stores: one open, exactly one write(2), the exact errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "vfiohost.cdef.h"
#include "helper.h"

/**
 * vh_store() - Store a value in an attribute.
 * @root: The root directory.
 * @path: The attribute, resolved inside the root. It is not created and not truncated.
 * @data: The value.
 * @size: Its bytes.
 * @options: VH_FALLBACK, VH_ONLY_SYSFS.
 * @phase: Set to the VH_PHASE_... that an error came from.
 *
 * The kernel calls the attribute's store function once per write(2) (fs/kernfs/file.c), so a
 * second write would be a second store: a short write is an error (-EIO).
 *
 * Return: 0; -EOPNOTSUPP in VH_PHASE_CHECK when the file is not on a sysfs; or another -errno.
 */
int vh_store(int root, const char *path, const void *data, size_t size, int options, int *phase)
{
	int fd, rc = 0;

	*phase = VH_PHASE_OPEN;
	fd = vh_open_in(root, path, O_WRONLY | O_NOCTTY, 0, options);
	if (fd < 0)
		return fd;
	if (options & VH_ONLY_SYSFS) {
		*phase = VH_PHASE_CHECK;
		rc = vh_is_sysfs(fd);
		if (rc == 0)
			rc = -EOPNOTSUPP;
	}
	if (rc >= 0) {
		ssize_t n;

		*phase = VH_PHASE_TRANSFER;
		n = write(fd, data, size);
		rc = n < 0 ? -errno : (size_t)n == size ? 0 : -EIO;
	}
	/* sysfs has no error left to give at close(2): nothing is cached. */
	close(fd);
	return rc;
}

/**
 * vh_store_start() - Store a value in a helper process, since the store may block for ever.
 * @root, @path, @data, @size, @options: As for vh_store().
 * @keep_fd: An fd that the helper keeps open until the store has ended, or -1. With a lock's fd
 *	the lock outlives a caller that is killed meanwhile (flock(2) belongs to the open file).
 * @outcome: Set to a pipe's read end, which the caller closes. One struct vh_outcome comes out of
 *	it; an end without one means that the helper was killed.
 *
 * Return: The helper's pid, or -errno.
 */
int vh_store_start(int root, const char *path, const void *data, size_t size, int keep_fd,
		   int options, int *outcome)
{
	int keep[] = { root, keep_fd };
	struct vh_outcome answer;
	int pid = vh_fork(outcome, keep, 2, options);

	if (pid == 0) {
		answer.result = vh_store(root, path, data, size, options, &answer.phase);
		_exit(vh_send(*outcome, &answer, sizeof(answer)) < 0);
	}
	return pid;
}
