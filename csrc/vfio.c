/* VFIO's ioctls (linux/vfio.h), one function each, named after the ioctl. */

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vfiohost.cdef.h"

/**
 * vh_group_get_status() - VFIO_GROUP_GET_STATUS.
 * @group: A VFIO group, /dev/vfio/N.
 * @flags: Set to the VFIO_GROUP_FLAGS_...
 *
 * Return: 0, or -errno.
 */
int vh_group_get_status(int group, uint32_t *flags)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };

	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) < 0)
		return -errno;
	*flags = status.flags;
	return 0;
}

/**
 * vh_device_get_info() - VFIO_DEVICE_GET_INFO.
 * @device: A VFIO device.
 * @info: Filled with a struct vfio_device_info and, where they fit, its capabilities.
 * @size: Room there, at least that of the structure.
 *
 * An older kernel writes a shorter structure; the rest stays 0. A kernel with more to say than fits
 * says how much, by the argsz that it leaves: the caller comes again with as much room.
 *
 * Return: The bytes that the kernel wants to fill, which may be more than @size; or -errno.
 */
int vh_device_get_info(int device, void *info, size_t size)
{
	struct vfio_device_info start = { .argsz = (uint32_t)size };

	if (size < sizeof(start) || size > INT_MAX)
		return -EINVAL;
	memset(info, 0, size);
	memcpy(info, &start, sizeof(start));
	if (ioctl(device, VFIO_DEVICE_GET_INFO, info) < 0)
		return -errno;
	memcpy(&start, info, sizeof(start));
	return start.argsz > INT_MAX ? -EOVERFLOW : (int)start.argsz;
}

/**
 * vh_device_get_region_info() - VFIO_DEVICE_GET_REGION_INFO.
 * @device: A VFIO device.
 * @index: Which region, below the device's num_regions.
 * @info: Filled with a struct vfio_region_info and, where they fit, its capabilities.
 * @size: Room there, at least that of the structure.
 *
 * Sizes are negotiated as by vh_device_get_info().
 *
 * Return: The bytes that the kernel wants to fill, which may be more than @size; or -errno.
 */
int vh_device_get_region_info(int device, uint32_t index, void *info, size_t size)
{
	struct vfio_region_info start = { .argsz = (uint32_t)size, .index = index };

	if (size < sizeof(start) || size > INT_MAX)
		return -EINVAL;
	memset(info, 0, size);
	memcpy(info, &start, sizeof(start));
	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info) < 0)
		return -errno;
	memcpy(&start, info, sizeof(start));
	return start.argsz > INT_MAX ? -EOVERFLOW : (int)start.argsz;
}

/**
 * vh_device_get_irq_info() - VFIO_DEVICE_GET_IRQ_INFO.
 * @device: A VFIO device.
 * @index: Which kind of interrupt, below the device's num_irqs.
 * @flags: Set to the VFIO_IRQ_INFO_...
 * @count: Set to how many interrupts of the kind there are.
 *
 * Return: 0, or -errno.
 */
int vh_device_get_irq_info(int device, uint32_t index, uint32_t *flags, uint32_t *count)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0)
		return -errno;
	*flags = info.flags;
	*count = info.count;
	return 0;
}

/**
 * vh_device_reset() - VFIO_DEVICE_RESET.
 * @device: A VFIO device.
 *
 * Return: 0, or -errno; -EINVAL when the device cannot be reset.
 */
int vh_device_reset(int device)
{
	return ioctl(device, VFIO_DEVICE_RESET) < 0 ? -errno : 0;
}

/**
 * vh_get_api_version() - VFIO_GET_API_VERSION.
 * @container: A VFIO container, /dev/vfio/vfio.
 *
 * Return: The version, VFIO_API_VERSION on every kernel so far; or -errno.
 */
int vh_get_api_version(int container)
{
	int version = ioctl(container, VFIO_GET_API_VERSION);

	return version < 0 ? -errno : version;
}

/**
 * vh_check_extension() - VFIO_CHECK_EXTENSION.
 * @container: A VFIO container.
 * @extension: VFIO_TYPE1v2_IOMMU and the like.
 *
 * Return: 0 when it is not there, more when it is; or -errno.
 */
int vh_check_extension(int container, int extension)
{
	int answer = ioctl(container, VFIO_CHECK_EXTENSION, extension);

	return answer < 0 ? -errno : answer;
}

/**
 * vh_set_iommu() - VFIO_SET_IOMMU.
 * @container: A VFIO container that has a group.
 * @type: VFIO_TYPE1v2_IOMMU and the like.
 *
 * Return: 0, or -errno.
 */
int vh_set_iommu(int container, int type)
{
	return ioctl(container, VFIO_SET_IOMMU, type) < 0 ? -errno : 0;
}

/**
 * vh_group_set_container() - VFIO_GROUP_SET_CONTAINER.
 * @group: A VFIO group.
 * @container: A VFIO container.
 *
 * Return: 0, or -errno; -EPERM when a host driver has a device of the group.
 */
int vh_group_set_container(int group, int container)
{
	return ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0 ? -errno : 0;
}

/**
 * vh_group_get_device_fd() - VFIO_GROUP_GET_DEVICE_FD.
 * @group: A VFIO group whose container has an IOMMU.
 * @name: The device, with what the driver may want besides ("0000:65:00.4 vf_token=UUID").
 *
 * The kernel sets O_CLOEXEC (drivers/vfio/group.c:vfio_group_ioctl_get_device_fd).
 *
 * Return: A file descriptor, which the caller closes; or -errno.
 */
int vh_group_get_device_fd(int group, const char *name)
{
	int fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);

	return fd < 0 ? -errno : fd;
}

/**
 * vh_iommu_map_dma() - VFIO_IOMMU_MAP_DMA, for reading and writing.
 * @container: A VFIO container with a type 1 IOMMU.
 * @memory: What the device shall see, aligned to a page. The kernel pins it.
 * @iova: Where the device shall see it.
 * @size: Its bytes, whole pages.
 *
 * Return: 0, or -errno; -ENOMEM when RLIMIT_MEMLOCK does not allow as much.
 */
int vh_iommu_map_dma(int container, void *memory, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = iova,
		.size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map) < 0 ? -errno : 0;
}

/**
 * vh_iommu_unmap_dma() - VFIO_IOMMU_UNMAP_DMA.
 * @container: A VFIO container with a type 1 IOMMU.
 * @iova: Where the device sees the memory.
 * @size: Its bytes.
 *
 * Return: 0; -EIO when the kernel unmapped another size; or another -errno.
 */
int vh_iommu_unmap_dma(int container, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = size,
	};

	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0)
		return -errno;
	return unmap.size == size ? 0 : -EIO;
}
