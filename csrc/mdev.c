/*
 * The scan of a parent of mediated devices: where it is, whose virtual function it is, and which
 * types it can make (drivers/vfio/mdev/mdev_sysfs.c).
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scan.h"

#define TYPES "mdev_supported_types"
#define PATH_MOST (VH_SCAN_PATH + sizeof(TYPES) + 2 * VH_SCAN_NAME)
#define PAGE 4096		/* a file of a sysfs has no more (fs/sysfs/file.c:sysfs_kf_seq_show) */

/* The most that one type adds to the texts: the name of an entry, whatever it is, and its files. */
#define TYPE_TEXT (VH_PARENT_ENTRIES * 8 + VH_TYPE_FILES * (VH_ANSWER_MAX + 1))

_Static_assert(VH_SCAN_PATH + TYPE_TEXT <= VH_PARENT_TEXT, "one type fits");

struct place {
	int root;
	int options;
	const char *path;	/* of the parent */
	int has_no_devices;
};

/*
 * Read a file of a type as text without its last newline; return 0, an errno or VH_MALFORMED. What
 * is no ordinary file of a sysfs (a link, a FIFO, empty, large) is left to vh_read(), which has
 * an answer to all of that.
 */
static int read_text(const struct place *place, const struct vh_folder *at, const char *folder,
		     const char *name, char *text)
{
	int error = vh_read_attribute(at, name, text, PAGE), phase, size;
	char path[PATH_MOST];
	char *end;

	if (error && error != ENOENT) {
		snprintf(path, sizeof(path), "%s/%s", folder, name);
		size = vh_read(place->root, path, text, VH_ANSWER_MAX, place->options, &phase);
		error = size < 0 ? -size : memchr(text, '\0', (size_t)size) ? VH_MALFORMED : 0;
		text[size < 0 ? 0 : size] = '\0';
	}
	if (error)
		return error;
	end = text + strlen(text);
	if (end > text && end[-1] == '\n')
		end[-1] = '\0';
	return 0;
}

/* Read a type; return where the next one's texts go. */
static char *read_type(const struct place *place, const char *id, int16_t errors[VH_TYPE_FILES],
		       char *text)
{
	static const char *const files[VH_TYPE_FILES] = {
		[VH_TYPE_NAME] = "name",
		[VH_TYPE_AVAILABLE] = "available_instances",
		[VH_TYPE_API] = "device_api",
		[VH_TYPE_DESCRIPTION] = "description",
	};
	struct vh_folder at = { .fd = -ENAMETOOLONG, .has_no_devices = place->has_no_devices };
	char path[PATH_MOST - VH_SCAN_NAME];
	int size = snprintf(path, sizeof(path), "%s/%s/%s", place->path, TYPES, id);

	if ((size_t)size < sizeof(path))
		at.fd = vh_open_in(place->root, path, O_PATH | O_DIRECTORY, 0, place->options);
	text = vh_put_text(text, id);
	for (int i = 0; i < VH_TYPE_FILES; i++) {
		int error = at.fd < 0 ? -at.fd : read_text(place, &at, path, files[i], text);

		errors[i] = (int16_t)error;
		if (error)
			text[0] = '\0';
		text += strlen(text) + 1;
	}
	if (at.fd >= 0)
		close(at.fd);
	return text;
}

/* Read the types of a parent; return how many there are. */
static int read_types(const struct place *place, int dir, struct vh_parent *parent)
{
	const char *most = parent->text + sizeof(parent->text) - TYPE_TEXT;
	char *text = parent->text + parent->types_at;
	int count = 0;
	long size;

	while ((size = syscall(SYS_getdents64, dir, parent->entries, sizeof(parent->entries))) > 0) {
		const char *at = (const char *)parent->entries;
		const char *end = at + size;

		while (at < end) {
			const struct vh_entry *entry = (const struct vh_entry *)(const void *)at;

			at += entry->size;
			if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
				continue;
			if (count == VH_PARENT_TYPES || text > most) {
				parent->types_error = EFBIG;
				return count;
			}
			text = read_type(place, entry->name, parent->errors[count++], text);
			parent->text_size = (int32_t)(text - parent->text);
		}
	}
	if (size < 0)
		parent->types_error = (int16_t)errno;
	return count;
}

/**
 * vh_scan_parent() - Read a parent of mediated devices and the types that it offers.
 * @root: The root directory.
 * @bus: sys/class/mdev_bus; O_PATH will do.
 * @name: Its entry there.
 * @parent: Filled.
 * @options: VH_FALLBACK, or 0.
 *
 * Each type's directory is opened once, inside the root, and its files relative to it. A FIFO is not
 * waited for, and what may be a device is not opened at all.
 *
 * Return: The number of types, or -errno: where the parent should be is no directory of that name.
 */
int vh_scan_parent(int root, int bus, const char *name, struct vh_parent *parent, int options)
{
	char path[VH_SCAN_PATH], file[PATH_MOST];
	struct place place = { .root = root, .options = options, .path = path };
	struct vh_function address = { .key = -1 };
	int rc = vh_read_device_path(bus, name, "../../", path);
	int dir;

	if (rc >= 0)
		rc = vh_open_in(root, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, options);
	if (rc < 0)
		return rc;
	parent->physfn = -1;
	parent->physfn_error = (int16_t)vh_read_physfn(rc, &parent->physfn);
	close(rc);
	vh_read_address(name, &address);
	parent->key = address.key;
	parent->types_error = 0;
	parent->types_at = (int32_t)(vh_put_text(parent->text, path) - parent->text);
	parent->text_size = parent->types_at;
	snprintf(file, sizeof(file), "%s/%s", path, TYPES);
	dir = vh_open_in(root, file, O_RDONLY | O_DIRECTORY, 0, options);
	if (dir < 0) {
		parent->types_error = (int16_t)-dir;
		return 0;
	}
	place.has_no_devices = vh_has_no_devices(dir);
	rc = read_types(&place, dir, parent);
	close(dir);
	return rc;
}
