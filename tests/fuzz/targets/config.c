/*
 * Fuzzes the walk of a configuration space. The input says how many bytes of it there are, and
 * which dwords of it are not zero; what comes of it is compared with the bytes.
 */

#include "../../../csrc/config.c"

#undef NDEBUG
#include <assert.h>
#include <stdlib.h>

#define RECORD 6	/* the number of a dword, and the dword */

static uint32_t dword(const uint8_t *bytes, size_t offset)
{
	return (uint32_t)bytes[offset] | (uint32_t)bytes[offset + 1] << 8 |
	       (uint32_t)bytes[offset + 2] << 16 | (uint32_t)bytes[offset + 3] << 24;
}

static void check_capabilities(const uint8_t *bytes, size_t size, const struct vh_config *config)
{
	uint8_t seen[VH_CONFIG_MAX] = { 0 };

	for (int i = 0; i < config->count; i++) {
		const struct vh_capability *found = &config->capabilities[i];
		size_t offset = found->offset;

		assert(offset % 4 == 0 && offset >= STANDARD_START && !seen[offset]);
		seen[offset] = 1;
		if (offset < STANDARD_END) {
			assert(offset + 2 <= size && found->id == bytes[offset] && !found->version);
			continue;
		}
		assert(offset + 4 <= size && found->id == (dword(bytes, offset) & 0xffff));
		assert(found->version == (dword(bytes, offset) >> 16 & 0xf));
	}
}

static void check_registers(const struct vh_config *config)
{
	const int64_t *registers = &config->command;
	size_t count = (offsetof(struct vh_config, capabilities) -
			offsetof(struct vh_config, command)) / sizeof(*registers);

	for (size_t i = 0; i < count; i++)
		assert(registers[i] >= ABSENT && registers[i] <= UINT32_MAX);
	assert((config->exp_type < 0) == (config->exp_version < 0));
	assert((config->exp_type < 0) == (config->exp_payload < 0));
	assert((config->exp_speed < 0) == (config->exp_max_width < 0));
	assert((config->sriov_on < 0) == (config->sriov_vf_device < 0));
	assert((config->acs_capability < 0) == (config->acs_control < 0));
	assert((config->dsn_low < 0) == (config->dsn_high < 0));
	assert((config->pm_version < 0) == (config->pm_state < 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vh_config config, again;
	size_t length;
	uint8_t *bytes;

	if (size < 2)
		return 0;
	length = (size_t)(data[0] | data[1] << 8) % (VH_CONFIG_MAX + 5);
	/* Of the right size, so that a sanitizer sees who reads behind its end. */
	bytes = calloc(length ? length : 1, 1);
	assert(bytes);
	for (size_t i = 2; i + RECORD <= size; i += RECORD) {
		size_t offset = (size_t)(data[i] | data[i + 1] << 8) % (VH_CONFIG_MAX / 4) * 4;

		for (size_t j = 0; j < 4 && offset + j < length; j++)
			bytes[offset + j] = data[i + 2 + j];
	}
	memset(&config, 0xa5, sizeof(config));
	assert(vh_decode_config(bytes, length, &config) == config.count);
	assert(config.count >= 0 && config.count <= VH_CAPABILITIES);
	assert(config.chain >= VH_CHAIN_NONE && config.chain <= VH_CHAIN_ASTRAY);
	assert(config.extended_chain >= VH_CHAIN_NONE && config.extended_chain <= VH_CHAIN_ASTRAY);
	check_capabilities(bytes, length, &config);
	check_registers(&config);
	vh_decode_config(bytes, length, &again);
	assert(memcmp(&config, &again, sizeof(config)) == 0);
	free(bytes);
	return 0;
}
