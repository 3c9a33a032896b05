/* The little of the BPF environment that the programs need: sections, maps by name, helper functions and contexts by the
 * kernel's stable interface (linux/bpf.h), so that nothing but a compiler is needed to build them.
 * Maps are made by the port, which knows their sizes; here each is a symbol that the port replaces by its descriptor. */
#pragma once

#include "hedgerow.h"

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define MAP(name) struct map name SECTION("maps")

struct map {
	u32 unused;
};

/* What an XDP program gets. */
struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
};

enum {
	XDP_DROP = 1,
	XDP_PASS = 2,
	XDP_TX = 3,
	XDP_REDIRECT = 4,
};

static void *(*const lookup)(const void *map, const void *key) = (void *)1;
static u64 (*const monotonic_ns)(void) = (void *)5;
static long (*const send_by)(u32 interface, u64 flags) = (void *)23;
static long (*const load_bytes)(const void *skb, u32 at, void *to, u32 count) = (void *)26;
static long (*const redirect)(const void *map, u64 key, u64 otherwise) = (void *)51;
/* From Linux 5.18 on: the newest one here. */
static long (*const load_frame)(struct xdp_md *frame, u32 at, void *to, u32 count) = (void *)189;
static long (*const add_up)(const void *from, u32 from_bytes, const void *to, u32 to_bytes, u32 seed) = (void *)28;
static long (*const adjust_tail)(struct xdp_md *frame, int delta) = (void *)65;

#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#define be64(x) __builtin_bswap64(x)

/* Points at what lies `at` (below 128) bytes from the start of a frame and says whether all of it is there. The verifier has to
 * see a small offset, and the very pointer that was compared; so the compiler may not know better. */
#define FITS(pointer, frame, at)                                              \
	({                                                                    \
		u64 offset = (at);                                            \
		asm volatile("%0 &= 127" : "+r"(offset));                     \
		(pointer) = (void *)(long)(frame)->data + offset;             \
		asm volatile("" : "+r"(pointer));                             \
		(void *)((pointer) + 1) <= (void *)(long)(frame)->data_end;   \
	})

enum {
	ETHERNET = 14,
	TAG = 4,
	IPV4 = 20,
	IPV6 = 40,
	TCP = 20,

	TYPE_IPV4 = 0x0800,
	TYPE_VLAN = 0x8100,
	TYPE_IPV6 = 0x86dd,

	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_ICMPV6 = 58,

	FIN = 0x01,
	SYN = 0x02,
	RST = 0x04,
	ACK = 0x10,
	URG = 0x20,
};

struct ethernet {
	u8 destination[6];
	u8 source[6];
	u16 type;
} __attribute__((packed));

struct tag {
	u16 value;
	u16 type;
};

struct ports {
	u16 source;
	u16 destination;
};

struct ipv4 {
	u8 version;
	u8 service;
	u16 length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
} __attribute__((packed));

struct ipv6 {
	u32 version;
	u16 length;
	u8 protocol;
	u8 hop_limit;
	struct address source;
	struct address destination;
} __attribute__((packed));

struct tcp {
	u16 source;
	u16 destination;
	u32 seq;
	u32 ack;
	u8 offset;
	u8 flags;
	u16 window;
	u16 checksum;
	u16 urgent;
} __attribute__((packed));

INLINE struct address mapped(u32 v4)
{
	return (struct address){{0, 0, be32(0xffff), v4}};
}
