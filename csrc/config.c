/*
 * The configuration space of a PCI function, taken apart: its chains of capabilities, and those of
 * them that matter to who hands the function to a guest. The bytes may be anything.
 *
 * Registers and bits are those of include/uapi/linux/pci_regs.h; the walk is that of
 * pci_find_capability() and pci_find_ext_capability() in drivers/pci/pci.c, with an exact memory of
 * where it has been in place of their count of steps.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <linux/pci_regs.h>

#include "vfiohost.cdef.h"

#define STANDARD_START 0x40
#define STANDARD_END 0x100
#define ABSENT (-1)

/* pci_af_flr() in drivers/pci/pci.c wants both. */
#define AF_FLR (PCI_AF_CAP_TP | PCI_AF_CAP_FLR)

struct space {
	const uint8_t *bytes;
	size_t size;
};

/* Which dwords a chain has been at. */
struct path {
	uint8_t seen[VH_CONFIG_MAX / 4];
};

/* A little-endian register of @width bytes, or ABSENT where not all of it could be read. */
static int64_t get(const struct space *space, size_t offset, size_t width)
{
	uint32_t value = 0;

	if (offset + width > space->size)
		return ABSENT;
	for (size_t i = width; i-- > 0;)
		value = value << 8 | space->bytes[offset + i];
	return value;
}

/* The bits of a register under @mask, shifted down, or ABSENT where there is no register. */
static int64_t field(int64_t value, uint32_t mask)
{
	return value < 0 ? ABSENT : (value & mask) / (mask & -mask);
}

static void add(struct vh_config *config, uint32_t id, size_t offset, uint32_t version)
{
	struct vh_capability *found = &config->capabilities[config->count++];

	found->id = (uint16_t)id;
	found->offset = (uint16_t)offset;
	found->version = (uint16_t)version;
}

/* Note that a chain comes to a dword; whether it has been there. */
static int comes_again(struct path *path, size_t offset)
{
	uint8_t *seen = &path->seen[offset / 4];
	int before = *seen;

	*seen = 1;
	return before;
}

static int walk_standard(const struct space *space, struct vh_config *config)
{
	int64_t status = get(space, PCI_STATUS, 2), offset, header;
	int is_cardbus = field(get(space, PCI_HEADER_TYPE, 1), 0x7f) == PCI_HEADER_TYPE_CARDBUS;
	struct path path = { 0 };

	if (status >= 0 && !(status & PCI_STATUS_CAP_LIST))
		return VH_CHAIN_NONE;
	offset = get(space, is_cardbus ? PCI_CB_CAPABILITY_LIST : PCI_CAPABILITY_LIST, 1);
	if (status < 0 || offset < 0)
		return VH_CHAIN_CUT;
	for (offset &= ~3; offset; offset = header >> 8 & ~3) {
		if (offset < STANDARD_START)
			return VH_CHAIN_ASTRAY;
		header = get(space, (size_t)offset, 2);
		if (header < 0)
			return VH_CHAIN_CUT;
		if ((header & 0xff) == 0xff)
			return VH_CHAIN_ASTRAY;
		if (comes_again(&path, (size_t)offset))
			return VH_CHAIN_LOOP;
		add(config, header & 0xff, (size_t)offset, 0);
	}
	return VH_CHAIN_WHOLE;
}

static int walk_extended(const struct space *space, struct vh_config *config)
{
	int64_t offset = STANDARD_END, header;
	struct path path = { 0 };

	if (space->size == STANDARD_END)
		return VH_CHAIN_NONE;
	for (; offset; offset = header >> 20 & ~3) {
		if (offset < STANDARD_END)
			return VH_CHAIN_ASTRAY;
		header = get(space, (size_t)offset, 4);
		if (header < 0)
			return VH_CHAIN_CUT;
		if (header == 0 || header == UINT32_MAX)
			return offset == STANDARD_END ? VH_CHAIN_NONE : VH_CHAIN_ASTRAY;
		if (comes_again(&path, (size_t)offset))
			return VH_CHAIN_LOOP;
		add(config, header & 0xffff, (size_t)offset, header >> 16 & 0xf);
	}
	return VH_CHAIN_WHOLE;
}

/*
 * Where the first capability of a kind begins; VH_CONFIG_MAX, where no register is, when there is
 * none or its first @length bytes could not all be read.
 */
static size_t find(const struct vh_config *config, const struct space *space, uint16_t id,
		   int is_extended, size_t length)
{
	for (int i = 0; i < config->count; i++) {
		const struct vh_capability *found = &config->capabilities[i];

		if (found->id != id || (found->offset >= STANDARD_END) != is_extended)
			continue;
		return found->offset + length <= space->size ? found->offset : VH_CONFIG_MAX;
	}
	return VH_CONFIG_MAX;
}

