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
int vh_read(int root, const char *path, void *buffer, size_t size, int options, int *phase);
int vh_readlink(int root, const char *path, char *buffer, size_t size, int options);

/* store.c */
int vh_store(int root, const char *path, const void *data, size_t size, int options, int *phase);

/* helper.c */
#define VH_REQUEST_MAX 65536	/* the most bytes of a request's body */
#define VH_ANSWER_MAX 65536	/* the most bytes that a helper reads of one file */

/* Kinds of requests. */
#define VH_READ 0
#define VH_STORE 1

struct vh_request {
	int32_t kind;		/* VH_READ, VH_STORE */
	int32_t options;	/* VH_FALLBACK, VH_ONLY_SYSFS */
	int32_t count;		/* VH_READ: how many paths */
	int32_t size;		/* VH_STORE: bytes of the value */
};

#define VH_RUNNING -1		/* the index of a helper's first message, which answers nothing */

struct vh_answer {
	int32_t index;		/* which of the paths, or VH_RUNNING */
	int32_t result;		/* VH_READ: bytes that follow; VH_STORE: 0; or -errno */
	int32_t phase;		/* VH_PHASE_... of an error */
};

int vh_helper_start(int options, int *socket);
int vh_helper_ask(int socket, const struct vh_request *request, const char *body, size_t size,
		  int root, int keep_fd);
void vh_helper_end(int socket);

/* scan.c */
#define VH_SCAN_ENTRIES 4096	/* room for one getdents64(2), in units of 8 bytes */
#define VH_SCAN_FUNCTIONS 1366	/* the most entries that fit there, 24 bytes at least each */
#define VH_SCAN_PATH 512	/* the longest path of a function, with its NUL */
#define VH_SCAN_NAME 256	/* the longest name of a driver or an entry, with its NUL */
#define VH_SCAN_TEXT 1049088	/* VH_SCAN_FUNCTIONS * (VH_SCAN_PATH + VH_SCAN_NAME) */

/* Indices of vh_function.errors. */
#define VH_FIELD_NAME 0		/* the entry's name is no address: nothing else was read */
#define VH_FIELD_PATH 1		/* its link or directory: nothing else was read */
#define VH_FIELD_MODALIAS 2
#define VH_FIELD_IDS 3		/* vendor, device and class, where modalias gave none */
#define VH_FIELD_REVISION 4
#define VH_FIELD_NUMA_NODE 5
#define VH_FIELD_TOTAL_VFS 6
#define VH_FIELD_DRIVER 7
#define VH_FIELD_IOMMU_GROUP 8
#define VH_FIELD_PHYSFN 9
#define VH_FIELDS 10

/* Bits of vh_function.marks. */
#define VH_ODD 1		/* something in errors is more than the absence of a file */
#define VH_BRINGS_VFIO 2	/* NVIDIA's driver has made a VFIO device of the virtual function */

#define VH_MALFORMED -1 	/* in vh_function.errors: it was read, but makes no sense */

struct vh_function {
	int64_t key;		/* its address, packed so that it sorts; -1 when it has none */
	int64_t physfn;		/* the address of its physical function, packed, or -1 */
	uint32_t domain;
	uint8_t bus, device, function;
	uint8_t marks;		/* VH_ODD, VH_BRINGS_VFIO */
	int32_t vendor_id, device_id, class_code;
	int32_t subsystem_vendor_id, subsystem_device_id;
	int32_t revision, numa_node, total_vfs, iommu_group;	/* -1: none, or see errors */
	int16_t errors[VH_FIELDS];	/* 0, an errno or VH_MALFORMED, by VH_FIELD_... */
};

struct vh_scan {
	uint64_t entries[VH_SCAN_ENTRIES];
	struct vh_function functions[VH_SCAN_FUNCTIONS];
	int32_t text_size;
	char text[VH_SCAN_TEXT];	/* per function: path (or entry's name), driver; NUL after each */
};

int vh_scan(int root, int devices, struct vh_scan *scan, int options);

/* mdev.c */
#define VH_PARENT_ENTRIES 4096	/* room for one getdents64(2), in units of 8 bytes */
#define VH_PARENT_TYPES 1024	/* the most types of one parent */
#define VH_PARENT_TEXT 4194304	/* room for their texts, enough for a page for each file */

