/* The maps that lanes and refusals need, whichever program looks them up. `src/lanes.rs` makes them. */
#pragma once

#include "support.h"

MAP(settings);  /* array of one struct settings */
MAP(endpoints); /* struct endpoint -> u32: what is ours */
MAP(known);     /* struct flow -> u32: flows that the shard holds */
MAP(denied4);   /* trie of struct prefix4 -> u32 */
MAP(denied6);   /* trie of struct prefix -> u32 */
MAP(counters);  /* per processor: queue * REASONS + reason -> u64 */
MAP(buckets);   /* per processor: queue * 2 + whether a SYN -> u64: when the bucket is full again, in ns */

INLINE void count(u32 queue, enum reason reason)
{
	u32 key = queue * REASONS + reason;
	u64 *counter = lookup(&counters, &key);
	if (counter)
		*counter += 1;
}

INLINE int is_denied(const struct address *source)
{
	if (source->be[0] == 0 && source->be[1] == 0 && source->be[2] == be32(0xffff)) {
		struct prefix4 key = {32, source->be[3]};
		return lookup(&denied4, &key) != 0;
	}
	struct prefix key = {128, *source};
	return lookup(&denied6, &key) != 0;
}

INLINE int is_known(const struct flow *flow)
{
	return lookup(&known, flow) != 0;
}

/* Whether a stranger's frame is one too many. SYNs and the rest have a bucket each, so that a flood of SYNs leaves room for
 * the peers that come back. Generic cell rate algorithm, as in the screen's cap on replies. */
INLINE int is_too_much(const struct settings *set, u32 queue, int syn)
{
	if (!set->police_ns)
		return 0;
	u32 key = queue * 2 + !!syn;
	u64 *full = lookup(&buckets, &key);
	if (!full)
		return 0;
	u64 now = monotonic_ns(), at = *full;
	if (at > now + set->police_burst_ns)
		return 1;
	*full = (at > now ? at : now) + set->police_ns;
	return 0;
}
