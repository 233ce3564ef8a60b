/* SPDX-License-Identifier: GPL-2.0-only */
/* The types of vGPU that NVIDIA's driver has for an A10, a T4 and an L40S. */

#ifndef MODELS_H
#define MODELS_H

#include <linux/types.h>

/**
 * struct vgpu_model - a type of vGPU as NVIDIA's driver shows it
 * @id: its number, of an mdev type the one after "nvidia-"
 * @name: its name
 * @heads: virtual displays
 * @frl: frame rate limit, per second
 * @framebuffer: MiB
 * @resolution: the largest one
 * @max_instance: how many of them a card carries
 */
struct vgpu_model {
	const char *id;
	const char *name;
	u32 heads;
	u32 frl;
	u32 framebuffer;
	const char *resolution;
	u32 max_instance;
};

static const struct vgpu_model a10_models[] = {
	{ "588", "NVIDIA A10-1B", 4, 45, 1024, "5120x2880", 24 },
	{ "589", "NVIDIA A10-2B", 4, 45, 2048, "5120x2880", 12 },
	{ "590", "NVIDIA A10-1Q", 4, 60, 1024, "5120x2880", 24 },
	{ "591", "NVIDIA A10-2Q", 4, 60, 2048, "7680x4320", 12 },
	{ "592", "NVIDIA A10-3Q", 4, 60, 3072, "7680x4320", 8 },
	{ "593", "NVIDIA A10-4Q", 4, 60, 4096, "7680x4320", 6 },
	{ "594", "NVIDIA A10-6Q", 4, 60, 6144, "7680x4320", 4 },
	{ "595", "NVIDIA A10-8Q", 4, 60, 8192, "7680x4320", 3 },
	{ "596", "NVIDIA A10-12Q", 4, 60, 12288, "7680x4320", 2 },
	{ "597", "NVIDIA A10-24Q", 4, 60, 24576, "7680x4320", 1 },
	{ "598", "NVIDIA A10-1A", 1, 60, 1024, "1280x1024", 24 },
	{ "599", "NVIDIA A10-2A", 1, 60, 2048, "1280x1024", 12 },
	{ "600", "NVIDIA A10-3A", 1, 60, 3072, "1280x1024", 8 },
	{ "601", "NVIDIA A10-4A", 1, 60, 4096, "1280x1024", 6 },
	{ "602", "NVIDIA A10-6A", 1, 60, 6144, "1280x1024", 4 },
	{ "603", "NVIDIA A10-8A", 1, 60, 8192, "1280x1024", 3 },
	{ "604", "NVIDIA A10-12A", 1, 60, 12288, "1280x1024", 2 },
	{ "605", "NVIDIA A10-24A", 1, 60, 24576, "1280x1024", 1 },
};

static const struct vgpu_model t4_models[] = {
	{ "222", "GRID T4-1B", 4, 45, 1024, "5120x2880", 16 },
	{ "223", "GRID T4-2B", 4, 45, 2048, "5120x2880", 8 },
	{ "224", "GRID T4-2B4", 4, 45, 2048, "5120x2880", 8 },
	{ "225", "GRID T4-1A", 1, 60, 1024, "1280x1024", 16 },
	{ "226", "GRID T4-2A", 1, 60, 2048, "1280x1024", 8 },
	{ "227", "GRID T4-4A", 1, 60, 4096, "1280x1024", 4 },
	{ "228", "GRID T4-8A", 1, 60, 8192, "1280x1024", 2 },
	{ "229", "GRID T4-16A", 1, 60, 16384, "1280x1024", 1 },
	{ "230", "GRID T4-1Q", 4, 60, 1024, "5120x2880", 16 },
	{ "231", "GRID T4-2Q", 4, 60, 2048, "7680x4320", 8 },
	{ "232", "GRID T4-4Q", 4, 60, 4096, "7680x4320", 4 },
	{ "233", "GRID T4-8Q", 4, 60, 8192, "7680x4320", 2 },
	{ "234", "GRID T4-16Q", 4, 60, 16384, "7680x4320", 1 },
};

/* Not mediated devices: of these the driver shows no more than id and name. */
static const struct vgpu_model l40s_models[] = {
	{ .id = "1145", .name = "NVIDIA L40S-1B", .max_instance = 32 },
	{ .id = "1146", .name = "NVIDIA L40S-2B", .max_instance = 24 },
	{ .id = "1147", .name = "NVIDIA L40S-1Q", .max_instance = 32 },
	{ .id = "1148", .name = "NVIDIA L40S-2Q", .max_instance = 24 },
	{ .id = "1149", .name = "NVIDIA L40S-3Q", .max_instance = 16 },
	{ .id = "1150", .name = "NVIDIA L40S-4Q", .max_instance = 12 },
	{ .id = "1151", .name = "NVIDIA L40S-6Q", .max_instance = 8 },
	{ .id = "1152", .name = "NVIDIA L40S-8Q", .max_instance = 6 },
	{ .id = "1153", .name = "NVIDIA L40S-12Q", .max_instance = 4 },
	{ .id = "1154", .name = "NVIDIA L40S-16Q", .max_instance = 3 },
	{ .id = "1155", .name = "NVIDIA L40S-24Q", .max_instance = 2 },
	{ .id = "1156", .name = "NVIDIA L40S-48Q", .max_instance = 1 },
	{ .id = "1157", .name = "NVIDIA L40S-1A", .max_instance = 32 },
	{ .id = "1158", .name = "NVIDIA L40S-2A", .max_instance = 24 },
	{ .id = "1159", .name = "NVIDIA L40S-3A", .max_instance = 16 },
	{ .id = "1160", .name = "NVIDIA L40S-4A", .max_instance = 12 },
	{ .id = "1161", .name = "NVIDIA L40S-6A", .max_instance = 8 },
	{ .id = "1162", .name = "NVIDIA L40S-8A", .max_instance = 6 },
	{ .id = "1163", .name = "NVIDIA L40S-12A", .max_instance = 4 },
	{ .id = "1164", .name = "NVIDIA L40S-16A", .max_instance = 3 },
	{ .id = "1165", .name = "NVIDIA L40S-24A", .max_instance = 2 },
	{ .id = "1166", .name = "NVIDIA L40S-48A", .max_instance = 1 },
	{ .id = "2164", .name = "NVIDIA L40S-3B", .max_instance = 16 },
};

#endif
