/*
 * The ioctls of iommufd (linux/iommufd.h), and those of VFIO that bring a device to one.
 *
 * Debian 12 compiles with the headers of Linux 6.1, which has none of them. So the numbers and the
 * structures are written down here; both are the kernel's ABI and do not change.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "vfiohost.cdef.h"

#ifndef VFIO_DEVICE_BIND_IOMMUFD
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#endif
#ifndef VFIO_DEVICE_ATTACH_IOMMUFD_PT
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#endif

/* Not included from linux/iommufd.h, even where it exists: one way for every header. */
#define DESTROY _IO(VFIO_TYPE, 0x80)
#define IOAS_ALLOC _IO(VFIO_TYPE, 0x81)
#define IOAS_MAP _IO(VFIO_TYPE, 0x85)
#define IOAS_UNMAP _IO(VFIO_TYPE, 0x86)
#define MAP_WRITEABLE (1U << 1)
#define MAP_READABLE (1U << 2)

struct bind_iommufd {
	uint32_t argsz;
	uint32_t flags;
	int32_t iommufd;
	uint32_t devid;
};

struct attach_iommufd_pt {
	uint32_t argsz;
	uint32_t flags;
	uint32_t pt_id;
};

struct destroy {
	uint32_t size;
	uint32_t id;
};

struct ioas_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t ioas_id;
};

struct ioas_map {
	uint32_t size;
	uint32_t flags;
	uint32_t ioas_id;
	uint32_t reserved;
	uint64_t user_va;
	uint64_t length;
	uint64_t iova;
};

struct ioas_unmap {
	uint32_t size;
	uint32_t ioas_id;
	uint64_t iova;
	uint64_t length;
};

/**
 * vh_device_bind_iommufd() - VFIO_DEVICE_BIND_IOMMUFD.
 * @device: A VFIO device, opened by its own node.
 * @iommufd: An iommufd, /dev/iommu.
 * @id: Set to the id that the device has there.
 *
 * Return: 0, or -errno; -EBUSY while the group's node is open, -EPERM when a host driver has a
 *	device of the group.
 */
int vh_device_bind_iommufd(int device, int iommufd, uint32_t *id)
{
	struct bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommufd };

	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) < 0)
		return -errno;
	*id = bind.devid;
	return 0;
}

/**
 * vh_device_attach_iommufd_pt() - VFIO_DEVICE_ATTACH_IOMMUFD_PT.
 * @device: A VFIO device that is bound to an iommufd.
 * @id: An address space of that iommufd.
 *
 * Return: 0, or -errno.
 */
int vh_device_attach_iommufd_pt(int device, uint32_t id)
{
	struct attach_iommufd_pt attach = { .argsz = sizeof(attach), .pt_id = id };

	return ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) < 0 ? -errno : 0;
}

/**
 * vh_ioas_alloc() - IOMMU_IOAS_ALLOC.
 * @iommufd: An iommufd.
 * @id: Set to the id of the new address space.
 *
 * Return: 0, or -errno.
 */
int vh_ioas_alloc(int iommufd, uint32_t *id)
{
	struct ioas_alloc alloc = { .size = sizeof(alloc) };

	if (ioctl(iommufd, IOAS_ALLOC, &alloc) < 0)
		return -errno;
	*id = alloc.ioas_id;
	return 0;
}

/**
 * vh_ioas_map() - IOMMU_IOAS_MAP, for reading and writing, where the kernel finds room.
 * @iommufd: An iommufd.
 * @id: The address space.
 * @memory: What devices shall see, aligned to a page. The kernel pins it.
 * @size: Its bytes, whole pages.
 * @iova: Set to where devices see it.
 *
 * Return: 0, or -errno; -ENOMEM when RLIMIT_MEMLOCK does not allow as much.
 */
int vh_ioas_map(int iommufd, uint32_t id, void *memory, uint64_t size, uint64_t *iova)
{
	struct ioas_map map = {
		.size = sizeof(map),
		.flags = MAP_READABLE | MAP_WRITEABLE,
		.ioas_id = id,
		.user_va = (uintptr_t)memory,
		.length = size,
	};

	if (ioctl(iommufd, IOAS_MAP, &map) < 0)
		return -errno;
	*iova = map.iova;
	return 0;
}

/**
 * vh_ioas_unmap() - IOMMU_IOAS_UNMAP.
 * @iommufd: An iommufd.
 * @id: The address space.
 * @iova: Where devices see the memory.
 * @size: Its bytes.
 *
 * Return: 0; -EIO when the kernel unmapped another size; or another -errno.
 */
int vh_ioas_unmap(int iommufd, uint32_t id, uint64_t iova, uint64_t size)
{
	struct ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = id,
		.iova = iova,
		.length = size,
	};

	if (ioctl(iommufd, IOAS_UNMAP, &unmap) < 0)
		return -errno;
	return unmap.length == size ? 0 : -EIO;
}

/**
 * vh_iommu_destroy() - IOMMU_DESTROY.
 * @iommufd: An iommufd.
 * @id: An address space, or another object of it.
 *
 * Return: 0, or -errno; -EBUSY while a device is attached.
 */
int vh_iommu_destroy(int iommufd, uint32_t id)
{
	struct destroy destroy = { .size = sizeof(destroy), .id = id };

	return ioctl(iommufd, DESTROY, &destroy) < 0 ? -errno : 0;
}
