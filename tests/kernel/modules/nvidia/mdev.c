// SPDX-License-Identifier: GPL-2.0-only
/*
 * vGPUs that are mediated devices: of a T4's physical function and of an A10's
 * virtual ones, each of which carries one.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vfio.h>

#include "nvidia.h"

struct vgpu_type {
	struct mdev_type type;
	const struct vgpu_model *model;
	struct vgpu_parent *parent;
};

/**
 * struct vgpu_parent - a function that vGPUs are created on
 * @parent: what mdev registers
 * @gpu: its card
 * @is_vf: it carries one vGPU at most
 * @nr_vgpus: how many it carries
 * @pointers: to @types, as mdev wants them
 * @types: one for each model
 */
struct vgpu_parent {
	struct mdev_parent parent;
	struct gpu *gpu;
	bool is_vf;
	unsigned int nr_vgpus;
	struct mdev_type **pointers;
	struct vgpu_type *types;
};

/**
 * struct vgpu - a vGPU
 * @vdev: what VFIO hands out
 * @parent: the function that it is on
 * @params: what nvidia/vgpu_params was told
 */
struct vgpu {
	struct vfio_device vdev;
	struct vgpu_parent *parent;
	char params[256];
};

static unsigned int count_available(const struct vgpu_type *type)
{
	const struct vgpu_parent *parent = type->parent;
	unsigned int left = gpu_count_left(parent->gpu, type->model);

	if (!parent->is_vf)
		return left;
	return left && !parent->nr_vgpus;
}

static unsigned int vgpu_get_available(struct mdev_type *mtype)
{
	unsigned int available;

	mutex_lock(&gpus_lock);
	available = count_available(container_of(mtype, struct vgpu_type, type));
	mutex_unlock(&gpus_lock);
	return available;
}

static ssize_t vgpu_show_description(struct mdev_type *mtype, char *buf)
{
	const struct vgpu_model *model = container_of(mtype, struct vgpu_type, type)->model;

	return sysfs_emit(buf, "num_heads=%u, frl_config=%u, framebuffer=%uM, max_resolution=%s, max_instance=%u\n",
			  model->heads, model->frl, model->framebuffer, model->resolution,
			  model->max_instance);
}

static int take_instance(struct vgpu_type *type)
{
	int ret = -EUSERS;

	mutex_lock(&gpus_lock);
	if (count_available(type)) {
		gpu_add_vgpu(type->parent->gpu, type->model);
		type->parent->nr_vgpus++;
		ret = 0;
	}
	mutex_unlock(&gpus_lock);
	return ret;
}

static void give_instance(struct vgpu_parent *parent)
{
	mutex_lock(&gpus_lock);
	parent->nr_vgpus--;
	gpu_drop_vgpu(parent->gpu);
	mutex_unlock(&gpus_lock);
}

static int vgpu_init(struct vfio_device *vdev)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, vdev);
	struct vgpu_type *type =
		container_of(to_mdev_device(vdev->dev)->type, struct vgpu_type, type);
	int ret;

	ret = take_instance(type);
	if (!ret)
		vgpu->parent = type->parent;
	return ret;
}

static void vgpu_release(struct vfio_device *vdev)
{
	give_instance(container_of(vdev, struct vgpu, vdev)->parent);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	vfio_free_device(vdev);
#endif
}

static int vgpu_open(struct vfio_device *vdev)
{
	return 0;
}

long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct vfio_device_info info;
	const unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);

	if (cmd != VFIO_DEVICE_GET_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	info.flags = VFIO_DEVICE_FLAGS_PCI;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
}

static const struct vfio_device_ops vgpu_ops = {
	.name = "nvidia-vgpu-vfio",
	.init = vgpu_init,
	.release = vgpu_release,
	.open_device = vgpu_open,
	.ioctl = vgpu_ioctl,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
};

