/* Splits the frames of a device between two packet sockets: one takes the flows that the shard holds, the other the rest
 * of what is not refused. A flood fills the second one's ring and leaves the first one's alone. */

#include "maps.h"

struct __sk_buff;

enum {
	WHOLE = 0x7fffffff, /* bytes of a frame to keep */
};

/* Finds the flow of a TCP segment. Says 1 for one, 0 for none; then `flow->remote` may hold the source. Tags that the
 * kernel took out of the bytes are passed over: the user of the socket sees to them. */
INLINE int find(struct __sk_buff *skb, struct flow *flow, int *syn)
{
	u16 type;
	u32 at = ETHERNET;
	if (load_bytes(skb, 12, &type, 2))
		return 0;
	if (type == be16(TYPE_VLAN)) {
		at += TAG;
		if (load_bytes(skb, 16, &type, 2))
			return 0;
	}
	if (type == be16(TYPE_IPV4)) {
		struct ipv4 ip;
		if (load_bytes(skb, at, &ip, sizeof(ip)))
			return 0;
		flow->local = mapped(ip.destination);
		flow->remote = mapped(ip.source);
		if (ip.version != 0x45 || ip.protocol != PROTOCOL_TCP || ip.fragment & be16(0x3fff))
			return 0;
		at += IPV4;
	} else if (type == be16(TYPE_IPV6)) {
		struct ipv6 ip;
		if (load_bytes(skb, at, &ip, sizeof(ip)))
			return 0;
		flow->local = ip.destination;
		flow->remote = ip.source;
		if (ip.protocol != PROTOCOL_TCP)
			return 0;
		at += IPV6;
	} else {
		return 0;
	}
	struct tcp tcp;
	if (load_bytes(skb, at, &tcp, sizeof(tcp)))
		return 0;
	flow->local_port_be = tcp.destination;
	flow->remote_port_be = tcp.source;
	*syn = (tcp.flags & (SYN | ACK)) == SYN;
	return 1;
}

SECTION("filter/known")
int lane_known(struct __sk_buff *skb)
{
	struct flow flow = {};
	int syn = 0;
	return find(skb, &flow, &syn) && !syn && is_known(&flow) ? WHOLE : 0;
}

SECTION("filter/stranger")
int lane_stranger(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct flow flow = {};
	int syn = 0;
	if (find(skb, &flow, &syn) && !syn && is_known(&flow))
		return 0;
	if (is_denied(&flow.remote)) {
		count(0, DENIED);
		return 0;
	}
	const struct settings *set = lookup(&settings, &zero);
	if (set && is_too_much(set, 0, syn)) {
		count(0, POLICED);
		return 0;
	}
	return WHOLE;
}
