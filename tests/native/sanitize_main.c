/*
 * Runs the C core under the sanitizers: sanitize_main ROOT PATH...
 *
 * Every function is called on a hostile host, with openat2(2) and without, and with what a careless
 * caller may pass. What must hold is asserted; the rest is for the sanitizers to judge.
 */

#define _GNU_SOURCE
#undef NDEBUG
#include <assert.h>
#include <dirent.h>
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
enum { GROUP_FD = 1001, OLD_FD, CAPS_FD, HUGE_FD, VFIO_FD };

#define CAPS_SIZE ((uint32_t)sizeof(struct vfio_device_info) + 40)

#define REGION_SIZE ((uint32_t)sizeof(struct vfio_region_info) + 40)

static int answer_region(int fd, struct vfio_region_info *info)
{
	assert(info->argsz >= sizeof(*info) && info->flags == 0 && info->index == 7);
	info->size = 4096;
	if (fd == HUGE_FD)
		info->argsz = UINT32_MAX;
	if (fd == CAPS_FD && info->argsz < REGION_SIZE)
		info->argsz = REGION_SIZE;
	else if (fd == CAPS_FD)
		memset((char *)info + sizeof(*info), 0xcc, 40);
	return 0;
}

/* By number: the headers of Linux 6.1 have no iommufd. Sizes and places of fields are its ABI. */
#define NUMBER(request) ((request) & 0xff)
#define PLACE 0x10000ULL

static int answer_vfio(unsigned long request, void *argument)
{
	uint32_t *words = argument;
	uint64_t *longs = argument;

	switch (NUMBER(request)) {
	case NUMBER(VFIO_GET_API_VERSION):
		return VFIO_API_VERSION;
	case NUMBER(VFIO_CHECK_EXTENSION):
		return (uintptr_t)argument == VFIO_TYPE1v2_IOMMU;
	case NUMBER(VFIO_SET_IOMMU):
		assert((uintptr_t)argument == VFIO_TYPE1v2_IOMMU);
		return 0;
	case NUMBER(VFIO_GROUP_SET_CONTAINER):
		assert(*(int *)argument == GROUP_FD);
		return 0;
	case NUMBER(VFIO_GROUP_GET_DEVICE_FD):
		assert(strcmp(argument, "0000:65:00.0") == 0);
		return OLD_FD;
	case NUMBER(VFIO_DEVICE_GET_IRQ_INFO):
		assert(words[0] == 16 && words[1] == 0 && words[2] == 1);
		words[1] = VFIO_IRQ_INFO_EVENTFD;
		words[3] = 32;
		return 0;
	case NUMBER(VFIO_DEVICE_RESET):
		return 0;
	case NUMBER(VFIO_IOMMU_MAP_DMA):
		assert(words[0] == 32 && words[1] == 3);
		assert(longs[1] != 0 && longs[2] == PLACE && longs[3] == 4096);
		return 0;
	case NUMBER(VFIO_IOMMU_UNMAP_DMA):
		assert(words[0] == 24 && longs[1] == PLACE);
		longs[2] = 4096;
		return 0;
	case 100 + 18:	/* DEVICE_BIND_IOMMUFD */
		assert(words[0] == 16 && words[1] == 0 && words[2] == GROUP_FD);
		words[3] = 1;
		return 0;
	case 100 + 19:	/* DEVICE_ATTACH_IOMMUFD_PT */
		assert(words[0] == 12 && words[1] == 0 && words[2] == 2);
		return 0;
	case 0x80:	/* DESTROY */
		assert(words[0] == 8 && words[1] == 2);
		return 0;
	case 0x81:	/* IOAS_ALLOC */
		assert(words[0] == 12 && words[1] == 0);
		words[2] = 2;
		return 0;
	case 0x85:	/* IOAS_MAP */
		assert(words[0] == 40 && words[1] == 6 && words[2] == 2 && words[3] == 0);
		assert(longs[2] != 0 && longs[3] == 4096);
		longs[4] = PLACE;
		return 0;
	case 0x86:	/* IOAS_UNMAP */
		assert(words[0] == 24 && words[1] == 2 && longs[1] == PLACE);
		longs[2] = 4096;
		return 0;
	default:
		errno = ENOTTY;
		return -1;
	}
}

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
	if (fd == VFIO_FD)
		return answer_vfio(request, argument);
	if (fd >= OLD_FD && fd <= HUGE_FD && request == VFIO_DEVICE_GET_REGION_INFO)
		return answer_region(fd, argument);
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