static int vgpu_probe(struct mdev_device *mdev)
{
	struct vgpu *vgpu;
	int ret;

	msleep(create_ms);
	if (create_errno)
		return -(int)create_errno;
	vgpu = vfio_alloc_device(vgpu, vdev, &mdev->dev, &vgpu_ops);
	if (IS_ERR(vgpu))
		return PTR_ERR(vgpu);
	ret = vfio_register_emulated_iommu_dev(&vgpu->vdev);
	if (ret) {
		vfio_put_device(&vgpu->vdev);
		return ret;
	}
	dev_set_drvdata(&mdev->dev, vgpu);
	return 0;
}

static void vgpu_remove(struct mdev_device *mdev)
{
	struct vgpu *vgpu = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&vgpu->vdev);
	vfio_put_device(&vgpu->vdev);
}

/* nvidia/vgpu_params: plugin parameters, as NAME=VALUE */

static ssize_t vgpu_params_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct vgpu *vgpu = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%s\n", vgpu->params);
}

static ssize_t vgpu_params_store(struct device *dev, struct device_attribute *attr,
				 const char *text, size_t size)
{
	struct vgpu *vgpu = dev_get_drvdata(dev);

	if (!strchr(text, '=') || size >= sizeof(vgpu->params))
		return -EINVAL;
	strscpy(vgpu->params, text, sizeof(vgpu->params));
	strim(vgpu->params);
	return size;
}
static DEVICE_ATTR_RW(vgpu_params);

static struct attribute *vgpu_attrs[] = {
	&dev_attr_vgpu_params.attr,
	NULL,
};

static const struct attribute_group vgpu_group = {
	.name = "nvidia",
	.attrs = vgpu_attrs,
};

static const struct attribute_group *vgpu_groups[] = {
	&vgpu_group,
	NULL,
};

struct mdev_driver vgpu_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.driver = {
		.name = "nvidia-vgpu-vfio",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = vgpu_groups,
	},
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.get_available = vgpu_get_available,
	.show_description = vgpu_show_description,
};

/* Parents of vGPUs */

static void free_parent(struct vgpu_parent *parent)
{
	if (!parent)
		return;
	kfree(parent->pointers);
	kfree(parent->types);
	kfree(parent);
}

static struct vgpu_parent *alloc_parent(const struct vgpu_model *models, unsigned int nr)
{
	struct vgpu_parent *parent;
	unsigned int i;

	parent = kzalloc(sizeof(*parent), GFP_KERNEL);
	if (!parent)
		return NULL;
	parent->types = kcalloc(nr, sizeof(*parent->types), GFP_KERNEL);
	parent->pointers = kcalloc(nr, sizeof(*parent->pointers), GFP_KERNEL);
	if (!parent->types || !parent->pointers) {
		free_parent(parent);
		return NULL;
	}
	for (i = 0; i < nr; i++) {
		parent->types[i].type.sysfs_name = models[i].id;
		parent->types[i].type.pretty_name = models[i].name;
		parent->types[i].model = &models[i];
		parent->types[i].parent = parent;
		parent->pointers[i] = &parent->types[i].type;
	}
	return parent;
}

/* NULL: this function carries no mediated devices. */
struct vgpu_parent *register_parent(struct pci_dev *pdev, struct gpu *gpu)
{
	const struct vgpu_model *models;
	struct vgpu_parent *parent;
	unsigned int nr;
	int ret;

	if (pdev->is_virtfn && pdev->device == DEVICE_A10) {
		models = a10_models;
		nr = ARRAY_SIZE(a10_models);
	} else if (pdev->device == DEVICE_T4) {
		models = t4_models;
		nr = ARRAY_SIZE(t4_models);
	} else {
		return NULL;
	}
	parent = alloc_parent(models, nr);
	if (!parent)
		return ERR_PTR(-ENOMEM);
	parent->gpu = gpu;
	parent->is_vf = pdev->is_virtfn;
	ret = mdev_register_parent(&parent->parent, &pdev->dev, &vgpu_driver, parent->pointers, nr);
	if (ret) {
		free_parent(parent);
		return ERR_PTR(ret);
	}
	return parent;
}

void unregister_parent(struct vgpu_parent *parent)
{
	if (!parent)
		return;
	mdev_unregister_parent(&parent->parent);
	free_parent(parent);
}
