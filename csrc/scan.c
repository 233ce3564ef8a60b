/*
 * The bulk scan of the PCI functions. It reads only what takes no lock and wakes no hardware:
 * modalias (drivers/pci/pci-sysfs.c:modalias_show), revision, numa_node, sriov_totalvfs, three
 * links, and whether a virtual function is registered with VFIO. Never config, uevent,
 * driver_override or sriov_numvfs: the first wakes the device, the others wait for its lock.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scan.h"

#define ATTRIBUTE_MAX 128	/* none of these attributes has more text than half of it */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Read up to `most` hexadecimal digits; return how many there were. */
static int read_hex(const char *text, int most, uint32_t *value)
{
	int n = 0;

	for (*value = 0; n < most && hex_digit(text[n]) >= 0; n++)
		*value = *value << 4 | (uint32_t)hex_digit(text[n]);
	return n;
}

/*
 * Read an address as the kernel writes it, "%04x:%02x:%02x.%d" (drivers/pci/probe.c): lower case,
 * no other spelling of the same address, since the name is used to reach the device again.
 */
int vh_read_address(const char *name, struct vh_function *f)
{
	uint32_t bus, device, function;
	int n = read_hex(name, 8, &f->domain);
	const char *rest = name + n;

	if (n < 4 || (n > 4 && name[0] == '0') || strpbrk(name, "ABCDEF"))
		return -EINVAL;
	if (rest[0] != ':' || read_hex(rest + 1, 2, &bus) != 2 || rest[3] != ':' ||
	    read_hex(rest + 4, 2, &device) != 2 || rest[6] != '.' ||
	    read_hex(rest + 7, 1, &function) != 1 || rest[8] != '\0')
		return -EINVAL;
	if (device > 31 || function > 7)
		return -EINVAL;
	f->bus = (uint8_t)bus;
	f->device = (uint8_t)device;
	f->function = (uint8_t)function;
	f->key = (int64_t)f->domain << 16 | (int64_t)(bus << 8 | device << 3 | function);
	return 0;
}

/* A decimal number, or a hexadecimal one after "0x", and at most a newline. */
static int read_integer(const char *text, int32_t max, int32_t *value)
{
	int64_t sum = 0;
	int base = 10, digit;

	if (text[0] == '0' && text[1] == 'x') {
		base = 16;
		text += 2;
	}
	if (hex_digit(*text) < 0)
		return VH_MALFORMED;
	for (; (digit = hex_digit(*text)) >= 0 && digit < base && sum <= max; text++)
		sum = sum * base + digit;
	if (sum > max || (*text != '\0' && strcmp(text, "\n") != 0))
		return VH_MALFORMED;
	*value = (int32_t)sum;
	return 0;
}

static int16_t read_number(const struct vh_folder *at, const char *name, int32_t max,
			   int32_t *value)
{
	char text[ATTRIBUTE_MAX];
	int error = vh_read_attribute(at, name, text, sizeof(text));

	return (int16_t)(error ? error : read_integer(text, max, value));
}

/* -1 is the kernel's NUMA_NO_NODE, and our "none". */
static int16_t read_numa_node(const struct vh_folder *at, int32_t *value)
{
	char text[ATTRIBUTE_MAX];
	int error = vh_read_attribute(at, "numa_node", text, sizeof(text));

	if (error == 0 && (strcmp(text, "-1\n") == 0 || strcmp(text, "-1") == 0))
		return 0;
	return (int16_t)(error ? error : read_integer(text, INT32_MAX, value));
}

/* pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02x (drivers/pci/pci-sysfs.c:modalias_show) */
static int read_modalias(const char *text, struct vh_function *f)
{
	static const struct {
		const char *mark;
		int digits;
	} parts[] = { { "pci:v", 8 }, { "d", 8 },  { "sv", 8 }, { "sd", 8 },
		      { "bc", 2 },    { "sc", 2 }, { "i", 2 } };
	uint32_t v[7];

	for (int i = 0; i < 7; i++) {
		size_t length = strlen(parts[i].mark);

		if (strncmp(text, parts[i].mark, length) != 0 ||
		    read_hex(text + length, parts[i].digits, &v[i]) != parts[i].digits)
			return VH_MALFORMED;
		text += length + (size_t)parts[i].digits;
	}
	if (v[0] > 0xffff || v[1] > 0xffff || v[2] > 0xffff || v[3] > 0xffff)
		return VH_MALFORMED;
	if (*text != '\0' && strcmp(text, "\n") != 0)
		return VH_MALFORMED;
	f->vendor_id = (int32_t)v[0];
	f->device_id = (int32_t)v[1];
	f->subsystem_vendor_id = (int32_t)v[2];
	f->subsystem_device_id = (int32_t)v[3];
	f->class_code = (int32_t)(v[4] << 16 | v[5] << 8 | v[6]);
	return 0;
}

/* One read where there is a modalias, which a minimal recording may lack. */
static void read_ids(const struct vh_folder *at, struct vh_function *f)
{
	char text[ATTRIBUTE_MAX];
	int error = vh_read_attribute(at, "modalias", text, sizeof(text));

	if (error == 0)
		error = read_modalias(text, f);
	if (error == 0)
		return;
	f->errors[VH_FIELD_MODALIAS] = (int16_t)error;
	error = read_number(at, "vendor", 0xffff, &f->vendor_id);
	if (error == 0)
		error = read_number(at, "device", 0xffff, &f->device_id);
	if (error == 0)
		error = read_number(at, "class", 0xffffff, &f->class_code);
	f->errors[VH_FIELD_IDS] = (int16_t)error;
	read_number(at, "subsystem_vendor", 0xffff, &f->subsystem_vendor_id);
	read_number(at, "subsystem_device", 0xffff, &f->subsystem_device_id);
}

/* Read which function a virtual one is of, as vh_function.key; return 0, an errno or VH_MALFORMED. */
int vh_read_physfn(int dir, int64_t *key)
{
	struct vh_function physfn;
	char name[VH_SCAN_NAME];
	int error = vh_read_link_name(dir, "physfn", name);

	if (error)
		return error;
	if (vh_read_address(name, &physfn) < 0)
		return VH_MALFORMED;
	*key = physfn.key;
	return 0;
}

static void read_links(int dir, struct vh_function *f, char driver[VH_SCAN_NAME])
{
	char name[VH_SCAN_NAME];
	int error;

	f->errors[VH_FIELD_DRIVER] = (int16_t)vh_read_link_name(dir, "driver", driver);

	error = vh_read_link_name(dir, "iommu_group", name);
	if (error == 0 && (hex_digit(name[0]) < 0 || name[1] == 'x'))
		error = VH_MALFORMED;
	if (error == 0)
		error = read_integer(name, INT32_MAX, &f->iommu_group);
	f->errors[VH_FIELD_IOMMU_GROUP] = (int16_t)error;

	f->errors[VH_FIELD_PHYSFN] = (int16_t)vh_read_physfn(dir, &f->physfn);
}

static int is_odd(const struct vh_function *f)
{
	if (f->errors[VH_FIELD_NAME] || f->errors[VH_FIELD_PATH] || f->errors[VH_FIELD_IDS])
		return 1;
	for (int i = VH_FIELD_MODALIAS; i < VH_FIELDS; i++) {
		if (f->errors[i] && f->errors[i] != ENOENT)
			return 1;
	}
	return 0;
}

