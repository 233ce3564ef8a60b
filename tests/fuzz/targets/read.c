/*
 * Fuzzes the read of one file: what it is may change between the first look and the open, it may
 * give itself out in any pieces, and it may never end.
 */

#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_FD 500
#define FILE_FD 501

static const uint8_t *at, *end;
static int open_fds, failed;
static mode_t kind;
static size_t given;

static unsigned int take(void)
{
	return at < end ? *at++ : 0;
}

static int failing(void)
{
	unsigned int answer = take();

	errno = answer < 0xe0 ? 0 : (int)(answer - 0xe0) * 4 + 1;
	return errno != 0;
}

static int fake_fstat(int fd, struct stat *st)
{
	static const mode_t kinds[] = { S_IFREG, S_IFREG, S_IFREG, S_IFREG,
					S_IFDIR, S_IFIFO, S_IFCHR, S_IFSOCK };

	assert(fd == LOOK_FD || fd == FILE_FD);
	if (failing())
		return -1;
	st->st_mode = kind = kinds[take() % 8];
	return 0;
}

static ssize_t fake_read(int fd, void *buffer, size_t size)
{
	size_t left, piece;

	assert(fd == FILE_FD && S_ISREG(kind) && open_fds == 1 && !failed);
	if (failing()) {
		failed = 1;
		return -1;
	}
	piece = take();
	left = (size_t)(end - at);
	if (piece == 255) {	/* as much as is wanted: a file without an end */
		memset(buffer, 'x', size);
		given += size;
		return (ssize_t)size;
	}
	piece = piece < left ? piece : left;
	piece = piece < size ? piece : size;
	memcpy(buffer, at, piece);
	at += piece;
	given += piece;
	return (ssize_t)piece;
}

static int fake_close(int fd)
{
	assert(fd == LOOK_FD || fd == FILE_FD);
	open_fds--;
	return 0;
}

#define fstat fake_fstat
#define read fake_read
#define close fake_close
#include "../../../csrc/read.c"

int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options)
{
	(void)root, (void)path, (void)mode, (void)options;
	assert(open_fds == 0 && (flags & O_PATH || flags & O_NONBLOCK) && !(flags & O_CREAT));
	kind = 0;
	if (failing())
		return -errno;
	open_fds++;
	return flags & O_PATH ? LOOK_FD : FILE_FD;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t room = size ? (size_t)data[0] * 8 : 0;
	char *buffer = malloc(room ? room : 1);
	int phase = -1, got;

	assert(buffer);
	at = data + (size > 0);
	end = data + size;
	open_fds = failed = 0;
	given = 0;
	got = vh_read(3, "a", buffer, room, 0, &phase);
	assert(open_fds == 0 && (phase == VH_PHASE_OPEN || phase == VH_PHASE_TRANSFER));
	assert(got < 0 ? got > -4096 : (size_t)got == given && given <= room);
	assert(got < 0 || (phase == VH_PHASE_TRANSFER && !failed));
	free(buffer);
	return 0;
}
