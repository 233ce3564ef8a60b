/*
 * Runs the C core under the sanitizers: sanitize_main ROOT PATH...
 *
 * Every function is called on a hostile host, with openat2(2) and without, and with what a careless
 * caller may pass. What must hold is asserted; the rest is for the sanitizers to judge.
 */

#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vfiohost.cdef.h"

static const int both[] = { 0, VH_FALLBACK };

/* A VFIO that answers as kernels do: an old one, one with capabilities, one that goes too far. */
enum { GROUP_FD = 1001, OLD_FD, CAPS_FD, HUGE_FD };

#define CAPS_SIZE ((uint32_t)sizeof(struct vfio_device_info) + 40)

int ioctl(int fd, unsigned long request, ...)
{
	struct vfio_device_info *info;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	info = argument;
	if (fd == GROUP_FD && request == VFIO_GROUP_GET_STATUS) {
		assert(((struct vfio_group_status *)argument)->argsz == 8);
		((struct vfio_group_status *)argument)->flags = VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	}
	if (fd < OLD_FD || fd > HUGE_FD || request != VFIO_DEVICE_GET_INFO) {
		errno = ENOTTY;
		return -1;
	}
	assert(info->argsz >= sizeof(*info) && info->flags == 0);
	info->num_regions = 9;
	if (fd == HUGE_FD)
		info->argsz = UINT32_MAX;
	if (fd == CAPS_FD) {
		info->flags = VFIO_DEVICE_FLAGS_CAPS;
		if (info->argsz < CAPS_SIZE) {
			info->argsz = CAPS_SIZE;
		} else {
			memset((char *)argument + sizeof(*info), 0xcc, 40);
			info->cap_offset = sizeof(*info);
		}
	}
	return 0;
}

static void test_vfio(void)
{
	struct vfio_device_info info;
	char more[sizeof(info) + 40];
	uint32_t flags = 0;

	assert(vh_group_get_status(GROUP_FD, &flags) == 0 && flags == VFIO_GROUP_FLAGS_VIABLE);
	assert(vh_group_get_status(CAPS_FD, &flags) == -ENOTTY);
	assert(vh_device_get_info(GROUP_FD, &info, sizeof(info)) == -ENOTTY);
	assert(vh_device_get_info(OLD_FD, &info, sizeof(info) - 1) == -EINVAL);
	assert(vh_device_get_info(OLD_FD, &info, sizeof(info)) == sizeof(info));
	assert(info.num_regions == 9);
	assert(vh_device_get_info(CAPS_FD, &info, sizeof(info)) == CAPS_SIZE);
	assert(info.cap_offset == 0);
	assert(vh_device_get_info(CAPS_FD, more, sizeof(more)) == CAPS_SIZE);
	assert((unsigned char)more[sizeof(more) - 1] == 0xcc);
	assert(vh_device_get_info(HUGE_FD, &info, sizeof(info)) == -EOVERFLOW);
}

static int count_functions(int root, int options)
{
	struct vh_scan *scan = malloc(sizeof(*scan));
	int bus = vh_open_in(root, "sys/bus/pci/devices", O_RDONLY | O_DIRECTORY, 0, options);
	int total = 0, n;

	assert(scan && bus >= 0);
	while ((n = vh_scan(root, bus, scan, options)) > 0) {
		int texts = 0;

		for (int i = 0; i < scan->text_size; i++)
			texts += scan->text[i] == '\0';
		assert(texts == 2 * n);
		total += n;
	}
	assert(n == 0);
	assert(vh_scan(root, -1, scan, options) == -EBADF);
	close(bus);
	free(scan);
	return total;
}

static void test_path(int root, const char *path, int options)
{
	int flags[] = { O_PATH, O_PATH | O_NOFOLLOW, O_RDONLY | O_NONBLOCK, O_RDONLY | O_DIRECTORY };
	char *buffer;
	int phase;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		int fd = vh_open_in(root, path, flags[i], 0, options);

		if (fd >= 0) {
			assert(vh_is_sysfs(fd) >= 0);
			close(fd);
		}
	}
	for (size_t size = 0; size < 100; size = size * 2 + 1) {
		buffer = malloc(size ? size : 1);
		assert(buffer);
		assert(vh_read(root, path, buffer, size, options, &phase) <= (int)size);
		assert(vh_readlink(root, path, buffer, size, options) < (int)size + !size);
		free(buffer);
	}
}

/* The helper must have come to its end without a word from a sanitizer. */
static void finish(int pid, int fd)
{
	int status;

	close(fd);
	assert(waitpid(pid, &status, 0) == pid && status == 0);
}

static void test_store(int root, int options)
{
	struct vh_outcome outcome;
	int fd, phase, lock, pid;

	assert(vh_store(root, "attribute", "value", 5, options, &phase) == 0);
	assert(vh_store(root, "none", "value", 5, options, &phase) == -ENOENT);
	assert(phase == VH_PHASE_OPEN);
	assert(vh_store(root, "attribute", "x", 1, options | VH_ONLY_SYSFS, &phase) == -EOPNOTSUPP);
	assert(phase == VH_PHASE_CHECK);
	lock = open("/dev/null", O_RDONLY);
	for (int keep = -1; keep <= lock; keep += lock + 1) {
		pid = vh_store_start(root, "attribute", "value", 5, keep, options, &fd);
		assert(pid > 0);
		assert(read(fd, &outcome, sizeof(outcome)) == sizeof(outcome));
		assert(outcome.result == 0);
		finish(pid, fd);
	}
	close(lock);
}

static void test_reads(int root, char **paths, int count, int options)
{
	static char names[65536];
	char content[VH_ANSWER_MAX], *end = names;
	struct vh_answer answer;
	int fd, pid;

	for (int i = 0; i < count; i++)
		end = stpcpy(end, paths[i]) + 1;
	pid = vh_read_start(root, names, count, options, &fd);
	assert(pid > 0);
	for (int i = 0; i < count; i++) {
		assert(read(fd, &answer, sizeof(answer)) == sizeof(answer) && answer.index == i);
		for (int got = 0; got < answer.result;) {
			ssize_t n = read(fd, content, (size_t)(answer.result - got));

			assert(n > 0);
			got += (int)n;
		}
	}
	assert(read(fd, &answer, 1) == 0);
	finish(pid, fd);
}

int main(int argc, char **argv)
{
	int root;

	assert(argc > 2);
	root = vh_open_root(argv[1]);
	assert(root >= 0);
	assert(vh_open_root("/none") == -ENOENT);
	assert(vh_is_sysfs(-1) == -EBADF);
	test_vfio();
	for (int i = 0; i < 2; i++) {
		printf("%d\n", count_functions(root, both[i]));
		for (int path = 2; path < argc; path++)
			test_path(root, argv[path], both[i]);
		test_store(root, both[i]);
		test_reads(root, argv + 2, argc - 2, both[i]);
	}
	close(root);
	return 0;
}