static void test_region(void)
{
	struct vfio_region_info info;
	char more[sizeof(info) + 40];

	assert(vh_device_get_region_info(OLD_FD, 7, &info, sizeof(info) - 1) == -EINVAL);
	assert(vh_device_get_region_info(OLD_FD, 7, &info, sizeof(info)) == sizeof(info));
	assert(info.size == 4096);
	assert(vh_device_get_region_info(CAPS_FD, 7, &info, sizeof(info)) == REGION_SIZE);
	assert(vh_device_get_region_info(CAPS_FD, 7, more, sizeof(more)) == REGION_SIZE);
	assert(vh_device_get_region_info(HUGE_FD, 7, &info, sizeof(info)) == -EOVERFLOW);
	assert(vh_device_get_region_info(GROUP_FD, 7, &info, sizeof(info)) == -ENOTTY);
}

static void test_users(void)
{
	static char page[4096];
	uint32_t id = 0, flags = 0, count = 0;
	uint64_t iova = 0;

	assert(vh_get_api_version(VFIO_FD) == VFIO_API_VERSION);
	assert(vh_check_extension(VFIO_FD, VFIO_TYPE1v2_IOMMU) == 1);
	assert(vh_group_set_container(VFIO_FD, GROUP_FD) == 0);
	assert(vh_set_iommu(VFIO_FD, VFIO_TYPE1v2_IOMMU) == 0);
	assert(vh_group_get_device_fd(VFIO_FD, "0000:65:00.0") == OLD_FD);
	assert(vh_iommu_map_dma(VFIO_FD, page, PLACE, sizeof(page)) == 0);
	assert(vh_iommu_unmap_dma(VFIO_FD, PLACE, sizeof(page)) == 0);
	assert(vh_iommu_unmap_dma(VFIO_FD, PLACE, 8192) == -EIO);
	assert(vh_device_get_irq_info(VFIO_FD, 1, &flags, &count) == 0);
	assert(flags == VFIO_IRQ_INFO_EVENTFD && count == 32);
	assert(vh_device_reset(VFIO_FD) == 0);
	assert(vh_device_bind_iommufd(VFIO_FD, GROUP_FD, &id) == 0 && id == 1);
	assert(vh_ioas_alloc(VFIO_FD, &id) == 0 && id == 2);
	assert(vh_device_attach_iommufd_pt(VFIO_FD, id) == 0);
	assert(vh_ioas_map(VFIO_FD, id, page, sizeof(page), &iova) == 0 && iova == PLACE);
	assert(vh_ioas_unmap(VFIO_FD, id, iova, sizeof(page)) == 0);
	assert(vh_ioas_unmap(VFIO_FD, id, iova, 8192) == -EIO);
	assert(vh_iommu_destroy(VFIO_FD, id) == 0);
}

/* Each of them says what the kernel says. */
static void test_refused(void)
{
	static char page[4096];
	uint32_t id = 7, count = 7;
	uint64_t iova = 7;

	assert(vh_get_api_version(GROUP_FD) == -ENOTTY);
	assert(vh_check_extension(GROUP_FD, 1) == -ENOTTY);
	assert(vh_group_set_container(GROUP_FD, 1) == -ENOTTY);
	assert(vh_set_iommu(GROUP_FD, 1) == -ENOTTY);
	assert(vh_group_get_device_fd(GROUP_FD, "") == -ENOTTY);
	assert(vh_iommu_map_dma(GROUP_FD, page, 0, sizeof(page)) == -ENOTTY);
	assert(vh_iommu_unmap_dma(GROUP_FD, 0, sizeof(page)) == -ENOTTY);
	assert(vh_device_get_irq_info(GROUP_FD, 1, &id, &count) == -ENOTTY);
	assert(vh_device_reset(GROUP_FD) == -ENOTTY);
	assert(vh_device_bind_iommufd(GROUP_FD, -1, &id) == -ENOTTY);
	assert(vh_ioas_alloc(GROUP_FD, &id) == -ENOTTY);
	assert(vh_device_attach_iommufd_pt(GROUP_FD, 1) == -ENOTTY);
	assert(vh_ioas_map(GROUP_FD, 1, page, sizeof(page), &iova) == -ENOTTY);
	assert(vh_ioas_unmap(GROUP_FD, 1, 0, sizeof(page)) == -ENOTTY);
	assert(vh_iommu_destroy(GROUP_FD, 1) == -ENOTTY);
	assert(id == 7 && count == 7 && iova == 7);
}

