/* Opens that cannot leave the root: openat2(2), and a walk of our own where it is missing. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vfiohost.cdef.h"

#define MAX_LINKS 40		/* as the kernel's own MAXSYMLINKS */
#define MAX_DEPTH 128
#define MAX_RACES 64

/**
 * vh_open_root() - Open the directory that everything else is relative to.
 * @path: Any path, resolved as usual.
 *
 * Return: A file descriptor (O_PATH), or -errno.
 */
int vh_open_root(const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/**
 * vh_is_sysfs() - Say whether an open file is on a sysfs.
 * @fd: The file; O_PATH will do.
 *
 * Return: 1 or 0, or -errno.
 */
int vh_is_sysfs(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return -errno;
	return fs.f_type == SYSFS_MAGIC;
}

static int open_openat2(int root, const char *path, int flags, unsigned int mode)
{
	struct open_how how = {
		.flags = (unsigned int)flags,
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};

	/*
	 * EAGAIN: something on the host was renamed or mounted while a ".." was resolved
	 * (fs/namei.c:handle_dots). The entries of bus/pci/devices are full of "..", so try again.
	 */
	for (int tries = 0; tries < MAX_RACES; tries++) {
		long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN)
			return -errno;
	}
	return -EAGAIN;
}

/*
 * The walk. Every component is opened without following links, and links are resolved here, so
 * that the path from dirs[0] to dirs[depth] has none and ".." is the directory before. A
 * directory that is moved meanwhile cannot lead out: ".." is never asked of the kernel.
 */
struct walk {
	int dirs[MAX_DEPTH];	/* dirs[0] is the caller's root */
	int depth;
	int links;
	char rest[PATH_MAX];	/* what is still to be resolved */
};

static void ascend(struct walk *w, int depth)
{
	while (w->depth > depth)
		close(w->dirs[w->depth--]);
}

/* Put a link's target in front of what is left. `tail` points into w->rest. */
static int expand_link(struct walk *w, int link, const char *tail)
{
	char rest[PATH_MAX];
	ssize_t length;
	size_t left = strlen(tail);

	if (++w->links > MAX_LINKS)
		return -ELOOP;
	length = readlinkat(link, "", rest, sizeof(rest));
	if (length < 0)
		return -errno;
	if ((size_t)length + left >= sizeof(rest))
		return -ENAMETOOLONG;
	memcpy(rest + length, tail, left + 1);
	memcpy(w->rest, rest, (size_t)length + left + 1);
	if (rest[0] == '/')
		ascend(w, 0);
	return 0;
}

static int open_last(const struct walk *w, const char *name, int flags, unsigned int mode)
{
	int fd = openat(w->dirs[w->depth], name, flags | O_NOFOLLOW, mode);

	return fd < 0 ? -errno : fd;
}

/*
 * Resolve one component; `name` is the first of w->rest, `tail` what follows it.
 * Return 0 to go on, 1 when it is the last and is no link that must be followed, or -errno.
 */
static int step(struct walk *w, const char *name, const char *tail, int flags)
{
	int last = tail[strspn(tail, "/")] == '\0';
	int exclusive = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
	int keep_link = last && tail[0] == '\0' && (flags & O_NOFOLLOW || exclusive);
	struct stat st;
	int fd, rc = 0;

	fd = openat(w->dirs[w->depth], name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT && last && flags & O_CREAT ? 1 : -errno;
	if (fstat(fd, &st) < 0) {
		rc = -errno;
	} else if (S_ISLNK(st.st_mode)) {
		rc = keep_link ? 1 : expand_link(w, fd, tail);
	} else if (last) {
		rc = 1;
	} else if (!S_ISDIR(st.st_mode)) {
		rc = -ENOTDIR;
	} else if (w->depth + 1 == MAX_DEPTH) {
		rc = -ENAMETOOLONG;
	} else {
		w->dirs[++w->depth] = fd;
		memmove(w->rest, tail, strlen(tail) + 1);
		return 0;
	}
	close(fd);
	return rc;
}

static int open_rest(struct walk *w, int flags, unsigned int mode)
{
	for (;;) {
		char name[NAME_MAX + 1];
		const char *start = w->rest + strspn(w->rest, "/");
		size_t length = strcspn(start, "/");
		const char *tail = start + length;
		int rc;

		if (length == 0)
			return open_last(w, ".", flags, mode);
		if (length > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, start, length);
		name[length] = '\0';
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
			if (name[1] == '.' && w->depth > 0)
				ascend(w, w->depth - 1);
			memmove(w->rest, tail, strlen(tail) + 1);
			continue;
		}
		rc = step(w, name, tail, flags);
		if (rc < 0)
			return rc;
		if (rc == 1)
			return open_last(w, name, flags | (*tail ? O_DIRECTORY : 0), mode);
	}
}

static int open_walking(int root, const char *path, int flags, unsigned int mode)
{
	struct walk w;
	size_t length = strlen(path);
	int fd;

	if (length == 0)
		return -ENOENT;
	if (length >= sizeof(w.rest))
		return -ENAMETOOLONG;
	w.dirs[0] = root;
	w.depth = 0;
	w.links = 0;
	memcpy(w.rest, path, length + 1);
	fd = open_rest(&w, flags, mode);
	ascend(&w, 0);
	return fd;
}

/**
 * vh_open_in() - Open a path that cannot lead out of the root.
 * @root: The root directory.
 * @path: Relative to it; a leading slash means the root.
 * @flags: Flags of open(2); O_CLOEXEC is added.
 * @mode: Permission bits for O_CREAT.
 * @options: VH_FALLBACK, or 0.
 *
 * Links are followed inside the root, magic links of procfs are not (-ELOOP). Where openat2(2) is
 * missing (ENOSYS), forbidden by a seccomp filter (EPERM) or keeps losing races, the path is walked
 * component by component; a magic link is then resolved by its text, inside the root.
 *
 * Return: A file descriptor, or -errno.
 */
int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options)
{
	flags |= O_CLOEXEC;
	if (!(options & VH_FALLBACK)) {
		int fd = open_openat2(root, path, flags, mode);

		if (fd != -ENOSYS && fd != -EPERM && fd != -EAGAIN)
			return fd;
	}
	return open_walking(root, path, flags, mode);
}
