/*
 * Declarations of the C core: read by cffi (build_native.py) and included by every C source, so
 * that the two cannot drift apart. cffi has no preprocessor: no conditionals, no includes, and
 * constants are plain numbers. A source includes <stddef.h> and <stdint.h> before this file.
 *
 * Every function returns >= 0, or -errno. The caller owns all memory. Paths are relative to the
 * directory that `root` is open on, and are resolved inside it: "..", absolute links and links
 * that climb never leave it. What each function does stands with its definition.
 */

/* Bits of `options`. */
#define VH_FALLBACK 1		/* do as on a kernel without openat2(2) and close_range(2) */
#define VH_ONLY_SYSFS 2		/* do not write to a file that is not on a sysfs */

/* Where an operation stood when it failed. */
#define VH_PHASE_OPEN 0
#define VH_PHASE_CHECK 1	/* VH_ONLY_SYSFS: the file is not on a sysfs */
#define VH_PHASE_TRANSFER 2	/* the read(2), or the one write(2) */

/* open.c */
int vh_open_root(const char *path);
int vh_open_in(int root, const char *path, int flags, unsigned int mode, int options);
int vh_is_sysfs(int fd);

/* read.c */
#define VH_ANSWER_MAX 65536	/* the most bytes that vh_read_start() reads of one file */

struct vh_answer {
	int32_t index;		/* which of the paths */
	int32_t result;		/* bytes that follow, or -errno */
};

int vh_read(int root, const char *path, void *buffer, size_t size, int options, int *phase);
int vh_readlink(int root, const char *path, char *buffer, size_t size, int options);
int vh_read_start(int root, const char *paths, int count, int options, int *answers);

/* store.c */
struct vh_outcome {
	int32_t result;		/* 0, or -errno */
	int32_t phase;		/* VH_PHASE_... of the error */
};

int vh_store(int root, const char *path, const void *data, size_t size, int options, int *phase);
int vh_store_start(int root, const char *path, const void *data, size_t size, int keep_fd,
		   int options, int *outcome);
