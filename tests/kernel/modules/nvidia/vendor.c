// SPDX-License-Identifier: GPL-2.0-only
/*
 * vGPUs without mediated devices: a virtual function of an L40S that takes a type.
 *
 * NVIDIA's driver makes such a function a VFIO device of its own
 * (vfio_pci_core) and gives it a folder "nvidia". Header, decimal numbers, EPERM
 * and ENODEV are as in the kernel interface that NVIDIA publishes with it. EINVAL for
 * a type that the card has no room for, and EBUSY for taking one away from a
 * function that is open, are assumed: NVIDIA's firmware decides there.
 */

#include "nvidia.h"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)

#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/vfio_pci_core.h>

/**
 * struct vendor_vf - a virtual function as a VFIO device
 * @core: what VFIO knows it by; the driver data of the function
 * @function: it as a function of the driver's
 * @model: its type, NULL while it has none
 * @is_open: somebody has it open
 */
struct vendor_vf {
	struct vfio_pci_core_device core;
	struct function *function;
	const struct vgpu_model *model;
	bool is_open;
};

bool takes_type(const struct pci_dev *pdev)
{
	return pdev->is_virtfn && pdev->device == DEVICE_L40S;
}

static struct vendor_vf *vf_of(struct device *dev)
{
	return container_of(dev_get_drvdata(dev), struct vendor_vf, core);
}

struct function *function_of_vf(struct pci_dev *pdev)
{
	return vf_of(&pdev->dev)->function;
}

/* The VFIO device */

static int vf_open(struct vfio_device *vdev)
{
	struct vendor_vf *vf = container_of(vdev, struct vendor_vf, core.vdev);
	int ret = -ENODEV;

	mutex_lock(&gpus_lock);
	if (vf->model) {
		vf->is_open = true;
		ret = 0;
	}
	mutex_unlock(&gpus_lock);
	return ret;
}

static void vf_close(struct vfio_device *vdev)
{
	struct vendor_vf *vf = container_of(vdev, struct vendor_vf, core.vdev);

	mutex_lock(&gpus_lock);
	vf->is_open = false;
	mutex_unlock(&gpus_lock);
}

/* Unlike vfio-pci's it takes no token: what follows the address does not count. */
static int vf_match(struct vfio_device *vdev, char *text)
{
	const char *name = dev_name(vdev->dev);

	return !strncmp(name, text, strlen(name));
}

static const struct vfio_device_ops vf_ops = {
	.name = "nvidia-vfio-pci",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = vf_open,
	.close_device = vf_close,
	.ioctl = vgpu_ioctl,
	.match = vf_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

/* The folder */

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *attr,
					 char *buf)
{
	const struct gpu *gpu = vf_of(dev)->function->gpu;
	const struct vgpu_model *model;
	int size = sysfs_emit(buf, "ID    : vGPU Name\n");

	mutex_lock(&gpus_lock);
	for (model = l40s_models; model < l40s_models + ARRAY_SIZE(l40s_models); model++)
		if (gpu_count_left(gpu, model))
			size += sysfs_emit_at(buf, size, "%-5s : %s\n", model->id, model->name);
	mutex_unlock(&gpus_lock);
	return size;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct vgpu_model *model = READ_ONCE(vf_of(dev)->model);

	return sysfs_emit(buf, "%s\n", model ? model->id : "0");
}

static const struct vgpu_model *find_model(u32 wanted)
{
	const struct vgpu_model *model;
	u32 id;

	for (model = l40s_models; model < l40s_models + ARRAY_SIZE(l40s_models); model++)
		if (!kstrtou32(model->id, 10, &id) && id == wanted)
			return model;
	return NULL;
}

static int make_vgpu(struct vendor_vf *vf, u32 type)
{
	const struct vgpu_model *model = find_model(type);
	struct gpu *gpu = vf->function->gpu;

	if (vf->model)
		return -EPERM;
	if (create_errno)
		return -(int)create_errno;
	if (!model || !gpu_count_left(gpu, model))
		return -EINVAL;
	gpu_add_vgpu(gpu, model);
	WRITE_ONCE(vf->model, model);
	return 0;
}

static int end_vgpu(struct vendor_vf *vf)
{
	if (!vf->model)
		return -EPERM;
	if (vf->is_open)
		return -EBUSY;
	gpu_drop_vgpu(vf->function->gpu);
	WRITE_ONCE(vf->model, NULL);
	return 0;
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *attr,
				       const char *text, size_t size)
{
	struct vendor_vf *vf = vf_of(dev);
	long type;
	int ret;

	ret = kstrtol(text, 10, &type);
	if (ret)
		return ret;
	mutex_lock(&gpus_lock);
	ret = type ? make_vgpu(vf, type) : end_vgpu(vf);
	mutex_unlock(&gpus_lock);
	return ret ? ret : size;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static struct attribute *vf_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	NULL,
};

static const struct attribute_group vf_group = {
	.name = "nvidia",
	.attrs = vf_attrs,
};

/* Functions */

/*
 * Who passes a function on leaves its DMA to VFIO. To the PCI core that is up to
 * a driver as a whole (driver_managed_dma), but physical functions are used by
 * theirs. So what the core does around a probe is taken back meanwhile.
 */
static void leave_dma(struct pci_dev *pdev)
{
	pdev->dev.bus->dma_cleanup(&pdev->dev);
}

static void take_dma(struct pci_dev *pdev)
{
	WARN_ON(pdev->dev.bus->dma_configure(&pdev->dev));
}

int register_vf(struct pci_dev *pdev, struct function *function)
{
	struct vendor_vf *vf;
	int ret;

	vf = vfio_alloc_device(vendor_vf, core.vdev, &pdev->dev, &vf_ops);
	if (IS_ERR(vf))
		return PTR_ERR(vf);
	vf->function = function;
	dev_set_drvdata(&pdev->dev, &vf->core);
	leave_dma(pdev);
	ret = vfio_pci_core_register_device(&vf->core);
	if (ret)
		goto put;
	ret = sysfs_create_group(&pdev->dev.kobj, &vf_group);
	if (ret)
		goto unregister;
	return 0;

unregister:
	vfio_pci_core_unregister_device(&vf->core);
put:
	take_dma(pdev);
	dev_set_drvdata(&pdev->dev, NULL);
	vfio_put_device(&vf->core.vdev);
	return ret;
}

/* Waits until it is closed; the folder goes last. */
void unregister_vf(struct pci_dev *pdev)
{
	struct vendor_vf *vf = vf_of(&pdev->dev);

	vfio_pci_core_unregister_device(&vf->core);
	sysfs_remove_group(&pdev->dev.kobj, &vf_group);
	mutex_lock(&gpus_lock);
	if (vf->model)
		gpu_drop_vgpu(vf->function->gpu);
	mutex_unlock(&gpus_lock);
	take_dma(pdev);
	dev_set_drvdata(&pdev->dev, NULL);
	vfio_put_device(&vf->core.vdev);
}

#endif
