/*
 * The floor that the bulk scan is measured against: the least a C program does to obtain the same
 * fields of every PCI function with the same confinement. It parses nothing and keeps the bytes.
 *
 *	floor ROOT ROUNDS
 *
 * prints the seconds of a first loop over all functions, which warms up, and of each round.
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
static volatile int vfio;	/* whether NVIDIA's driver has made a VFIO device of it */

static int open_inside(int root, const char *path, unsigned long long flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static void attribute(int dir, const char *name, char *buffer)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (read(fd, buffer, sizeof(fields[0])) < 0)
		buffer[0] = '\0';
	close(fd);
}

static void target(int dir, const char *name, char *buffer)
{
	long n = readlinkat(dir, name, buffer, sizeof(fields[0]) - 1);

	buffer[n < 0 ? 0 : n] = '\0';
}

static void function(int root, int bus, const char *name)
{
	char path[sizeof(BUS) + 256] = BUS "/";
	int dir;

	target(bus, name, fields[0]);
	strcpy(path + sizeof(BUS), name);
	dir = open_inside(root, path, O_PATH | O_DIRECTORY);
	if (dir < 0)
		return;
	attribute(dir, "modalias", fields[1]);
	attribute(dir, "revision", fields[2]);
	attribute(dir, "numa_node", fields[3]);
	attribute(dir, "sriov_totalvfs", fields[4]);
	target(dir, "driver", fields[5]);
	target(dir, "iommu_group", fields[6]);
	target(dir, "physfn", fields[7]);
	if (fields[7][0] && strstr(fields[5], "/nvidia"))
		vfio = faccessat(dir, "vfio-dev", F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
		       faccessat(dir, "nvidia", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	close(dir);
}

static void all_functions(int root)
{
	int bus = open_inside(root, BUS, O_RDONLY | O_DIRECTORY);
	DIR *entries = bus < 0 ? NULL : fdopendir(bus);
	struct dirent *entry;

	if (!entries) {
		perror(BUS);
		exit(1);
	}
	while ((entry = readdir(entries))) {
		if (entry->d_name[0] != '.')
			function(root, bus, entry->d_name);
	}
	closedir(entries);
}

int main(int argc, char **argv)
{
	int root = argc == 3 ? open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	struct timespec from, to;

	if (root < 0) {
		fprintf(stderr, "usage: floor ROOT ROUNDS\n");
		return 2;
	}
	for (int round = atoi(argv[2]); round >= 0; round--) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		all_functions(root);
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf("%.9f\n", (double)(to.tv_sec - from.tv_sec) +
				(double)(to.tv_nsec - from.tv_nsec) / 1e9);
	}
	return 0;
}