static int is_there(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

struct bus {
	int root;
	int devices;	/* sys/bus/pci/devices */
	int has_no_devices;
	int options;
};

/*
 * Say whether NVIDIA's driver has made a VFIO device of its virtual function. Then there is vfio-dev
 * (drivers/vfio/vfio_main.c:__vfio_register_dev, since Linux 6.1). Older kernels lack it, and so do
 * recordings: they have the file for a vGPU's type, which is made together with the VFIO device.
 */
static int brings_vfio(const struct bus *bus, int dir, const char *path)
{
	char file[VH_SCAN_PATH + 64];
	int fd;

	if (is_there(dir, "vfio-dev"))
		return 1;
	if (!is_there(dir, "nvidia"))
		return 0;
	snprintf(file, sizeof(file), "%s/nvidia/current_vgpu_type", path);
	fd = vh_open_in(bus->root, file, O_PATH | O_NOFOLLOW, 0, bus->options);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Read one entry of bus/pci/devices; return where the next one's text goes. */
static char *read_function(const struct bus *bus, const char *name, struct vh_function *f,
			   char *text)
{
	char path[VH_SCAN_PATH], driver[VH_SCAN_NAME] = "";
	struct vh_folder at = { .fd = -1, .has_no_devices = bus->has_no_devices };
	const char *first = name;
	int rc;

	*f = (struct vh_function){
		.key = -1, .physfn = -1, .vendor_id = -1, .device_id = -1, .class_code = -1,
		.subsystem_vendor_id = -1, .subsystem_device_id = -1, .revision = -1,
		.numa_node = -1, .total_vfs = -1, .iommu_group = -1,
	};
	rc = vh_read_address(name, f);
	if (rc < 0) {
		f->errors[VH_FIELD_NAME] = (int16_t)-rc;
	} else {
		rc = vh_read_device_path(bus->devices, name, "../../../", path);
		if (rc >= 0)
			rc = at.fd = vh_open_in(bus->root, path, O_PATH | O_DIRECTORY | O_NOFOLLOW,
						0, bus->options);
		if (rc < 0)
			f->errors[VH_FIELD_PATH] = (int16_t)-rc;
	}
	if (at.fd >= 0) {
		first = path;
		read_ids(&at, f);
		f->errors[VH_FIELD_REVISION] = read_number(&at, "revision", 0xff, &f->revision);
		f->errors[VH_FIELD_NUMA_NODE] = read_numa_node(&at, &f->numa_node);
		f->errors[VH_FIELD_TOTAL_VFS] =
			read_number(&at, "sriov_totalvfs", 0xffff, &f->total_vfs);
		read_links(at.fd, f, driver);
		if (f->physfn >= 0 && strcmp(driver, "nvidia") == 0 &&
		    brings_vfio(bus, at.fd, path))
			f->marks |= VH_BRINGS_VFIO;
		close(at.fd);
	}
	if (is_odd(f))
		f->marks |= VH_ODD;
	return vh_put_text(vh_put_text(text, first), driver);
}

/**
 * vh_scan() - Read the next batch of PCI functions.
 * @root: The root directory.
 * @devices: sys/bus/pci/devices, open for reading; its offset says where the next batch begins.
 * @scan: Filled: as many functions as one getdents64(2) gives entries, whatever they are, and
 *	their texts. There is room for all of them.
 * @options: VH_FALLBACK, or 0.
 *
 * Each function's directory is opened once, inside the root; its attributes are opened relative to
 * it, without following links and without blocking. What may be a device is not opened at all.
 *
 * Return: The number of functions in the batch, 0 at the end, or -errno.
 */
int vh_scan(int root, int devices, struct vh_scan *scan, int options)
{
	struct bus bus = {
		.root = root,
		.devices = devices,
		.has_no_devices = vh_has_no_devices(devices),
		.options = options,
	};
	char *text = scan->text;
	int count = 0;

	while (count == 0) {
		const char *at = (const char *)scan->entries;
		long size = syscall(SYS_getdents64, devices, scan->entries, sizeof(scan->entries));
		const char *end;

		if (size < 0)
			return -errno;
		if (size == 0)
			break;
		end = at + size;
		while (at < end && count < VH_SCAN_FUNCTIONS) {
			const struct vh_entry *entry = (const struct vh_entry *)(const void *)at;

			at += entry->size;
			if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
				continue;
			text = read_function(&bus, entry->name, &scan->functions[count++], text);
		}
	}
	scan->text_size = (int32_t)(text - scan->text);
	return count;
}
