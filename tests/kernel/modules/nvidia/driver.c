// SPDX-License-Identifier: GPL-2.0-only
/*
 * nvidia - a stand-in for NVIDIA's vGPU host driver, for tests.
 *
 * It drives the display functions with vendor 10de. What it shows follows
 * NVIDIA's driver: the ids, names and descriptions of the types (mdev.c, vendor.c); one
 * type for all vGPUs of a card at a time; no SR-IOV through the plain
 * sriov_numvfs unless it is told to; unbindLock; and a remove() that waits for
 * the clients of the card. It has no alias, so that nothing loads it by itself
 * and lspci's "Kernel modules" stay those of the kernel.
 */

#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "nvidia.h"

static uint probe_ms;
module_param(probe_ms, uint, 0644);
MODULE_PARM_DESC(probe_ms, "how long a probe takes");

static uint remove_ms;
module_param(remove_ms, uint, 0644);
MODULE_PARM_DESC(remove_ms, "how long a remove takes");

static uint probe_errno;
module_param(probe_errno, uint, 0644);
MODULE_PARM_DESC(probe_errno, "the errno with which probes fail; 0: they succeed");

uint create_errno;
module_param(create_errno, uint, 0644);
MODULE_PARM_DESC(create_errno, "the errno with which the creation of a vGPU fails; 0: it succeeds");

uint create_ms;
module_param(create_ms, uint, 0644);
MODULE_PARM_DESC(create_ms, "how long the creation of a vGPU takes");

static uint clients;
module_param(clients, uint, 0644);
MODULE_PARM_DESC(clients, "who uses the cards: unbindLock is not given and a remove waits until 0");

static uint max_vfs;
module_param(max_vfs, uint, 0644);
MODULE_PARM_DESC(max_vfs, "how many virtual functions sriov_numvfs enables at most; 0: all");

DEFINE_MUTEX(gpus_lock);

static LIST_HEAD(gpus);
static struct proc_dir_entry *proc_gpus;

/* Cards */

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

/* All vGPUs of a card are of one type. */
unsigned int gpu_count_left(const struct gpu *gpu, const struct vgpu_model *model)
{
	lockdep_assert_held(&gpus_lock);
	if (gpu->model && gpu->model != model)
		return 0;
	return model->max_instance - gpu->nr_vgpus;
}

void gpu_add_vgpu(struct gpu *gpu, const struct vgpu_model *model)
{
	lockdep_assert_held(&gpus_lock);
	gpu->model = model;
	gpu->nr_vgpus++;
}

void gpu_drop_vgpu(struct gpu *gpu)
{
	lockdep_assert_held(&gpus_lock);
	if (!--gpu->nr_vgpus)
		gpu->model = NULL;
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
	struct function *function =
		takes_type(pdev) ? function_of_vf(pdev) : pci_get_drvdata(pdev);

	if (READ_ONCE(clients))
		pci_warn(pdev, "Attempting to remove device with non-zero usage count!\n");
	while (READ_ONCE(clients))
		msleep(20);
	msleep(remove_ms);
	if (takes_type(pdev))
		unregister_vf(pdev);
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
	if (takes_type(pdev)) {
		ret = register_vf(pdev, function);
		if (ret)
			goto put;
	} else {
		function->parent = register_parent(pdev, function->gpu);
		if (IS_ERR(function->parent)) {
			ret = PTR_ERR(function->parent);
			goto put;
		}
		pci_set_drvdata(pdev, function);
	}
	function->proc = proc_mkdir(pci_name(pdev), proc_gpus);
	proc_create_data("unbindLock", 0644, function->proc, &unbind_lock_ops, function);
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