/* Indices of the errors of a type, each about a file of it. */
#define VH_TYPE_NAME 0
#define VH_TYPE_AVAILABLE 1
#define VH_TYPE_API 2
#define VH_TYPE_DESCRIPTION 3
#define VH_TYPE_FILES 4

struct vh_parent {
	int64_t key, physfn;	/* as in vh_function; a parent may be no PCI function */
	int16_t physfn_error;	/* 0, an errno or VH_MALFORMED */
	int16_t types_error;	/* 0, or an errno: the types are not all there */
	int32_t types_at;	/* where in the text they begin */
	int32_t text_size;
	uint64_t entries[VH_PARENT_ENTRIES];
	int16_t errors[VH_PARENT_TYPES][VH_TYPE_FILES];	/* 0, an errno or VH_MALFORMED */
	char text[VH_PARENT_TEXT];	/* path; per type: id, files; NUL after each */
};

int vh_scan_parent(int root, int bus, const char *name, struct vh_parent *parent, int options);

/* config.c */
#define VH_CONFIG_MAX 4096	/* the bytes of a whole configuration space */
#define VH_CAPABILITIES 1008	/* (256 - 64) / 4 + (4096 - 256) / 4: each dword begins one at most */

/* How a chain of capabilities ended. */
#define VH_CHAIN_NONE 0		/* there is none */
#define VH_CHAIN_WHOLE 1	/* where it should */
#define VH_CHAIN_CUT 2		/* it leads, or may lead, to bytes that could not be read */
#define VH_CHAIN_LOOP 3		/* it comes back to where it has been */
#define VH_CHAIN_ASTRAY 4	/* it leads to where no capability is */

struct vh_capability {
	uint16_t id;
	uint16_t offset;	/* from 0x100 on it is an extended one */
	uint16_t version;	/* of an extended one, else 0 */
};

/* Registers are -1 where there is no such capability, or not all that is looked at could be read. */
struct vh_config {
	int32_t answers;	/* 0: the bytes are all ones, as of a function that is not there */
	int32_t chain, extended_chain;	/* VH_CHAIN_... */
	int32_t count;		/* of capabilities */
	int64_t command;
	int64_t exp_version, exp_type, exp_flr, exp_max_payload, exp_payload;
	int64_t exp_max_speed, exp_max_width, exp_speed, exp_width;
	int64_t exp_ari_forwarding, exp_ari_forwarding_on;
	int64_t pm_version, pm_d1, pm_d2, pm_pme, pm_state, pm_no_soft_reset, pm_pme_on;
	int64_t msi_on, msi_most, msi_used, msi_64bit, msi_maskable;
	int64_t msix_on, msix_last, msix_masked;
	int64_t af_flr;
	int64_t sriov_on, sriov_memory_on, sriov_ari_on;
	int64_t sriov_initial_vfs, sriov_total_vfs, sriov_num_vfs;
	int64_t sriov_offset, sriov_stride, sriov_vf_device;
	int64_t acs_capability, acs_control;
	int64_t ari_next_function;
	int64_t dsn_low, dsn_high;
	struct vh_capability capabilities[VH_CAPABILITIES];
};

int vh_decode_config(const void *bytes, size_t size, struct vh_config *config);

/* vfio.c */
int vh_group_get_status(int group, uint32_t *flags);
int vh_device_get_info(int device, void *info, size_t size);
int vh_device_get_region_info(int device, uint32_t index, void *info, size_t size);
int vh_device_get_irq_info(int device, uint32_t index, uint32_t *flags, uint32_t *count);
int vh_device_reset(int device);
int vh_get_api_version(int container);
int vh_check_extension(int container, int extension);
int vh_set_iommu(int container, int type);
int vh_group_set_container(int group, int container);
int vh_group_get_device_fd(int group, const char *name);
int vh_iommu_map_dma(int container, void *memory, uint64_t iova, uint64_t size);
int vh_iommu_unmap_dma(int container, uint64_t iova, uint64_t size);

/* iommufd.c */
int vh_device_bind_iommufd(int device, int iommufd, uint32_t *id);
int vh_device_attach_iommufd_pt(int device, uint32_t id);
int vh_ioas_alloc(int iommufd, uint32_t *id);
int vh_ioas_map(int iommufd, uint32_t id, void *memory, uint64_t size, uint64_t *iova);
int vh_ioas_unmap(int iommufd, uint32_t id, uint64_t iova, uint64_t size);
int vh_iommu_destroy(int iommufd, uint32_t id);
