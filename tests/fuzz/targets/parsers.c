/*
 * Fuzzes what the scan makes of texts: an address, a number, a modalias. Whatever is accepted must
 * be what the kernel would write for the value that was read.
 */

#include "folder.c"
#include "../../../csrc/scan.c"

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* The scan's ends that nothing here reaches. */
int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options)
{
	(void)root, (void)path, (void)flags, (void)mode, (void)options;
	abort();
}

static void check_address(const char *text)
{
	struct vh_function f = { .key = -1 };
	char again[32];

	if (vh_read_address(text, &f) < 0)
		return;
	snprintf(again, sizeof(again), "%04x:%02x:%02x.%d", f.domain, f.bus, f.device, f.function);
	assert(strcmp(again, text) == 0);
	assert(f.key >= 0 && f.key >> 16 == f.domain && (f.key >> 8 & 0xff) == f.bus);
	assert((f.key >> 3 & 0x1f) == f.device && (f.key & 7) == f.function);
}

static void check_integer(const char *text, int32_t max)
{
	int32_t value = -1;
	char *end;
	long long said;

	if (read_integer(text, max, &value) != 0)
		return;
	said = strtoll(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
	assert(end != text && (*end == '\0' || strcmp(end, "\n") == 0));
	assert(value == said && value >= 0 && value <= max);
}

static void check_modalias(const char *text)
{
	struct vh_function f = { .key = -1 };
	char again[80];
	size_t length;

	if (read_modalias(text, &f) != 0)
		return;
	snprintf(again, sizeof(again), "pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02x", f.vendor_id,
		 f.device_id, f.subsystem_vendor_id, f.subsystem_device_id, f.class_code >> 16,
		 f.class_code >> 8 & 0xff, f.class_code & 0xff);
	length = strlen(again);
	assert(strncasecmp(again, text, length) == 0);
	assert(text[length] == '\0' || strcmp(text + length, "\n") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	/* read_attribute() and the entries of a directory give texts that end before their NUL. */
	if (size == 0 || size >= ATTRIBUTE_MAX || memchr(data, '\0', size))
		return 0;
	text = malloc(size + 1);
	assert(text);
	memcpy(text, data, size);
	text[size] = '\0';
	check_address(text);
	check_integer(text, INT32_MAX);
	check_integer(text, 0xff);
	check_modalias(text);
	free(text);
	return 0;
}
