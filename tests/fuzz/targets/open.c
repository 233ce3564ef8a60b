/*
 * Fuzzes opens below a root: a small tree and a path are made of the input, and the walk of our own
 * must come to the same file, or the same errno, as the kernel's openat2(RESOLVE_IN_ROOT).
 *
 * The tree is made in $VFIOHOST_FUZZ_DIR, on a tmpfs if possible.
 */

#include "../../../csrc/open.c"

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_THINGS 10

static const uint8_t *at, *end;
static int root = -1, outside_device;
static ino_t outside;

static unsigned int take(void)
{
	return at < end ? *at++ : 0;
}

/* A path of few and short names, so that it often leads somewhere. */
static void take_path(char *path, int most)
{
	static const char *const parts[] = { "a", "b", "c", "..", ".", "", "/", "a/b" };
	int count = (int)(take() % (unsigned int)most) + 1;
	char *out = path;

	for (int i = 0; i < count; i++)
		out += sprintf(out, "%s%s", i ? "/" : "", parts[take() % 8]);
	if (take() % 8 == 7)
		strcpy(out, "/");
}

static void make_things(char things[MAX_THINGS][64], int count)
{
	for (int i = 0; i < count; i++) {
		char target[64];
		unsigned int kind = take() % 4;

		take_path(things[i], 3);
		take_path(target, 6);
		/* openat2(2) makes them, too: nothing may come to lie outside. */
		if (things[i][0] == '/' || strstr(things[i], "..")) {
			things[i][0] = '\0';
			continue;
		}
		if (kind == 0)
			close(openat(root, things[i], O_CREAT | O_WRONLY | O_NOFOLLOW | O_EXCL, 0600));
		else if (kind == 1)
			mkdirat(root, things[i], 0700);
		else
			symlinkat(target, root, things[i]);
	}
}

static void remove_things(int dir)
{
	/* Deepest first; what is a directory with something in it goes in the next round. */
	static const char *const names[] = { "a", "b", "c" };

	for (int i = 0; i < 3; i++) {
		int inner;

		if (unlinkat(dir, names[i], 0) == 0 || errno == ENOENT)
			continue;
		inner = openat(dir, names[i], O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		assert(inner >= 0);
		remove_things(inner);
		close(inner);
		assert(unlinkat(dir, names[i], AT_REMOVEDIR) == 0);
	}
}

static void prepare(void)
{
	const char *folder = getenv("VFIOHOST_FUZZ_DIR");
	char name[4096];
	struct stat st;

	assert(folder && snprintf(name, sizeof(name), "%s/XXXXXX", folder) < (int)sizeof(name));
	assert(mkdtemp(name) && stat(name, &st) == 0);
	outside = st.st_ino;
	outside_device = (int)st.st_dev;
	/* The same names lie outside: whoever gets out finds something. */
	strcat(name, "/root");
	assert(mkdir(name, 0700) == 0);
	root = vh_open_root(name);
	assert(root >= 0);
	mkdirat(root, "../a", 0700);
	mkdirat(root, "../b", 0700);
	close(openat(root, "../c", O_CREAT | O_WRONLY, 0600));
}

static void compare(const char *path, int flags)
{
	struct stat kernel_st, walk_st;
	int kernel, walk;

	/* EAGAIN: somebody renamed something on this machine, again and again. */
	do
		kernel = open_openat2(root, path, flags | O_CLOEXEC, 0);
	while (kernel == -EAGAIN);
	walk = open_walking(root, path, flags | O_CLOEXEC, 0);
	assert((kernel >= 0) == (walk >= 0));
	if (kernel < 0) {
		assert(kernel == walk);
		return;
	}
	assert(fstat(kernel, &kernel_st) == 0 && fstat(walk, &walk_st) == 0);
	assert(kernel_st.st_ino == walk_st.st_ino && kernel_st.st_dev == walk_st.st_dev);
	assert(kernel_st.st_ino != outside || (int)kernel_st.st_dev != outside_device);
	close(kernel);
	close(walk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int flags[] = { O_PATH, O_PATH | O_NOFOLLOW, O_RDONLY | O_NONBLOCK,
				     O_RDONLY | O_DIRECTORY, O_RDONLY | O_NOFOLLOW };
	char things[MAX_THINGS][64], path[128];

	if (root < 0)
		prepare();
	at = data;
	end = data + size;
	make_things(things, (int)(take() % MAX_THINGS));
	do {
		take_path(path, 12);
		compare(path, flags[take() % 5]);
	} while (at < end);
	remove_things(root);
	return 0;
}
