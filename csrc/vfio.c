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
