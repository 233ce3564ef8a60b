/* Directories of a sysfs: their files, read relative to them, and the links that lead to them. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "scan.h"

/*
 * Return whether no device can be opened on the file system of a directory: on a sysfs there are
 * regular files only, and a mount with nodev answers EACCES.
 */
int vh_has_no_devices(int dir)
{
	struct statfs fs;

	return fstatfs(dir, &fs) == 0 && (fs.f_type == SYSFS_MAGIC || fs.f_flags & ST_NODEV);
}

/* Return 0 when a file is a regular one, else an errno. */
static int check_regular(const struct vh_folder *at, const char *name)
{
	struct stat st;

	if (fstatat(at->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno;
	if (S_ISLNK(st.st_mode))
		return ELOOP;
	if (S_ISDIR(st.st_mode))
		return EISDIR;
	return S_ISREG(st.st_mode) ? 0 : EINVAL;
}

/* Read a small file as text; return 0, an errno or VH_MALFORMED. Never blocks on a FIFO. */
static int read_small(const struct vh_folder *at, const char *name, char *text, size_t size)
{
	int fd = openat(at->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	int error = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	n = read(fd, text, size);
	if (n < 0)
		error = errno;
	else if ((size_t)n == size)
		error = EFBIG;
	else if (n == 0 || memchr(text, '\0', (size_t)n))
		error = VH_MALFORMED;
	else
		text[n] = '\0';
	close(fd);
	return error;
}

/*
 * Read an attribute of less than `size` bytes as text, and put a NUL behind it; return 0, an errno
 * or VH_MALFORMED. What is no regular file is not opened, for that may do something: a watchdog's
 * node starts the watchdog. Where it cannot, what went wrong is looked into afterwards, so that a
 * file that is as it should be costs no call more.
 */
int vh_read_attribute(const struct vh_folder *at, const char *name, char *text, size_t size)
{
	int error = at->has_no_devices ? 0 : check_regular(at, name);
	int kind = 0;

	if (error == 0)
		error = read_small(at, name, text, size);
	if (error && error != ENOENT)
		kind = check_regular(at, name);
	return kind ? kind : error;
}

/* Read the last component of a link's target; return 0, an errno or VH_MALFORMED. */
int vh_read_link_name(int dir, const char *link, char name[VH_SCAN_NAME])
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, link, target, sizeof(target) - 1);
	const char *last;
	size_t length;

	if (n < 0)
		return errno;
	target[n] = '\0';
	last = strrchr(target, '/');
	last = last ? last + 1 : target;
	length = strlen(last);
	if (length == 0 || length >= VH_SCAN_NAME || strcmp(last, ".") == 0 ||
	    strcmp(last, "..") == 0)
		return VH_MALFORMED;
	memcpy(name, last, length + 1);
	return 0;
}

/*
 * Find a device's directory, relative to the root, from its entry in a bus or class. kernfs makes
 * such a link as `up`devices/…/NAME, where `up` leads to sys; one that leads anywhere else is not
 * followed. Return its length, or -errno.
 */
int vh_read_device_path(int bus, const char *name, const char *up, char path[VH_SCAN_PATH])
{
	static const char top[] = "devices/";
	char target[VH_SCAN_PATH];
	ssize_t n = readlinkat(bus, name, target, sizeof(target) - sizeof("sys/"));
	const char *rest, *last;
	size_t length;

	if (n < 0)
		return -errno;
	if ((size_t)n == sizeof(target) - sizeof("sys/"))
		return -ENAMETOOLONG;
	if (n > 0 && target[n - 1] == '/')
		n--;	/* links made by hand may have one */
	target[n] = '\0';
	if (strncmp(target, up, strlen(up)) != 0)
		return -EXDEV;
	rest = target + strlen(up);
	last = strrchr(rest, '/');
	if (strncmp(rest, top, strlen(top)) != 0 || strcmp(last + 1, name) != 0)
		return -EXDEV;
	if (strstr(rest, "//") || strstr(rest, "/./") || strstr(rest, "/../"))
		return -EXDEV;
	length = strlen(rest);
	memcpy(path, "sys/", 4);
	memcpy(path + 4, rest, length + 1);
	return (int)length + 4;
}

/* Put a text where the texts of a scan go; return where the next one goes. */
char *vh_put_text(char *at, const char *text)
{
	size_t size = strlen(text) + 1;

	memcpy(at, text, size);
	return at + size;
}