static int has_link(int64_t type)
{
	switch (type) {
	case PCI_EXP_TYPE_ENDPOINT:
	case PCI_EXP_TYPE_LEG_END:
	case PCI_EXP_TYPE_ROOT_PORT:
	case PCI_EXP_TYPE_UPSTREAM:
	case PCI_EXP_TYPE_DOWNSTREAM:
	case PCI_EXP_TYPE_PCI_BRIDGE:
	case PCI_EXP_TYPE_PCIE_BRIDGE:
		return 1;
	default:	/* in the root complex (pcie_cap_has_lnkctl() in drivers/pci/access.c) */
		return 0;
	}
}

/* How many bytes of the PCI Express capability there are to look at; version 1 ends early. */
static size_t express_length(int64_t flags)
{
	if (field(flags, PCI_EXP_FLAGS_VERS) >= 2)
		return PCI_EXP_DEVCTL2 + 2;
	return has_link(field(flags, PCI_EXP_FLAGS_TYPE)) ? PCI_EXP_LNKSTA + 2 : PCI_EXP_DEVCTL + 2;
}

static void decode_express(const struct space *space, struct vh_config *config)
{
	size_t at = find(config, space, PCI_CAP_ID_EXP, 0, PCI_EXP_FLAGS + 2);
	int64_t flags = get(space, at + PCI_EXP_FLAGS, 2);
	int64_t link = ABSENT, status = ABSENT, more = ABSENT, switches = ABSENT;
	int64_t capability, control;

	at = find(config, space, PCI_CAP_ID_EXP, 0, express_length(flags));
	flags = get(space, at + PCI_EXP_FLAGS, 2);
	capability = get(space, at + PCI_EXP_DEVCAP, 4);
	control = get(space, at + PCI_EXP_DEVCTL, 2);
	config->exp_version = field(flags, PCI_EXP_FLAGS_VERS);
	config->exp_type = field(flags, PCI_EXP_FLAGS_TYPE);
	config->exp_flr = field(capability, PCI_EXP_DEVCAP_FLR);
	config->exp_max_payload = field(capability, PCI_EXP_DEVCAP_PAYLOAD);
	config->exp_payload = field(control, PCI_EXP_DEVCTL_PAYLOAD);
	if (has_link(config->exp_type)) {
		link = get(space, at + PCI_EXP_LNKCAP, 4);
		status = get(space, at + PCI_EXP_LNKSTA, 2);
	}
	config->exp_max_speed = field(link, PCI_EXP_LNKCAP_SLS);
	config->exp_max_width = field(link, PCI_EXP_LNKCAP_MLW);
	config->exp_speed = field(status, PCI_EXP_LNKSTA_CLS);
	config->exp_width = field(status, PCI_EXP_LNKSTA_NLW);
	if (config->exp_version >= 2) {
		more = get(space, at + PCI_EXP_DEVCAP2, 4);
		switches = get(space, at + PCI_EXP_DEVCTL2, 2);
	}
	config->exp_ari_forwarding = field(more, PCI_EXP_DEVCAP2_ARI);
	config->exp_ari_forwarding_on = field(switches, PCI_EXP_DEVCTL2_ARI);
}

static void decode_standard(const struct space *space, struct vh_config *config)
{
	size_t at = find(config, space, PCI_CAP_ID_PM, 0, PCI_PM_CTRL + 2);
	int64_t flags = get(space, at + PCI_PM_PMC, 2);

	config->pm_version = field(flags, PCI_PM_CAP_VER_MASK);
	config->pm_d1 = field(flags, PCI_PM_CAP_D1);
	config->pm_d2 = field(flags, PCI_PM_CAP_D2);
	config->pm_pme = field(flags, PCI_PM_CAP_PME_MASK);
	flags = get(space, at + PCI_PM_CTRL, 2);
	config->pm_state = field(flags, PCI_PM_CTRL_STATE_MASK);
	config->pm_no_soft_reset = field(flags, PCI_PM_CTRL_NO_SOFT_RESET);
	config->pm_pme_on = field(flags, PCI_PM_CTRL_PME_ENABLE);

	at = find(config, space, PCI_CAP_ID_MSI, 0, PCI_MSI_FLAGS + 2);
	flags = get(space, at + PCI_MSI_FLAGS, 2);
	config->msi_on = field(flags, PCI_MSI_FLAGS_ENABLE);
	config->msi_most = field(flags, PCI_MSI_FLAGS_QMASK);
	config->msi_used = field(flags, PCI_MSI_FLAGS_QSIZE);
	config->msi_64bit = field(flags, PCI_MSI_FLAGS_64BIT);
	config->msi_maskable = field(flags, PCI_MSI_FLAGS_MASKBIT);

	at = find(config, space, PCI_CAP_ID_MSIX, 0, PCI_MSIX_FLAGS + 2);
	flags = get(space, at + PCI_MSIX_FLAGS, 2);
	config->msix_last = field(flags, PCI_MSIX_FLAGS_QSIZE);
	config->msix_on = field(flags, PCI_MSIX_FLAGS_ENABLE);
	config->msix_masked = field(flags, PCI_MSIX_FLAGS_MASKALL);

	at = find(config, space, PCI_CAP_ID_AF, 0, PCI_AF_CAP + 1);
	flags = field(get(space, at + PCI_AF_CAP, 1), AF_FLR);
	config->af_flr = flags < 0 ? ABSENT : flags == field(AF_FLR, AF_FLR);
}

