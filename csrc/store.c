/* Stores: one open, exactly one write(2), the exact errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "vfiohost.cdef.h"

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
