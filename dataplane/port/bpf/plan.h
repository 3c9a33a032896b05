/* What the program that answers SYNs is told, one for each queue; refreshed by the shard. */
#pragma once

#include "support.h"

struct key {
	u64 k0;
	u64 k1;
};

struct slot_key {
	u64 slot;
	struct key key;
};

struct plan {
	u64 on;
	u64 skew_ms;             /* milliseconds of UTC minus those of the monotonic clock */
	struct slot_key keys[2]; /* of the cookie, by the parity of the slot */
	struct key stamp;        /* of the offset of the timestamp clock */
	u64 cap_secret[4];       /* what is added to a prefix and what it is multiplied by, for each row */
	u64 cap_cost_us;         /* what a reply costs; 0: no cap */
	u64 cap_burst_us;
	u16 mss_v4[4];
	u16 mss_v6[4];
	u16 mtu;
	u16 by_redirect; /* answers go out as if to another device */
	u16 unused[2];
};

enum {
	SLOT_MS = 64000,
	CAP_LOG2 = 14, /* buckets of each of the two rows */
	ANSWER_WINDOW = 8192,
	ANSWER_SCALE = 8,
};
