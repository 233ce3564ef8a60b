/*
 * Fuzzes a whole scan: the system calls that it makes are answered from the input, so that a host
 * is made of bytes, without a file system. No kernel is that strange; a FUSE may be.
 */

#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FOLDER_FD 500
#define FILE_FD 501

static const uint8_t *at, *end;
static int open_folders, open_files;

static unsigned int take(void)
{
	return at < end ? *at++ : 0;
}

/* A text of the input: its length, then as many bytes as there are. */
static size_t take_text(char *text, size_t most)
{
	size_t size = take(), left;

	if (size == 255)
		size = take() << 4;	/* longer than any name of a file */
	left = (size_t)(end - at);
	size = size < left ? size : left;
	size = size < most ? size : most;
	memcpy(text, at, size);
	at += size;
	return size;
}

/* An errno now and then, and of many kinds. */
static int failing(void)
{
	unsigned int answer = take();

	if (answer < 0xd0)
		return 0;
	errno = answer < 0xf0 ? ENOENT : (int)(answer - 0xf0) * 9 + 1;
	return 1;
}

static void check_name(const char *name)
{
	assert(name[0] && !strchr(name, '/') && strcmp(name, "..") != 0);
}

static int fake_fstatat(int fd, const char *name, struct stat *st, int flags)
{
	static const mode_t modes[] = { S_IFREG, S_IFREG, S_IFREG, S_IFLNK,
					S_IFDIR, S_IFIFO, S_IFCHR, S_IFSOCK };

	assert(fd == FOLDER_FD && open_folders == 1 && flags & AT_SYMLINK_NOFOLLOW);
	check_name(name);
	if (failing())
		return -1;
	st->st_mode = modes[take() % 8];
	return 0;
}

static int fake_openat(int fd, const char *name, int flags, ...)
{
	const int needed = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

	assert(fd == FOLDER_FD && open_folders == 1 && open_files == 0);
	assert((flags & needed) == needed && (flags & O_ACCMODE) == O_RDONLY);
	check_name(name);
	if (failing())
		return -1;
	open_files = 1;
	return FILE_FD;
}

static ssize_t fake_read(int fd, void *buffer, size_t size)
{
	assert(fd == FILE_FD && open_files == 1);
	return failing() ? -1 : (ssize_t)take_text(buffer, size);
}

static ssize_t fake_readlinkat(int fd, const char *name, char *buffer, size_t size)
{
	(void)fd;
	check_name(name);
	return failing() ? -1 : (ssize_t)take_text(buffer, size);
}

static int fake_close(int fd)
{
	if (fd == FOLDER_FD)
		open_folders--;
	else
		open_files--;
	return 0;
}

/* getdents64(2): records of 8 bytes' alignment, as many as fit. */
static long fake_syscall(long number, int fd, void *buffer, size_t size)
{
	unsigned int count;
	char *out = buffer;

	(void)fd;
	assert(number == SYS_getdents64);
	if (failing())
		return -1;
	count = take() % 8 == 7 ? 2000 : take() % 8;
	while (count-- > 0 && at < end) {
		char name[4096];
		size_t length = take_text(name, sizeof(name) - 1);
		size_t room = (19 + length + 1 + 7) & ~(size_t)7;
		uint16_t reclen = (uint16_t)room;

		if (room > size - (size_t)(out - (char *)buffer))
			break;
		memset(out, 0, room);
		memcpy(out + 16, &reclen, sizeof(reclen));
		memcpy(out + 19, name, length);
		out += room;
	}
	return out - (char *)buffer;
}

#define fstatat fake_fstatat
#define openat fake_openat
#define read fake_read
#define readlinkat fake_readlinkat
#define close fake_close
#define syscall fake_syscall
#include "../../../csrc/scan.c"

int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options)
{
	(void)root, (void)mode, (void)options;
	assert(flags & O_PATH && flags & O_DIRECTORY && flags & O_NOFOLLOW);
	assert(strncmp(path, "sys/devices/", 12) == 0 && strlen(path) < VH_SCAN_PATH);
	assert(!strstr(path, "//") && !strstr(path, "/./") && !strstr(path, "/../"));
	if (failing())
		return -errno;
	open_folders++;
	return FOLDER_FD;
}

int vh_is_sysfs(int fd)
{
	return fd;
}

static void check_function(const struct vh_function *f, const char *path, const char *driver)
{
	for (int i = 0; i < VH_FIELDS; i++)
		assert(f->errors[i] >= VH_MALFORMED && f->errors[i] < 4096);
	if (f->errors[VH_FIELD_NAME] || f->errors[VH_FIELD_PATH]) {
		assert(f->marks & VH_ODD && !driver[0]);
		return;
	}
	assert(f->key >= 0 && f->device < 32 && f->function < 8);
	assert(strncmp(path, "sys/devices/", 12) == 0);
	assert(strlen(driver) < VH_SCAN_NAME && !strchr(driver, '/') && strcmp(driver, "..") != 0);
	assert((driver[0] != '\0') == (f->errors[VH_FIELD_DRIVER] == 0));
	assert((f->iommu_group >= 0) == (f->errors[VH_FIELD_IOMMU_GROUP] == 0));
	assert((f->physfn >= 0) == (f->errors[VH_FIELD_PHYSFN] == 0));
	assert(f->revision <= 0xff && f->total_vfs <= 0xffff && f->class_code <= 0xffffff);
	if (f->errors[VH_FIELD_IDS] == 0)
		assert(f->vendor_id >= 0 && f->device_id >= 0 && f->class_code >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vh_scan scan;
	int n;

	at = data;
	end = data + size;
	open_folders = open_files = 0;
	n = vh_scan(3, (int)(take() & 1), &scan, 0);
	assert(open_folders == 0 && open_files == 0);
	assert(n <= VH_SCAN_FUNCTIONS && (n < 0 || (size_t)scan.text_size <= sizeof(scan.text)));
	for (int i = 0, text = 0; i < n; i++) {
		const char *path = scan.text + text;
		const char *driver = path + strlen(path) + 1;

		check_function(&scan.functions[i], path, driver);
		text = (int)(driver + strlen(driver) + 1 - scan.text);
		assert(text <= scan.text_size && (i + 1 < n || text == scan.text_size));
	}
	return 0;
}
