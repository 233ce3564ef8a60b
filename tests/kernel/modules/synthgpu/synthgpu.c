// SPDX-License-Identifier: GPL-2.0-only
/*
 * synthgpu - NVIDIA cards made of memory, for tests.
 *
 * Takes over the configuration space of empty buses below PCIe root ports:
 * pci_bus_set_ops() puts accessors in place that answer from memory, and a
 * rescan makes the PCI core find the cards. All that the core, the IOMMU layer
 * and vfio-pci derive from configuration space is then real: sysfs, IOMMU
 * groups, SR-IOV, device links between the functions of a card. Behind the
 * BARs there is nothing: reads of them return ones.
 */

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#define VENDOR_NVIDIA	0x10de

/* Standard capabilities: power management, MSI, PCI Express */
#define POS_PM		0x60
#define POS_MSI		0x68
#define POS_EXP		0x78
/* Extended ones. They form a chain that begins at 0x100. */
#define POS_DSN		0x100
#define POS_ARI		0x10c
#define POS_SRIOV	0x120
/* The register in which the BIOS tells that the audio function is on */
#define NVIDIA_HDA	0x488

#define MAX_CARDS	8
#define MAX_FUNCTIONS	4
#define MAX_VFS		32

/**
 * struct bar_model - what a base address register asks for
 * @size: bytes, a power of two; 0 when there is no such register
 * @flags: the register's low bits (PCI_BASE_ADDRESS_*)
 *
 * A 64-bit register takes two entries, the second of which is empty.
 */
struct bar_model {
	u32 size;
	u32 flags;
};

struct function_model {
	u16 device;
	u32 class;
	u8 pin;
	struct bar_model bars[6];
};

struct card_model {
	const char *name;
	u16 subsystem;
	u16 total_vfs;
	u16 vf_offset;
	u16 vf_stride;
	struct bar_model vf_bars[6];
	unsigned int nr_functions;
	struct function_model functions[MAX_FUNCTIONS];
};

#define MEM32	PCI_BASE_ADDRESS_SPACE_MEMORY
#define PREF64	(PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH)
#define GPU_BARS \
	{ [0] = { SZ_16M, MEM32 }, [1] = { SZ_256M, PREF64 }, [3] = { SZ_32M, PREF64 } }

static const struct card_model models[] = {
	{
		/* SR-IOV as a vGPU host shows it; the frame buffer BARs are smaller. */
		.name = "a10",
		.subsystem = 0x1482,
		.total_vfs = 32,
		.vf_offset = 4,
		.vf_stride = 1,
		.vf_bars = {
			[0] = { SZ_256K, MEM32 },
			[1] = { SZ_16M, PREF64 },
			[3] = { SZ_1M, PREF64 },
		},
		.nr_functions = 1,
		.functions = {
			{ 0x2236, 0x030200, 1, GPU_BARS },
		},
	}, {
		.name = "rtx3090",
		.subsystem = 0x1454,
		.nr_functions = 2,
		.functions = {
			{ 0x2204, 0x030000, 1, GPU_BARS },
			{ 0x1aef, 0x040300, 2, { [0] = { SZ_16K, MEM32 } } },
		},
	}, {
		/* Turing's four functions: with USB and UCSI for VirtualLink */
		.name = "rtx2080",
		.subsystem = 0x12a4,
		.nr_functions = 4,
		.functions = {
			{ 0x1e87, 0x030000, 1, GPU_BARS },
			{ 0x10f8, 0x040300, 2, { [0] = { SZ_16K, MEM32 } } },
			{ 0x1ad8, 0x0c0330, 3, { [0] = { SZ_256K, PREF64 } } },
			{ 0x1ad9, 0x0c8000, 4, { [0] = { SZ_4K, MEM32 } } },
		},
	}, {
		.name = "t4",
		.subsystem = 0x12a2,
		.nr_functions = 1,
		.functions = {
			{ 0x1eb8, 0x030200, 1, GPU_BARS },
		},
	}, {
		/* A real one has 32 virtual functions: these are enough, and quicker to make. */
		.name = "l40s",
		.subsystem = 0x1851,
		.total_vfs = 7,
		.vf_offset = 4,
		.vf_stride = 1,
		.vf_bars = {
			[0] = { SZ_256K, MEM32 },
			[1] = { SZ_16M, PREF64 },
			[3] = { SZ_1M, PREF64 },
		},
		.nr_functions = 1,
		.functions = {
			{ 0x26b9, 0x030200, 1, GPU_BARS },
		},
	},
};

