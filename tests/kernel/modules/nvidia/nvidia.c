// SPDX-License-Identifier: GPL-2.0-only
/*
 * nvidia - a stand-in for NVIDIA's vGPU host driver, for tests.
 *
 * It drives the display functions with vendor 10de and makes mdev parents of
 * the virtual functions of an A10 and of a T4. What it shows follows NVIDIA's
 * driver: the ids, names and descriptions of the types; one type for all vGPUs
 * of a card at a time; one vGPU on a virtual function; no SR-IOV through the
 * plain sriov_numvfs unless it is told to; unbindLock; and a remove() that waits
 * for the clients of the card. It has no alias, so that nothing loads it by
 * itself and lspci's "Kernel modules" stay those of the kernel.
 */

#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vfio.h>

#include "models.h"

#define VENDOR_NVIDIA	0x10de
#define DEVICE_A10	0x2236
#define DEVICE_T4	0x1eb8

static uint probe_ms;
module_param(probe_ms, uint, 0644);
MODULE_PARM_DESC(probe_ms, "how long a probe takes");

static uint remove_ms;
module_param(remove_ms, uint, 0644);
MODULE_PARM_DESC(remove_ms, "how long a remove takes");

static uint probe_errno;
module_param(probe_errno, uint, 0644);
MODULE_PARM_DESC(probe_errno, "the errno with which probes fail; 0: they succeed");

static uint create_errno;
module_param(create_errno, uint, 0644);
MODULE_PARM_DESC(create_errno, "the errno with which the creation of a vGPU fails; 0: it succeeds");

static uint clients;
module_param(clients, uint, 0644);
MODULE_PARM_DESC(clients, "who uses the cards: unbindLock is not given and a remove waits until 0");

static uint max_vfs;
module_param(max_vfs, uint, 0644);
MODULE_PARM_DESC(max_vfs, "how many virtual functions sriov_numvfs enables at most; 0: all");

/**
 * struct gpu - a card, shared by its physical and virtual functions
 * @list: in gpus
 * @pf: the physical function
 * @users: functions that are bound
 * @model: the type of its vGPUs, NULL while there are none
 * @nr_vgpus: how many there are
 */
struct gpu {
	struct list_head list;
	struct pci_dev *pf;
	unsigned int users;
	const struct vgpu_model *model;
	unsigned int nr_vgpus;
};

struct vgpu_parent;

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
 * struct function - a PCI function that this driver is bound to
 * @gpu: its card
 * @parent: NULL when it carries no vGPUs
 * @proc: its directory below /proc/driver/nvidia/gpus
 * @unbind_lock: what unbindLock reads as
 */
struct function {
	struct gpu *gpu;
	struct vgpu_parent *parent;
	struct proc_dir_entry *proc;
	bool unbind_lock;
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

static LIST_HEAD(gpus);
static DEFINE_MUTEX(gpus_lock);	/* the list, and what is counted in gpus and parents */
static struct proc_dir_entry *proc_gpus;

static struct gpu *get_gpu(struct pci_dev *pf)
{
	struct gpu *gpu;

	mutex_lock(&gpus_lock);
	list_for_each_entry(gpu, &gpus, list)
		if (gpu->pf == pf)
			goto found;
	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu)
		goto out;
	gpu->pf = pci_dev_get(pf);
	list_add(&gpu->list, &gpus);
found:
	gpu->users++;
out:
	mutex_unlock(&gpus_lock);
	return gpu;
}

static void put_gpu(struct gpu *gpu)
{
	mutex_lock(&gpus_lock);
	if (!--gpu->users) {
		list_del(&gpu->list);
		pci_dev_put(gpu->pf);
		kfree(gpu);
	}
	mutex_unlock(&gpus_lock);
}

/* vGPUs */

