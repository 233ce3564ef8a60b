/* Helper processes: internal to the C core. */

#define VH_HELPER_FDS 3		/* the most fds that a helper keeps */

int vh_fork(int *pipe_fd, const int *keep, int kept, int options);
int vh_send(int fd, const void *data, size_t size);
