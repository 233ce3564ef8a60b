/* Reads of one attribute or link. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfiohost.cdef.h"

static int read_all(int fd, char *buffer, size_t size)
{
	size_t got = 0;
	ssize_t rest;
	char more;

	while (got < size) {
		ssize_t n = read(fd, buffer + got, size - got);

		if (n < 0)
			return -errno;
		if (n == 0)
			return (int)got;
		got += (size_t)n;
	}
	rest = read(fd, &more, 1);
	if (rest < 0)
		return -errno;
	return rest > 0 ? -EFBIG : (int)got;
}

static int open_regular(int root, const char *path, int flags, int options)
{
	int fd = vh_open_in(root, path, flags, 0, options);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		rc = -errno;
	else if (S_ISDIR(st.st_mode))
		rc = -EISDIR;
	else if (S_ISFIFO(st.st_mode))
		rc = -EAGAIN;
	else if (!S_ISREG(st.st_mode))
		rc = -EINVAL;
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

/**
 * vh_read() - Read a whole regular file.
 * @root: The root directory.
 * @path: The file, resolved inside the root.
 * @buffer: Where the content goes; no NUL is added.
 * @size: Room in it, at most INT_MAX.
 * @options: VH_FALLBACK, or 0.
 * @phase: Set to VH_PHASE_OPEN or VH_PHASE_TRANSFER: where an error came from.
 *
 * What is no regular file is not opened for reading (-EISDIR, -EINVAL): a device may do something,
 * as a watchdog does. It is looked at first, and once more when it is open. Of a FIFO it is said that
 * it would have to be waited for (-EAGAIN): it stands for an attribute whose device is locked, below
 * a root that is no sysfs.
 *
 * Return: The number of bytes; -EFBIG when the file has more than @size; or another -errno.
 */
int vh_read(int root, const char *path, void *buffer, size_t size, int options, int *phase)
{
	int fd, rc;

	*phase = VH_PHASE_OPEN;
	fd = open_regular(root, path, O_PATH, options);
	if (fd < 0)
		return fd;
	close(fd);
	fd = open_regular(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, options);
	if (fd < 0)
		return fd;
	*phase = VH_PHASE_TRANSFER;
	rc = read_all(fd, buffer, size);
	close(fd);
	return rc;
}

/**
 * vh_readlink() - Read a symbolic link's text.
 * @root: The root directory.
 * @path: The link; the directories before it are resolved inside the root.
 * @buffer: Where the text goes; no NUL is added.
 * @size: Room in it.
 * @options: VH_FALLBACK, or 0.
 *
 * Return: The number of bytes; -EINVAL when it is no link; -ENAMETOOLONG when the text fills the
 * buffer; or another -errno.
 */
int vh_readlink(int root, const char *path, char *buffer, size_t size, int options)
{
	struct stat st;
	ssize_t n;
	int fd, rc;

	fd = vh_open_in(root, path, O_PATH | O_NOFOLLOW, 0, options);
	if (fd < 0)
		return fd;
	n = readlinkat(fd, "", buffer, size);
	if (n >= 0)
		rc = (size_t)n < size ? (int)n : -ENAMETOOLONG;
	else
		rc = -errno;
	/* For what is no link, it says ENOENT and not EINVAL (fs/stat.c). */
	if (rc == -ENOENT && fstat(fd, &st) == 0 && !S_ISLNK(st.st_mode))
		rc = -EINVAL;
	close(fd);
	return rc;
}
