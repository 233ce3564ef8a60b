/* Runs a target on files, for compilers that have no fuzzer: replay FILE... */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		static uint8_t buffer[65536];
		FILE *file = fopen(argv[i], "rb");
		uint8_t *data;
		size_t size;

		if (!file)
			return 2;
		size = fread(buffer, 1, sizeof(buffer), file);
		fclose(file);
		/* Of the right size, so that a sanitizer sees who reads behind its end. */
		data = malloc(size ? size : 1);
		if (!data)
			return 2;
		for (size_t j = 0; j < size; j++)
			data[j] = buffer[j];
		LLVMFuzzerTestOneInput(data, size);
		free(data);
	}
	printf("%d\n", argc - 1);
	return 0;
}
