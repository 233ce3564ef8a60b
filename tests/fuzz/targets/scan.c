/*
 * Fuzzes whole scans, of PCI functions and of a parent of mediated devices: the system calls that
 * they make are answered from the input, so that a host is made of bytes, without a file system. No
 * kernel is that strange; a FUSE may be.
 */

#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BUS_FD 499
#define FILE_FD 500
#define FOLDER_FD 501	/* the first that is open; those that are opened meanwhile follow */

static const uint8_t *at, *end;
static int open_folders, open_files, is_sysfs;

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

static void check_name(int fd, const char *name)
{
	assert(open_folders > 0 && fd == FOLDER_FD + open_folders - 1);
	assert(name[0] && !strchr(name, '/') && strcmp(name, "..") != 0);
}

static int fake_fstatfs(int fd, struct statfs *fs)
{
	(void)fd;
	memset(fs, 0, sizeof(*fs));
	fs->f_type = is_sysfs ? SYSFS_MAGIC : TMPFS_MAGIC;
	return 0;
}

static int fake_fstatat(int fd, const char *name, struct stat *st, int flags)
{
	static const mode_t modes[] = { S_IFREG, S_IFREG, S_IFREG, S_IFLNK,
					S_IFDIR, S_IFIFO, S_IFCHR, S_IFSOCK };

	assert(flags & AT_SYMLINK_NOFOLLOW);
	check_name(fd, name);
	if (failing())
		return -1;
	st->st_mode = modes[take() % 8];
	return 0;
}

static int fake_openat(int fd, const char *name, int flags, ...)
{
	const int needed = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

	assert(open_files == 0 && (flags & needed) == needed && (flags & O_ACCMODE) == O_RDONLY);
	check_name(fd, name);
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
	if (fd != BUS_FD)
		check_name(fd, name);
	return failing() ? -1 : (ssize_t)take_text(buffer, size);
}

static int fake_close(int fd)
{
	if (fd == FILE_FD)
		open_files--;
	else
		assert(fd == FOLDER_FD + --open_folders);
	return 0;
}

/*
 * getdents64(2): records of 8 bytes' alignment, as many as fit. The kernel lets through no name that
 * is empty or has a slash (fs/readdir.c:verify_dirent_name).
 */
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
		size_t room;
		uint16_t reclen;

		if (length == 0)
			name[length++] = '_';
		for (size_t i = 0; i < length; i++)
			name[i] = name[i] == '/' || !name[i] ? '_' : name[i];
		room = (19 + length + 1 + 7) & ~(size_t)7;
		reclen = (uint16_t)room;
		if (room > size - (size_t)(out - (char *)buffer))
			break;
		memset(out, 0, room);
		memcpy(out + 16, &reclen, sizeof(reclen));
		memcpy(out + 19, name, length);
		out += room;
	}
	return out - (char *)buffer;
}

#define fstatfs fake_fstatfs
#define fstatat fake_fstatat
#define openat fake_openat
#define read fake_read
#define readlinkat fake_readlinkat
#define close fake_close
#define syscall fake_syscall
#include "../../../csrc/folder.c"
#include "../../../csrc/scan.c"
#include "../../../csrc/mdev.c"

static void check_path(const char *path)
{
	assert(strncmp(path, "sys/devices/", 12) == 0 && strlen(path) < PATH_MAX);
	assert(!strstr(path, "//") && !strstr(path, "/./") && !strstr(path, "/../"));
}

int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options)
{
	(void)root, (void)mode, (void)options;
	assert(open_files == 0 && flags & (O_PATH | O_DIRECTORY) && !(flags & O_CREAT));
	check_path(path);
	if (failing())
		return -errno;
	return FOLDER_FD + open_folders++;
}

/* Of a file that is more than an ordinary one: sometimes as much as there may be. */
int vh_read(int root, const char *path, void *buffer, size_t size, int options, int *phase)
{
	(void)root, (void)options;
	check_path(path);
	*phase = VH_PHASE_TRANSFER;
	if (failing())
		return -errno;
	if (take() & 1)
		return (int)take_text(buffer, size);
	memset(buffer, 'x', size);
	return (int)size;
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

/* Return where the text ends that begins at `at`, and that it ends within the texts. */
static const char *next_text(const char *from, const char *last)
{
	const char *nul = memchr(from, '\0', (size_t)(last - from));

	assert(nul);
	return nul + 1;
}

static void scan_functions(void)
{
	static struct vh_scan scan;
	int n = vh_scan(BUS_FD, BUS_FD, &scan, 0);

	assert(n <= VH_SCAN_FUNCTIONS && (n < 0 || (size_t)scan.text_size <= sizeof(scan.text)));
	for (int i = 0, text = 0; i < n; i++) {
		const char *path = scan.text + text;
		const char *driver = path + strlen(path) + 1;

		check_function(&scan.functions[i], path, driver);
		text = (int)(driver + strlen(driver) + 1 - scan.text);
		assert(text <= scan.text_size && (i + 1 < n || text == scan.text_size));
	}
}

static void scan_parent(void)
{
	static struct vh_parent parent;
	int n = vh_scan_parent(BUS_FD, BUS_FD, "0000:65:00.0", &parent, 0);
	const char *text = parent.text, *last;

	assert(n <= VH_PARENT_TYPES && n > -4096);
	if (n < 0)
		return;
	assert(parent.text_size > 0 && (size_t)parent.text_size <= sizeof(parent.text));
	last = text + parent.text_size;
	check_path(text);
	text = next_text(text, last);
	assert(text == parent.text + parent.types_at);
	for (int i = 0; i < n; i++) {
		text = next_text(text, last);
		for (int file = 0; file < VH_TYPE_FILES; file++) {
			assert(parent.errors[i][file] >= VH_MALFORMED && parent.errors[i][file] < 4096);
			assert(parent.errors[i][file] == 0 || !*text);
			assert(strlen(text) <= VH_ANSWER_MAX);
			text = next_text(text, last);
		}
	}
	assert(text == last);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int kind;

	at = data;
	end = data + size;
	open_folders = open_files = 0;
	kind = take();
	is_sysfs = kind & 1;
	if (kind & 2)
		scan_parent();
	else
		scan_functions();
	assert(open_folders == 0 && open_files == 0);
	return 0;
}