/**
 * struct config_space - one function's registers
 * @bytes: what reads return
 * @writable: the bits that writes change
 */
struct config_space {
	u8 bytes[PCI_CFG_SPACE_EXP_SIZE];
	u8 writable[PCI_CFG_SPACE_EXP_SIZE];
};

struct card {
	const struct card_model *model;
	struct pci_bus *bus;
	struct pci_ops *old_ops;
	struct config_space *functions;
	struct config_space *vfs;
};

static struct card cards[MAX_CARDS];
static unsigned int nr_cards;

static char *plug = "a10,a10,rtx3090,rtx2080,t4,l40s";
module_param(plug, charp, 0444);
MODULE_PARM_DESC(plug, "cards to plug into the empty root ports, in the order in which the kernel found these");

static void put(struct config_space *space, int pos, int size, u32 value)
{
	while (size--) {
		space->bytes[pos++] = value;
		value >>= 8;
	}
}

static void allow(struct config_space *space, int pos, int size, u32 bits)
{
	while (size--) {
		space->writable[pos++] = bits;
		bits >>= 8;
	}
}

static u32 get(const struct config_space *space, int pos, int size)
{
	u32 value = 0;

	while (size--)
		value = value << 8 | space->bytes[pos + size];
	return value;
}

/* The address bits below the size stay zero: that is how the core learns it. */
static void add_bars(struct config_space *space, int pos, const struct bar_model *bars)
{
	int i;

	for (i = 0; i < 6; i++) {
		if (!bars[i].size)
			continue;
		put(space, pos + 4 * i, 4, bars[i].flags);
		allow(space, pos + 4 * i, 4, -bars[i].size);
		if (bars[i].flags & PCI_BASE_ADDRESS_MEM_TYPE_64)
			allow(space, pos + 4 * i + 4, 4, ~0);
	}
}

