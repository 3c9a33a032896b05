/* Answers a SYN to one of our listeners with a cookie, byte for byte as `screen` does it in Rust: `screen/cookie.rs`, `sip.rs`
 * and `screen/synack.rs` say what and why, the test `the_program_answers_as_the_screen_does` holds the two against each
 * other. What is unusual is left to the core: SYNs with data, or for flows that are there. */
#pragma once

#include "maps.h"
#include "plan.h"

MAP(plans);     /* queue -> struct plan */
MAP(listeners); /* struct endpoint -> u32: where SYNs are answered */
MAP(caps);      /* two rows of u64: when a prefix's bucket is full again, in us */

enum {
	LEAVE = -1, /* not answered here */
};

struct sip {
	u64 v0, v1, v2, v3;
};

INLINE u64 rotate(u64 x, u32 by)
{
	return x << by | x >> (64 - by);
}

INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 = rotate(s->v2, 32);
}

INLINE struct sip sip_new(const struct key *key)
{
	return (struct sip){
		key->k0 ^ 0x736f6d6570736575ull,
		key->k1 ^ 0x646f72616e646f6dull,
		key->k0 ^ 0x6c7967656e657261ull,
		key->k1 ^ 0x7465646279746573ull,
	};
}

INLINE void sip_word(struct sip *s, u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

INLINE u64 sip_finish(struct sip s, u64 length, u64 tail)
{
	sip_word(&s, length << 56 | tail);
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* The addresses of a 4-tuple; says how many bytes they are. */
INLINE u32 sip_addresses(struct sip *s, const struct flow *flow, int v4)
{
	const struct address *remote = &flow->remote, *local = &flow->local;
	if (v4) {
		sip_word(s, (u64)be32(remote->be[3]) << 32 | be32(local->be[3]));
		return 8;
	}
	sip_word(s, (u64)be32(remote->be[0]) << 32 | be32(remote->be[1]));
	sip_word(s, (u64)be32(remote->be[2]) << 32 | be32(remote->be[3]));
	sip_word(s, (u64)be32(local->be[0]) << 32 | be32(local->be[1]));
	sip_word(s, (u64)be32(local->be[2]) << 32 | be32(local->be[3]));
	return 32;
}

INLINE u64 sip_ports(const struct flow *flow)
{
	return (u64)be16(flow->remote_port_be) << 16 | be16(flow->local_port_be);
}

/* The options of a SYN. */
struct offer {
	u32 has_mss, mss;
	u32 has_scale, scale;
	u32 has_stamp, stamp_be;
	u32 sack;
};

enum {
	HEADER_MAX = 60,
};

INLINE int is_mss(u32 word)
{
	return word >> 16 == 0x0204;
}

INLINE int is_scale(u32 word)
{
	return word >> 8 == 0x010303;
}

/* NOPs or nothing around the permission of selective acknowledgements. */
INLINE int is_sack(u32 word)
{
	return word == 0x01010402 || word == 0x04020101 || word == 0x04020000;
}

/* The beginning of timestamps, with or without that permission before them. */
INLINE int is_stamp(u32 word)
{
	return word == 0x0402080a || word == 0x0101080a;
}

/* Reads the options of a TCP header, word by word of the wire, in the layouts that stacks in use send: those of Linux and the BSDs,
 * Windows and Apple, with and without each option, and none. 0 for others, which the core has to look at: a walk over any
 * layout makes more paths than the verifier follows. */
INLINE int read_options(const u32 *be, u32 length, struct offer *offer)
{
	u32 w[6];
	for (int i = 0; i < 6; i++)
		w[i] = be32(be[TCP / 4 + i]);
	u32 scale_at = 0, stamp_at = 0, sack_at = 0;
	if (length == TCP)
		return 1;
	if (!is_mss(w[0]))
		return 0;
	if (length == TCP + 4)
		;
	else if (length == TCP + 8 && is_scale(w[1]))
		scale_at = 1;
	else if (length == TCP + 8 && is_sack(w[1]))
		sack_at = 1;
	else if (length == TCP + 12 && is_scale(w[1]) && is_sack(w[2]))
		scale_at = 1, sack_at = 2;
	else if (length == TCP + 12 && is_sack(w[1]) && w[1] != 0x04020000 && is_scale(w[2]))
		scale_at = 2, sack_at = 1;
	else if (length == TCP + 16 && is_stamp(w[1]))
		stamp_at = 1;
	else if (length == TCP + 20 && is_stamp(w[1]) && is_scale(w[4]))
		stamp_at = 1, scale_at = 4;
	else if (length == TCP + 20 && is_scale(w[1]) && is_stamp(w[2]))
		scale_at = 1, stamp_at = 2;
	else if (length == TCP + 24 && is_scale(w[1]) && w[2] == 0x0101080a && is_sack(w[5]))
		scale_at = 1, stamp_at = 2, sack_at = 5;
	else
		return 0;
	offer->has_mss = 1;
	offer->mss = w[0] & 0xffff;
	offer->has_scale = scale_at;
	offer->scale = (scale_at == 1 ? w[1] : scale_at == 2 ? w[2] : w[4]) & 0xff;
	offer->has_stamp = stamp_at;
	offer->stamp_be = stamp_at == 1 ? be[TCP / 4 + 2] : be[TCP / 4 + 3];
	offer->sack = sack_at || (stamp_at == 1 && w[1] == 0x0402080a) || (stamp_at == 2 && w[2] == 0x0402080a);
	return 1;
}

/* MSS index and profile, as the cookie has them. */
INLINE u32 choose(const struct offer *offer, const u16 *table)
{
	u32 mss = offer->has_mss ? offer->mss : 0;
	u32 index = table[3] <= mss ? 3 : table[2] <= mss ? 2 : table[1] <= mss ? 1 : 0;
	u32 profile;
	if (offer->has_stamp)
		profile = 1;
	else if (!offer->has_scale)
		profile = offer->sack ? 2 : 0;
	else if (!offer->sack)
		profile = 3;
	else
		profile = offer->scale <= 5 ? 4 : offer->scale == 6 ? 5 : offer->scale == 7 ? 6 : 7;
	return index << 3 | profile;
}

INLINE u32 cookie(const struct key *key, u64 slot, const struct flow *flow, int v4, u32 irs, u32 choice)
{
	struct sip sip = sip_new(key);
	u32 length = sip_addresses(&sip, flow, v4) + 8;
	sip_word(&sip, sip_ports(flow) << 32 | (u32)((u32)slot << 5 | choice));
	u64 mac = sip_finish(sip, length, 0);
	u32 tuple = mac & 0x3f;
	u32 whole = ((mac ^ irs * 0x9e3779b97f4a7c15ull) * 0xc2b2ae3d27d4eb4full) >> 44;
	return (u32)slot << 31 | choice << 26 | tuple << 20 | whole;
}

/* Where the timestamp clock of a 4-tuple begins. */
INLINE u32 clock_offset(const struct key *key, const struct flow *flow, int v4)
{
	struct sip sip = sip_new(key);
	u32 length = sip_addresses(&sip, flow, v4) + 4;
	return sip_finish(sip, length, sip_ports(flow)) >> 32;
}

/* Takes a token for a reply: two rows of buckets, of which one must have room and both pay. Where processors meet at a bucket
 * one of them gets none, so that no prefix gets more than its rate. */
INLINE int may_reply(const struct plan *plan, const struct address *to, int v4)
{
	if (!plan->cap_cost_us)
		return 1;
	u64 prefix = v4 ? be32(to->be[3]) >> 8 | 1ull << 55 : (u64)be32(to->be[0]) << 16 | be32(to->be[1]) >> 16;
	u32 one = (prefix ^ plan->cap_secret[0]) * plan->cap_secret[1] >> (64 - CAP_LOG2);
	u32 two = ((prefix ^ plan->cap_secret[2]) * plan->cap_secret[3] >> (64 - CAP_LOG2)) + (1 << CAP_LOG2);
	u64 *first = lookup(&caps, &one), *second = lookup(&caps, &two);
	if (!first || !second)
		return 0;
	u64 now = monotonic_ns() / 1000, a = *first, b = *second;
	if ((a < b ? a : b) > now + plan->cap_burst_us)
		return 0;
	return __sync_val_compare_and_swap(first, a, (a > now ? a : now) + plan->cap_cost_us) == a &&
	       __sync_val_compare_and_swap(second, b, (b > now ? b : now) + plan->cap_cost_us) == b;
}

INLINE u32 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum of a pseudo-header. */
INLINE u64 pseudo(const struct flow *flow, int v4, u32 length)
{
	const u32 *r = flow->remote.be, *l = flow->local.be;
	u64 sum = be16(PROTOCOL_TCP) + (u64)be16(length) + r[3] + l[3];
	return v4 ? sum : sum + r[0] + r[1] + r[2] + l[0] + l[1] + l[2];
}

/* Everything that an answer says. */
struct reply {
	u32 seq;
	u32 ack;
	u32 stamp;
	u32 mss;
};

/* Writes a word of options; says where the next one goes, or 0 where there is no room. */
INLINE u32 put(struct xdp_md *frame, u32 at, u32 word_be, u64 *sum)
{
	u32 *place;
	if (!at || !FITS(place, frame, at))
		return 0;
	*place = word_be;
	*sum += word_be;
	return at + 4;
}

/* In the order of `Emitted::handshake`. */
INLINE u32 put_options(struct xdp_md *frame, u32 at, const struct offer *offer, const struct reply *reply, u64 *sum)
{
	if (offer->has_mss)
		at = put(frame, at, be32(0x02040000 | reply->mss), sum);
	if (offer->has_stamp) {
		at = put(frame, at, be32(offer->sack ? 0x0402080a : 0x0101080a), sum);
		at = put(frame, at, be32(reply->stamp), sum);
		at = put(frame, at, offer->stamp_be, sum);
	} else if (offer->sack) {
		at = put(frame, at, be32(0x01010402), sum);
	}
	if (offer->has_scale)
		at = put(frame, at, be32(0x01030300 | ANSWER_SCALE), sum);
	return at;
}

/* Bytes of those options. */
INLINE u32 options_length(const struct offer *offer)
{
	return 4 * (!!offer->has_mss + (offer->has_stamp ? 3 : !!offer->sack) + !!offer->has_scale);
}

/* Writes IP and Ethernet header in place: back to the sender. `length` is that of the TCP segment. */
INLINE int put_headers(struct xdp_md *frame, const struct seen *seen, u32 length)
{
	struct ethernet *ethernet;
	if (!FITS(ethernet, frame, 0))
		return 0;
	u16 *to = (u16 *)ethernet->destination, *from = (u16 *)ethernet->source;
	for (int i = 0; i < 3; i++) {
		u16 half = to[i];
		to[i] = from[i];
		from[i] = half;
	}
	if (seen->v4) {
		struct ipv4 *ip;
		if (!FITS(ip, frame, seen->network))
			return 0;
		u32 *words = (u32 *)ip;
		words[0] = be32(0x45000000 | (IPV4 + length));
		words[1] = be32(0x00004000);
		words[2] = be32(64 << 24 | PROTOCOL_TCP << 16);
		words[3] = seen->flow.local.be[3];
		words[4] = seen->flow.remote.be[3];
		ip->checksum = ~fold((u64)words[0] + words[1] + words[2] + words[3] + words[4]);
		return 1;
	}
	struct ipv6 *ip;
	if (!FITS(ip, frame, seen->network))
		return 0;
	ip->version = be32(0x60000000);
	ip->length = be16(length);
	ip->protocol = PROTOCOL_TCP;
	ip->hop_limit = 64;
	ip->source = seen->flow.local;
	ip->destination = seen->flow.remote;
	return 1;
}

/* Makes the answer of the frame. */
INLINE int put_reply(struct xdp_md *frame, const struct plan *plan, const struct seen *seen, const struct offer *offer,
		     const struct reply *reply)
{
	u32 length = TCP + options_length(offer);
	u32 end = seen->transport + length;
	if (end > seen->end || !put_headers(frame, seen, length))
		return refuse(frame, NO_FRAME);
	u64 sum = pseudo(&seen->flow, seen->v4, length);
	struct tcp *tcp;
	if (!put_options(frame, seen->transport + TCP, offer, reply, &sum) || !FITS(tcp, frame, seen->transport))
		return refuse(frame, NO_FRAME);
	u32 *words = (u32 *)tcp;
	words[0] = (u32)seen->flow.local_port_be | (u32)seen->flow.remote_port_be << 16;
	words[1] = be32(reply->seq);
	words[2] = be32(reply->ack);
	words[3] = be32(length / 4 << 28 | (SYN | ACK) << 16 | ANSWER_WINDOW);
	words[4] = 0;
	sum += (u64)words[0] + words[1] + words[2] + words[3];
	tcp->checksum = ~fold(sum);
	u64 have = (u64)frame->data_end - (u64)frame->data;
	asm volatile("" : "+r"(have)); /* pointers are subtracted in one piece, or the verifier minds */
	if (adjust_tail(frame, (int)end - (int)have))
		return refuse(frame, NO_FRAME);
	count(frame->rx_queue_index, COOKIE);
	/* A veth wakes the far end only for frames that come as if from another device. */
	return plan->by_redirect ? send_by(frame->ingress_ifindex, 0) : XDP_TX;
}

/* Whether the IPv4 header's checksum is right. */
INLINE int is_header_good(struct xdp_md *frame, const struct seen *seen)
{
	const struct ipv4 *ip;
	if (!FITS(ip, frame, seen->network))
		return 0;
	const u32 *words = (const u32 *)ip;
	return fold((u64)words[0] + words[1] + words[2] + words[3] + words[4]) == 0xffff;
}

INLINE int answer(struct xdp_md *frame, const struct seen *seen)
{
	u32 queue = frame->rx_queue_index;
	const struct plan *plan = lookup(&plans, &queue);
	if (!plan || !plan->on)
		return LEAVE;
	struct endpoint listener = {seen->flow.local, seen->flow.local_port_be, DESTINATION};
	if (!lookup(&listeners, &listener) || is_known(&seen->flow))
		return LEAVE;
	u64 utc = monotonic_ns() / 1000000 + plan->skew_ms, slot = utc / SLOT_MS;
	const struct slot_key *cookie_key = &plan->keys[slot & 1];
	const struct tcp *tcp;
	if (cookie_key->slot != slot || !FITS(tcp, frame, seen->transport))
		return LEAVE;
	u32 length = (tcp->offset >> 4) * 4;
	if (length < TCP || seen->end != seen->transport + length)
		return LEAVE;
	if (seen->v4 && !is_header_good(frame, seen))
		return refuse(frame, BAD_IP_HEADER);
	u32 irs = be32(tcp->seq);
	u32 given = tcp->checksum;
	/* A copy in one piece: word by word, the verifier would follow each length on a path of its own. */
	u32 header[HEADER_MAX / 4 + 1] = {};
	if (load_frame(frame, seen->transport, header, length))
		return LEAVE;
	u64 sum = (u32)add_up(0, 0, header, HEADER_MAX, 0);
	u64 addresses = pseudo(&seen->flow, seen->v4, length);
	struct offer offer = {};
	if (!read_options(header, length, &offer))
		return LEAVE;
	/* A sender on the same host leaves the sum of the pseudo-header for the device to complete. */
	if (fold(sum + addresses) != 0xffff && given != fold(addresses))
		return refuse(frame, BAD_CHECKSUM);
	if (!may_reply(plan, &seen->flow.remote, seen->v4))
		return refuse(frame, REPLY_CAP);
	struct reply reply = {.ack = irs + 1};
	u32 headers = seen->v4 ? 40 : 60;
	reply.mss = plan->mtu > headers ? plan->mtu - headers : 0;
	u32 choice = choose(&offer, seen->v4 ? plan->mss_v4 : plan->mss_v6);
	reply.seq = cookie(&cookie_key->key, slot, &seen->flow, seen->v4, irs, choice);
	if (offer.has_stamp) {
		u32 scale = !offer.has_scale ? 15 : offer.scale > 14 ? 14 : offer.scale;
		u32 clock = (u32)utc + clock_offset(&plan->stamp, &seen->flow, seen->v4);
		reply.stamp = clock >> 5 << 5 | (u32)!!offer.sack << 4 | scale;
	}
	return put_reply(frame, plan, seen, &offer, &reply);
}