/* Spaces of every size, of bytes that make sense nowhere and of chains that go everywhere. */
static void test_config(void)
{
	struct vh_config *config = malloc(sizeof(*config));
	uint32_t chance = 1;

	assert(config && vh_decode_config("", 0, config) == 0 && !config->answers);
	for (size_t size = 1; size <= VH_CONFIG_MAX + 8; size += size < 300 ? 1 : 61) {
		uint8_t *bytes = malloc(size);

		assert(bytes);
		for (int round = 0; round < 4; round++) {
			for (size_t i = 0; i < size; i++) {
				chance = chance * 1103515245 + 12345;
				bytes[i] = round == 3 ? 0xff : (uint8_t)(chance >> 16);
				/* So that the chains go on: a pointer to the next dword. */
				if (round == 1 && i % 4 == 1)
					bytes[i] = (uint8_t)(i + 3);
				if (round == 2 && i % 4 >= 2)
					bytes[i] = (uint8_t)((i / 4 + 1) * 64 >> (i % 4 - 2) * 8);
			}
			if (size > 6)
				bytes[6] |= 0x10;
			assert(vh_decode_config(bytes, size, config) == config->count);
			assert(config->count >= 0 && config->count <= VH_CAPABILITIES);
		}
		free(bytes);
	}
	free(config);
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

static int count_types(int root, int options)
{
	struct vh_parent *parent = malloc(sizeof(*parent));
	int folder = vh_open_in(root, "sys/class/mdev_bus", O_RDONLY | O_DIRECTORY, 0, options);
	DIR *bus = fdopendir(folder);
	struct dirent *entry;
	int total = 0;

	assert(parent && bus);
	while ((entry = readdir(bus))) {
		int n = vh_scan_parent(root, folder, entry->d_name, parent, options);
		int texts = 0;

		if (n < 0)
			continue;
		for (int i = 0; i < parent->text_size; i++)
			texts += parent->text[i] == '\0';
		assert(texts == 1 + (1 + VH_TYPE_FILES) * n);
		total += n;
	}
	assert(vh_scan_parent(root, folder, "none", parent, options) == -ENOENT);
	assert(vh_scan_parent(root, -1, "none", parent, options) == -EBADF);
	closedir(bus);
	free(parent);
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

static int begin(int options, int *fd)
{
	struct vh_answer answer;
	int pid = vh_helper_start(options, fd);

	assert(pid > 0);
	assert(read(*fd, &answer, sizeof(answer)) == sizeof(answer));
	assert(answer.index == VH_RUNNING);
	return pid;
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
	static const char body[] = "attribute\0value";
	struct vh_request request = { .kind = VH_STORE, .options = options, .size = 5 };
	struct vh_answer answer;
	int fd, phase, lock, pid;

	assert(vh_store(root, "attribute", "value", 5, options, &phase) == 0);
	assert(vh_store(root, "none", "value", 5, options, &phase) == -ENOENT);
	assert(phase == VH_PHASE_OPEN);
	assert(vh_store(root, "attribute", "x", 1, options | VH_ONLY_SYSFS, &phase) == -EOPNOTSUPP);
	assert(phase == VH_PHASE_CHECK);
	lock = open("/dev/null", O_RDONLY);
	pid = begin(options, &fd);
	assert(vh_helper_ask(fd, &request, body, VH_REQUEST_MAX + 1, root, -1) == -E2BIG);
	for (int keep = -1; keep <= lock; keep += lock + 1) {
		assert(vh_helper_ask(fd, &request, body, sizeof(body) - 1, root, keep) == 0);
		assert(read(fd, &answer, sizeof(answer)) == sizeof(answer));
		assert(answer.result == 0);
	}
	finish(pid, fd);
	close(lock);
}

static void test_reads(int root, char **paths, int count, int options)
{
	static char names[65536], message[sizeof(struct vh_answer) + VH_ANSWER_MAX];
	struct vh_request request = { .kind = VH_READ, .options = options, .count = count };
	struct vh_answer answer;
	char *end = names;
	int fd, pid;

	for (int i = 0; i < count; i++)
		end = stpcpy(end, paths[i]) + 1;
	pid = begin(options, &fd);
	assert(vh_helper_ask(fd, &request, names, (size_t)(end - names), root, -1) == 0);
	for (int i = 0; i < count; i++) {
		ssize_t got = read(fd, message, sizeof(message));

		assert(got >= (ssize_t)sizeof(answer));
		memcpy(&answer, message, sizeof(answer));
		assert(answer.index == i);
		assert(got == (ssize_t)sizeof(answer) + (answer.result > 0 ? answer.result : 0));
	}
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
	test_region();
	test_users();
	test_refused();
	test_config();
	for (int i = 0; i < 2; i++) {
		printf("%d\n", count_functions(root, both[i]));
		printf("%d\n", count_types(root, both[i]));
		for (int path = 2; path < argc; path++)
			test_path(root, argv[path], both[i]);
		test_store(root, both[i]);
		test_reads(root, argv + 2, argc - 2, both[i]);
	}
	close(root);
	return 0;
}