/* The parts that physical and virtual functions share. */
static void add_common(struct config_space *space, const struct card_model *model, u32 class)
{
	put(space, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	allow(space, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
	      PCI_COMMAND_INTX_DISABLE);
	put(space, PCI_REVISION_ID, 4, class << 8 | 0xa1);
	allow(space, PCI_CACHE_LINE_SIZE, 1, 0xff);
	put(space, PCI_SUBSYSTEM_VENDOR_ID, 2, VENDOR_NVIDIA);
	put(space, PCI_SUBSYSTEM_ID, 2, model->subsystem);
	put(space, PCI_CAPABILITY_LIST, 1, POS_PM);

	put(space, POS_PM, 2, POS_MSI << 8 | PCI_CAP_ID_PM);
	put(space, POS_PM + PCI_PM_PMC, 2, 3);
	put(space, POS_PM + PCI_PM_CTRL, 2, PCI_PM_CTRL_NO_SOFT_RESET);
	allow(space, POS_PM + PCI_PM_CTRL, 2, PCI_PM_CTRL_STATE_MASK);

	put(space, POS_MSI, 2, POS_EXP << 8 | PCI_CAP_ID_MSI);
	put(space, POS_MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_64BIT);
	allow(space, POS_MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE);
	allow(space, POS_MSI + PCI_MSI_ADDRESS_LO, 4, ~3);
	allow(space, POS_MSI + PCI_MSI_ADDRESS_HI, 4, ~0);
	allow(space, POS_MSI + PCI_MSI_DATA_64, 2, 0xffff);

	put(space, POS_EXP, 2, PCI_CAP_ID_EXP);
	put(space, POS_EXP + PCI_EXP_FLAGS, 2, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	/* A reset is done as soon as it is asked for: its bit never reads as set. */
	put(space, POS_EXP + PCI_EXP_DEVCAP, 4, PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER);
	allow(space, POS_EXP + PCI_EXP_DEVCTL, 2, 0x7fff);
	/* x16 at 16 GT/s */
	put(space, POS_EXP + PCI_EXP_LNKCAP, 4, PCI_EXP_LNKCAP_SLS_16_0GB | 16 << 4);
	allow(space, POS_EXP + PCI_EXP_LNKCTL, 2, 0x0fff & ~PCI_EXP_LNKCTL_RL);
	put(space, POS_EXP + PCI_EXP_LNKSTA, 2, PCI_EXP_LNKSTA_CLS_16_0GB | 16 << 4);
	allow(space, POS_EXP + PCI_EXP_DEVCTL2, 2, 0xffff);
	put(space, POS_EXP + PCI_EXP_LNKCAP2, 4, PCI_EXP_LNKCAP2_SLS_16_0GB);
}

static void add_sriov(struct config_space *space, const struct card_model *model)
{
	put(space, POS_ARI, 4, PCI_EXT_CAP_ID_ARI | 1 << 16 | POS_SRIOV << 20);
	put(space, POS_SRIOV, 4, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	allow(space, POS_SRIOV + PCI_SRIOV_CTRL, 2,
	      PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI);
	put(space, POS_SRIOV + PCI_SRIOV_INITIAL_VF, 2, model->total_vfs);
	put(space, POS_SRIOV + PCI_SRIOV_TOTAL_VF, 2, model->total_vfs);
	allow(space, POS_SRIOV + PCI_SRIOV_NUM_VF, 2, 0xffff);
	put(space, POS_SRIOV + PCI_SRIOV_VF_OFFSET, 2, model->vf_offset);
	put(space, POS_SRIOV + PCI_SRIOV_VF_STRIDE, 2, model->vf_stride);
	put(space, POS_SRIOV + PCI_SRIOV_VF_DID, 2, model->functions[0].device);
	put(space, POS_SRIOV + PCI_SRIOV_SUP_PGSIZE, 4, 0x553);
	put(space, POS_SRIOV + PCI_SRIOV_SYS_PGSIZE, 4, 1);
	allow(space, POS_SRIOV + PCI_SRIOV_SYS_PGSIZE, 4, 0x553);
	add_bars(space, POS_SRIOV + PCI_SRIOV_BAR, model->vf_bars);
}

static void fill_function(struct config_space *space, const struct card *card, unsigned int index)
{
	const struct card_model *model = card->model;
	const struct function_model *function = &model->functions[index];

	add_common(space, model, function->class);
	put(space, PCI_VENDOR_ID, 2, VENDOR_NVIDIA);
	put(space, PCI_DEVICE_ID, 2, function->device);
	if (model->nr_functions > 1)
		put(space, PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_NORMAL | 0x80);
	add_bars(space, PCI_BASE_ADDRESS_0, function->bars);
	allow(space, PCI_INTERRUPT_LINE, 1, 0xff);
	put(space, PCI_INTERRUPT_PIN, 1, function->pin);
	put(space, NVIDIA_HDA, 4, BIT(25));

	/* A serial number that differs from card to card, as real ones do. */
	put(space, POS_DSN, 4, PCI_EXT_CAP_ID_DSN | 1 << 16 |
	    (model->total_vfs ? POS_ARI << 20 : 0));
	put(space, POS_DSN + 4, 4, 0x48b02d00 + (card - cards));
	put(space, POS_DSN + 8, 4, 0x5e170000);
	if (model->total_vfs)
		add_sriov(space, model);
}

static void fill_vf(struct config_space *space, const struct card *card)
{
	add_common(space, card->model, card->model->functions[0].class);
	/* What the SR-IOV specification asks for: the ids come from the PF. */
	put(space, PCI_VENDOR_ID, 4, ~0);
	put(space, PCI_CFG_SPACE_SIZE, 4, PCI_EXT_CAP_ID_ARI | 1 << 16);
}

static struct config_space *find_function(struct pci_bus *bus, unsigned int devfn)
{
	struct card *card;
	u32 ctrl, num_vfs;
	unsigned int index;

	for (card = cards; card < cards + MAX_CARDS; card++)
		if (card->bus == bus)
			break;
	if (card == cards + MAX_CARDS)
		return NULL;
	if (devfn < card->model->nr_functions)
		return &card->functions[devfn];
	if (!card->vfs || devfn < card->model->vf_offset)
		return NULL;
	ctrl = get(&card->functions[0], POS_SRIOV + PCI_SRIOV_CTRL, 2);
	num_vfs = get(&card->functions[0], POS_SRIOV + PCI_SRIOV_NUM_VF, 2);
	index = (devfn - card->model->vf_offset) / card->model->vf_stride;
	if (!(ctrl & PCI_SRIOV_CTRL_VFE) || index >= num_vfs || index >= card->model->total_vfs)
		return NULL;
	return &card->vfs[index];
}

static int synth_read(struct pci_bus *bus, unsigned int devfn, int pos, int size, u32 *value)
{
	const struct config_space *space = find_function(bus, devfn);

	if (!space || pos + size > PCI_CFG_SPACE_EXP_SIZE) {
		*value = ~0;
		return PCIBIOS_DEVICE_NOT_FOUND;
	}
	*value = get(space, pos, size);
	return PCIBIOS_SUCCESSFUL;
}

static int synth_write(struct pci_bus *bus, unsigned int devfn, int pos, int size, u32 value)
{
	struct config_space *space = find_function(bus, devfn);
	u8 bits;

	if (!space || pos + size > PCI_CFG_SPACE_EXP_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (; size--; pos++, value >>= 8) {
		bits = space->writable[pos];
		space->bytes[pos] = (space->bytes[pos] & ~bits) | (value & bits);
	}
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops synth_ops = {
	.read = synth_read,
	.write = synth_write,
};

static const struct card_model *find_model(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (!strcmp(models[i].name, name))
			return &models[i];
	return NULL;
}

/* Root ports are met in the order in which the kernel found them: on one root, by address. */
static struct pci_bus *next_empty_bus(struct pci_dev **port)
{
	while ((*port = pci_get_device(PCI_ANY_ID, PCI_ANY_ID, *port))) {
		if (pci_is_pcie(*port) && pci_pcie_type(*port) == PCI_EXP_TYPE_ROOT_PORT &&
		    (*port)->subordinate && list_empty(&(*port)->subordinate->devices))
			return (*port)->subordinate;
	}
	return NULL;
}

static int plug_card(const struct card_model *model, struct pci_bus *bus)
{
	struct card *card = &cards[nr_cards];
	unsigned int i;

	card->model = model;
	card->functions = vzalloc(array_size(model->nr_functions, sizeof(*card->functions)));
	if (!card->functions)
		return -ENOMEM;
	for (i = 0; i < model->nr_functions; i++)
		fill_function(&card->functions[i], card, i);
	if (model->total_vfs) {
		card->vfs = vzalloc(array_size(model->total_vfs, sizeof(*card->vfs)));
		if (!card->vfs) {
			vfree(card->functions);
			return -ENOMEM;
		}
		for (i = 0; i < model->total_vfs; i++)
			fill_vf(&card->vfs[i], card);
	}
	card->bus = bus;
	card->old_ops = pci_bus_set_ops(bus, &synth_ops);
	nr_cards++;
	pr_info("synthgpu: %s on bus %04x:%02x\n", model->name, pci_domain_nr(bus), bus->number);
	return 0;
}

static void unplug_cards(void)
{
	struct pci_dev *dev, *tmp;
	struct card *card;

	pci_lock_rescan_remove();
	while (nr_cards) {
		card = &cards[--nr_cards];
		/* From the back: virtual functions go before the one that made them. */
		list_for_each_entry_safe_reverse(dev, tmp, &card->bus->devices, bus_list)
			pci_stop_and_remove_bus_device(dev);
		pci_bus_set_ops(card->bus, card->old_ops);
		vfree(card->functions);
		vfree(card->vfs);
		memset(card, 0, sizeof(*card));
	}
	pci_unlock_rescan_remove();
}

static int plug_cards(char *names)
{
	const struct card_model *model;
	struct pci_dev *port = NULL;
	struct pci_bus *bus;
	char *name;
	int ret = 0;

	while (!ret && (name = strsep(&names, ","))) {
		model = find_model(name);
		bus = model && nr_cards < MAX_CARDS ? next_empty_bus(&port) : NULL;
		if (!bus) {
			pr_err("synthgpu: no %s for '%s'\n", model ? "empty root port" : "model",
			       name);
			ret = -ENODEV;
		} else {
			ret = plug_card(model, bus);
		}
	}
	pci_dev_put(port);
	return ret;
}

static int __init synthgpu_init(void)
{
	unsigned int i;
	char *names;
	int ret;

	names = kstrdup(plug, GFP_KERNEL);
	if (!names)
		return -ENOMEM;
	ret = plug_cards(names);
	kfree(names);
	if (ret) {
		unplug_cards();
		return ret;
	}
	pci_lock_rescan_remove();
	for (i = 0; i < nr_cards; i++)
		pci_rescan_bus(cards[i].bus);
	pci_unlock_rescan_remove();
	return 0;
}

static void __exit synthgpu_exit(void)
{
	unplug_cards();
}

module_init(synthgpu_init);
module_exit(synthgpu_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("NVIDIA cards made of memory, for tests");
