/*
 * What the scans share: internal to the C core. Included in the place of vfiohost.cdef.h, which can
 * have no guard.
 */

#pragma once

#include "vfiohost.cdef.h"

/* linux/fs/readdir.c: struct linux_dirent64 */
struct vh_entry {
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

struct vh_folder {
	int fd;			/* O_PATH will do */
	int has_no_devices;	/* as vh_has_no_devices() says */
};

/* folder.c */
int vh_has_no_devices(int dir);
int vh_read_attribute(const struct vh_folder *at, const char *name, char *text, size_t size);
int vh_read_link_name(int dir, const char *link, char name[VH_SCAN_NAME]);
int vh_read_device_path(int bus, const char *name, const char *up, char path[VH_SCAN_PATH]);
char *vh_put_text(char *at, const char *text);

/* scan.c */
int vh_read_address(const char *name, struct vh_function *f);
int vh_read_physfn(int dir, int64_t *key);