static void decode_extended(const struct space *space, struct vh_config *config)
{
	size_t at = find(config, space, PCI_EXT_CAP_ID_SRIOV, 1, PCI_SRIOV_VF_DID + 2);
	int64_t flags = get(space, at + PCI_SRIOV_CTRL, 2);

	config->sriov_on = field(flags, PCI_SRIOV_CTRL_VFE);
	config->sriov_memory_on = field(flags, PCI_SRIOV_CTRL_MSE);
	config->sriov_ari_on = field(flags, PCI_SRIOV_CTRL_ARI);
	config->sriov_initial_vfs = get(space, at + PCI_SRIOV_INITIAL_VF, 2);
	config->sriov_total_vfs = get(space, at + PCI_SRIOV_TOTAL_VF, 2);
	config->sriov_num_vfs = get(space, at + PCI_SRIOV_NUM_VF, 2);
	config->sriov_offset = get(space, at + PCI_SRIOV_VF_OFFSET, 2);
	config->sriov_stride = get(space, at + PCI_SRIOV_VF_STRIDE, 2);
	config->sriov_vf_device = get(space, at + PCI_SRIOV_VF_DID, 2);

	at = find(config, space, PCI_EXT_CAP_ID_ACS, 1, PCI_ACS_CTRL + 2);
	config->acs_capability = get(space, at + PCI_ACS_CAP, 2);
	config->acs_control = get(space, at + PCI_ACS_CTRL, 2);

	at = find(config, space, PCI_EXT_CAP_ID_ARI, 1, PCI_ARI_CAP + 2);
	config->ari_next_function = field(get(space, at + PCI_ARI_CAP, 2), 0xff00);

	at = find(config, space, PCI_EXT_CAP_ID_DSN, 1, 12);
	config->dsn_low = get(space, at + 4, 4);
	config->dsn_high = get(space, at + 8, 4);
}

/* Whether the bytes are more than what the bus gives where nobody answers: ones. */
static int answers(const struct space *space)
{
	for (size_t i = 0; i < space->size && i < STANDARD_START; i++)
		if (space->bytes[i] != 0xff)
			return 1;
	return 0;
}

/**
 * vh_decode_config() - Take the configuration space of a PCI function apart.
 * @bytes: It, or as much of it as could be read. It may make no sense at all.
 * @size: How many bytes: 64 (what the kernel gives an ordinary user), 256, 4096 or anything else;
 *	what lies behind VH_CONFIG_MAX is not looked at.
 * @config: Filled in, all of it.
 *
 * Of several capabilities of a kind the first one is decoded, as the kernel does. Vital product
 * data are behind registers that have to be written to: of them it is only said that they are there.
 *
 * Return: How many capabilities were found, at most VH_CAPABILITIES.
 */
int vh_decode_config(const void *bytes, size_t size, struct vh_config *config)
{
	struct space space = { bytes, size < VH_CONFIG_MAX ? size : VH_CONFIG_MAX };
	struct space standard = { bytes, size < STANDARD_END ? size : STANDARD_END };

	memset(config, 0, sizeof(*config));
	config->answers = answers(&space);
	if (config->answers) {
		config->chain = walk_standard(&standard, config);
		config->extended_chain = walk_extended(&space, config);
	}
	config->command = config->answers ? get(&space, PCI_COMMAND, 2) : ABSENT;
	decode_standard(&standard, config);
	decode_express(&standard, config);
	decode_extended(&space, config);
	return config->count;
}