static unsigned int count_available(const struct vgpu_type *type)
{
	const struct vgpu_parent *parent = type->parent;
	const struct gpu *gpu = parent->gpu;
	unsigned int left;

	lockdep_assert_held(&gpus_lock);
	if (gpu->model && gpu->model != type->model)
		return 0;
	left = type->model->max_instance - gpu->nr_vgpus;
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
		type->parent->gpu->model = type->model;
		type->parent->gpu->nr_vgpus++;
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
	if (!--parent->gpu->nr_vgpus)
		parent->gpu->model = NULL;
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

static long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
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

static struct mdev_driver vgpu_driver = {
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

/* NULL: this function carries no vGPUs. */
static struct vgpu_parent *register_parent(struct pci_dev *pdev, struct gpu *gpu)
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

static void unregister_parent(struct vgpu_parent *parent)
{
	if (!parent)
		return;
	mdev_unregister_parent(&parent->parent);
	free_parent(parent);
}

/* /proc/driver/nvidia/gpus/ADDRESS/unbindLock */

static int unbind_lock_show(struct seq_file *seq, void *unused)
{
	const struct function *function = seq->private;

	seq_printf(seq, "%d\n", function->unbind_lock);
	return 0;
}

static int unbind_lock_open(struct inode *inode, struct file *file)
{
	return single_open(file, unbind_lock_show, pde_data(inode));
}

/* As in NVIDIA's driver the write succeeds in any case: one has to read it back. */
static ssize_t unbind_lock_write(struct file *file, const char __user *text, size_t size,
				 loff_t *pos)
{
	struct function *function = pde_data(file_inode(file));
	bool wanted;
	int ret;

	ret = kstrtobool_from_user(text, size, &wanted);
	if (ret)
		return ret;
	function->unbind_lock = wanted && !READ_ONCE(clients);
	return size;
}

static const struct proc_ops unbind_lock_ops = {
	.proc_open = unbind_lock_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = unbind_lock_write,
};

/* PCI functions */

static int nvidia_sriov_configure(struct pci_dev *pdev, int wanted)
{
	int ret;

	if (!wanted) {
		pci_disable_sriov(pdev);
		return 0;
	}
	if (max_vfs)
		wanted = min_t(int, wanted, max_vfs);
	ret = pci_enable_sriov(pdev, wanted);
	return ret ? ret : wanted;
}

static void nvidia_remove(struct pci_dev *pdev)
{
	struct function *function = pci_get_drvdata(pdev);

	if (READ_ONCE(clients))
		pci_warn(pdev, "Attempting to remove device with non-zero usage count!\n");
	while (READ_ONCE(clients))
		msleep(20);
	msleep(remove_ms);
	unregister_parent(function->parent);
	proc_remove(function->proc);
	put_gpu(function->gpu);
	kfree(function);
}

static int nvidia_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct function *function;
	int ret;

	msleep(probe_ms);
	if (probe_errno)
		return -(int)probe_errno;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	function = kzalloc(sizeof(*function), GFP_KERNEL);
	if (!function)
		return -ENOMEM;
	ret = -ENOMEM;
	function->gpu = get_gpu(pci_physfn(pdev));
	if (!function->gpu)
		goto free;
	function->parent = register_parent(pdev, function->gpu);
	if (IS_ERR(function->parent)) {
		ret = PTR_ERR(function->parent);
		goto put;
	}
	function->proc = proc_mkdir(pci_name(pdev), proc_gpus);
	proc_create_data("unbindLock", 0644, function->proc, &unbind_lock_ops, function);
	pci_set_drvdata(pdev, function);
	return 0;

put:
	put_gpu(function->gpu);
free:
	kfree(function);
	return ret;
}

/* Not exported as aliases: see the top. */
static const struct pci_device_id nvidia_ids[] = {
	{ PCI_DEVICE(VENDOR_NVIDIA, PCI_ANY_ID), PCI_CLASS_DISPLAY_VGA << 8, ~0 },
	{ PCI_DEVICE(VENDOR_NVIDIA, PCI_ANY_ID), PCI_CLASS_DISPLAY_3D << 8, ~0 },
	{ }
};

static struct pci_driver nvidia_driver = {
	.name = "nvidia",
	.id_table = nvidia_ids,
	.probe = nvidia_probe,
	.remove = nvidia_remove,
};

/* The kernel itself refuses sriov_numvfs for a driver without sriov_configure. */
static int set_sriov(const char *text, const struct kernel_param *param)
{
	bool wanted;
	int ret;

	ret = kstrtobool(text, &wanted);
	if (!ret)
		nvidia_driver.sriov_configure = wanted ? nvidia_sriov_configure : NULL;
	return ret;
}

static int get_sriov(char *buf, const struct kernel_param *param)
{
	return sysfs_emit(buf, "%c\n", nvidia_driver.sriov_configure ? 'Y' : 'N');
}

static const struct kernel_param_ops sriov_ops = {
	.set = set_sriov,
	.get = get_sriov,
};
module_param_cb(sriov, &sriov_ops, NULL, 0644);
MODULE_PARM_DESC(sriov, "take a plain store to sriov_numvfs (default: refuse it)");

static int __init nvidia_init(void)
{
	int ret;

	proc_mkdir("driver/nvidia", NULL);
	proc_gpus = proc_mkdir("driver/nvidia/gpus", NULL);
	if (!proc_gpus) {
		ret = -ENOMEM;
		goto remove_proc;
	}
	ret = mdev_register_driver(&vgpu_driver);
	if (ret)
		goto remove_proc;
	ret = pci_register_driver(&nvidia_driver);
	if (ret)
		goto unregister;
	return 0;

unregister:
	mdev_unregister_driver(&vgpu_driver);
remove_proc:
	remove_proc_subtree("driver/nvidia", NULL);
	return ret;
}

static void __exit nvidia_exit(void)
{
	pci_unregister_driver(&nvidia_driver);
	mdev_unregister_driver(&vgpu_driver);
	remove_proc_subtree("driver/nvidia", NULL);
}

module_init(nvidia_init);
module_exit(nvidia_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for NVIDIA's vGPU host driver, for tests");
