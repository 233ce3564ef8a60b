/*
 * The floor that the bulk scan is measured against: the least a C program does to obtain the same
 * fields of every PCI function with the same confinement. It parses nothing and keeps the bytes.
 *
 *	floor ROOT ROUNDS
 *
 * prints the number of functions, the bytes that it obtained, then the seconds of each round.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BUS "sys/bus/pci/devices"

static char fields[8][512];

static int open_inside(int root, const char *path, unsigned long long flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static long attribute(int dir, const char *name, char *buffer)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	long n;

	if (fd < 0)
		return 0;
	n = read(fd, buffer, sizeof(fields[0]));
	close(fd);
	return n < 0 ? 0 : n;
}

static long target(int dir, const char *name, char *buffer)
{
	long n = readlinkat(dir, name, buffer, sizeof(fields[0]));

	return n < 0 ? 0 : n;
}

static long function(int root, int bus, const char *name)
{
	char path[sizeof(BUS) + 256] = BUS "/";
	long bytes;
	int dir;

	bytes = target(bus, name, fields[0]);
	strcpy(path + sizeof(BUS), name);
	dir = open_inside(root, path, O_PATH | O_DIRECTORY);
	if (dir < 0)
		return bytes;
	bytes += attribute(dir, "modalias", fields[1]);
	bytes += attribute(dir, "revision", fields[2]);
	bytes += attribute(dir, "numa_node", fields[3]);
	bytes += attribute(dir, "sriov_totalvfs", fields[4]);
	bytes += target(dir, "driver", fields[5]);
	bytes += target(dir, "iommu_group", fields[6]);
	bytes += target(dir, "physfn", fields[7]);
	close(dir);
	return bytes;
}

static long all_functions(int root, long *count)
{
	int bus = open_inside(root, BUS, O_RDONLY | O_DIRECTORY);
	DIR *entries = bus < 0 ? NULL : fdopendir(bus);
	struct dirent *entry;
	long bytes = 0;

	if (!entries) {
		perror(BUS);
		exit(1);
	}
	for (*count = 0; (entry = readdir(entries));) {
		if (entry->d_name[0] == '.')
			continue;
		bytes += function(root, bus, entry->d_name);
		++*count;
	}
	closedir(entries);
	return bytes;
}

int main(int argc, char **argv)
{
	int root = argc == 3 ? open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	struct timespec from, to;
	long count, bytes;

	if (root < 0) {
		fprintf(stderr, "usage: floor ROOT ROUNDS\n");
		return 2;
	}
	bytes = all_functions(root, &count);
	printf("%ld %ld", count, bytes);
	for (int round = atoi(argv[2]); round > 0; round--) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		all_functions(root, &count);
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf(" %.9f", (double)(to.tv_sec - from.tv_sec) +
				(double)(to.tv_nsec - from.tv_nsec) / 1e9);
	}
	printf("\n");
	return 0;
}
