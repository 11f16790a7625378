/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every shape of type that the BTF reader must resolve; compiled by its tests. */
#include <linux/types.h>
#define SEC(name) __attribute__((section(name), used))
enum color { RED = 1, GREEN = 2, BLUE = 1 << 30 };
enum { LIMIT = 4 };
struct inner { __be16 port; __u8 bytes[3]; __u8 pad0; };
typedef const struct inner inner_t;
struct node { struct node *next; struct node **others; };
union either { __u32 number; __u8 raw[4]; };
struct outer {
	__be32 address[4];
	inner_t inner[2];
	enum color color;
	long long signed_number;
	__u32 low : 3, high : 5;
	struct node node;
	union either either;
	struct { int anonymous; };
	__u8 grid[2][3];
};
const volatile struct outer config SEC(".rodata") = { .low = 1 };
struct { struct inner *key; struct outer *value; int (*max_entries)[7]; } table SEC(".maps");
struct { int (*type)[27]; } ring SEC(".maps");
enum { LAST = 5 } last SEC(".data");
