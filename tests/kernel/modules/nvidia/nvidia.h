/* SPDX-License-Identifier: GPL-2.0-only */
/* What the parts of the stand-in share: cards, and the functions that it is bound to. */

#ifndef NVIDIA_H
#define NVIDIA_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/types.h>
#include <linux/version.h>

#include "models.h"

#define VENDOR_NVIDIA	0x10de
#define DEVICE_A10	0x2236
#define DEVICE_T4	0x1eb8
#define DEVICE_L40S	0x26b9

struct mdev_driver;
struct vfio_device;
struct vgpu_parent;

/**
 * struct gpu - a card, shared by its physical and virtual functions
 * @list: in the list of all
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

/**
 * struct function - a PCI function that this driver is bound to
 * @gpu: its card
 * @parent: NULL when it carries no mediated devices
 * @proc: its directory below /proc/driver/nvidia/gpus
 * @unbind_lock: what unbindLock reads as
 */
struct function {
	struct gpu *gpu;
	struct vgpu_parent *parent;
	struct proc_dir_entry *proc;
	bool unbind_lock;
};

/* driver.c */

extern uint create_errno;
extern uint create_ms;
extern struct mutex gpus_lock;	/* the cards, and what is counted in them and in parents */

unsigned int gpu_count_left(const struct gpu *gpu, const struct vgpu_model *model);
void gpu_add_vgpu(struct gpu *gpu, const struct vgpu_model *model);
void gpu_drop_vgpu(struct gpu *gpu);

/* mdev.c: vGPUs that are mediated devices */

extern struct mdev_driver vgpu_driver;

struct vgpu_parent *register_parent(struct pci_dev *pdev, struct gpu *gpu);
void unregister_parent(struct vgpu_parent *parent);
long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg);

/* vendor.c: virtual functions that are vGPUs. NVIDIA's driver has them from Linux 6.8 on. */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
bool takes_type(const struct pci_dev *pdev);
int register_vf(struct pci_dev *pdev, struct function *function);
void unregister_vf(struct pci_dev *pdev);
struct function *function_of_vf(struct pci_dev *pdev);
#else
static inline bool takes_type(const struct pci_dev *pdev)
{
	return false;
}

static inline int register_vf(struct pci_dev *pdev, struct function *function)
{
	return -ENODEV;
}

static inline void unregister_vf(struct pci_dev *pdev)
{
}

static inline struct function *function_of_vf(struct pci_dev *pdev)
{
	return NULL;
}
#endif

#endif
