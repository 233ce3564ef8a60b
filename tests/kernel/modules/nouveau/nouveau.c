// SPDX-License-Identifier: GPL-2.0-only
/*
 * A stand-in for a display driver of the kernel's own, for tests. Built under
 * two names: as nouveau, it drives the display functions with vendor 10de and
 * takes the place of the real one, which would look for hardware behind the
 * BARs; as nvidiafb, it brings the alias of a driver that a Debian kernel is
 * built without, and never gets a function.
 */

#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>

static uint probe_ms;
module_param(probe_ms, uint, 0644);
MODULE_PARM_DESC(probe_ms, "how long a probe takes");

static uint remove_ms;
module_param(remove_ms, uint, 0644);
MODULE_PARM_DESC(remove_ms, "how long a remove takes");

static uint clients;
module_param(clients, uint, 0644);
MODULE_PARM_DESC(clients, "who uses the cards: a remove waits until 0");

static uint probe_errno;
module_param(probe_errno, uint, 0644);
MODULE_PARM_DESC(probe_errno, "the errno with which probes fail; 0: they succeed");

static int stand_in_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	msleep(probe_ms);
	/* The real ones know no virtual functions either. */
	if (pdev->is_virtfn)
		return -ENODEV;
	if (probe_errno)
		return -(int)probe_errno;
	return pcim_enable_device(pdev);
}

static void stand_in_remove(struct pci_dev *pdev)
{
	while (READ_ONCE(clients))
		msleep(20);
	msleep(remove_ms);
}

static const struct pci_device_id stand_in_ids[] = {
	{ PCI_DEVICE(0x10de, PCI_ANY_ID), PCI_BASE_CLASS_DISPLAY << 16, 0xff << 16 },
	{ }
};
MODULE_DEVICE_TABLE(pci, stand_in_ids);

static struct pci_driver stand_in_driver = {
	.name = KBUILD_MODNAME,
	.id_table = stand_in_ids,
	.probe = stand_in_probe,
	.remove = stand_in_remove,
};
module_pci_driver(stand_in_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for a display driver, for tests");
