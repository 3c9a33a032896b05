/* Judges each frame of a device before the kernel takes memory for it.
 *
 * What is not ours goes on to the kernel as if nobody were here, and so does everything about neighbours (ARP, neighbour and
 * router discovery), and DHCP where an address comes by it, which the port reads from a packet socket: the kernel may need it as well. What is ours and malformed,
 * or comes from a denied prefix, ends here and is counted. Segments of flows that the shard holds go to one socket, the
 * rest to another, and SYNs to our listeners may be answered on the spot (see answer.h). */

#include "maps.h"
#include "plan.h"

MAP(sockets); /* queue * LANES + lane -> socket */

struct seen {
	struct flow flow;
	u32 network;   /* offset of the IP header */
	u32 transport; /* offset of what follows it */
	u32 end;       /* offset of the end of the packet */
	int v4;
};

INLINE int refuse(struct xdp_md *frame, enum reason reason)
{
	count(frame->rx_queue_index, reason);
	return XDP_DROP;
}

INLINE int hand_up(struct xdp_md *frame, enum lane lane)
{
	long verdict = redirect(&sockets, frame->rx_queue_index * LANES + lane, XDP_DROP);
	if (verdict != XDP_REDIRECT)
		count(frame->rx_queue_index, NO_QUEUE);
	return verdict;
}

#include "answer.h"

INLINE int is_endpoint(const struct address *address, u16 port_be, enum role role)
{
	struct endpoint key = {*address, port_be, role};
	return lookup(&endpoints, &key) != 0;
}

/* Whether a segment between these ends is ours, where the address as a whole is not. */
INLINE int is_ours(const struct settings *set, const struct flow *flow)
{
	return (set->ports && is_endpoint(&flow->local, flow->local_port_be, DESTINATION)) ||
	       (set->sources && is_endpoint(&flow->remote, flow->remote_port_be, SOURCE));
}

/* Whether all of a packet is ours, by its destination or because a node with a way out sent it. */
INLINE int is_whole(const struct settings *set, const struct flow *flow)
{
	return is_endpoint(&flow->local, 0, DESTINATION) || (set->transit && is_endpoint(&flow->remote, 0, SOURCE));
}

/* Whether nothing here speaks a protocol. */
INLINE int is_unknown(const struct settings *set, u8 protocol, u8 icmp)
{
	return protocol != PROTOCOL_TCP && protocol != icmp && !(set->transit && protocol == PROTOCOL_UDP);
}

/* This network, loopback, multicast, reserved and broadcast. */
INLINE int is_martian4(u32 be)
{
	u8 first = be32(be) >> 24;
	return first == 0 || first == 127 || first >= 224;
}

/* ::/96 and ::ffff:0:0/96. */
INLINE int is_low(const struct address *a)
{
	return !a->be[0] && !a->be[1] && (!a->be[2] || a->be[2] == be32(0xffff));
}

/* Also multicast, 6to4 and Teredo. */
INLINE int is_martian6(const struct address *a)
{
	u32 first = be32(a->be[0]);
	return is_low(a) || first >> 24 == 0xff || first >> 16 == 0x2002 || first == 0x20010000;
}

INLINE int is_same(const struct address *a, const struct address *b)
{
	return a->be[0] == b->be[0] && a->be[1] == b->be[1] && a->be[2] == b->be[2] && a->be[3] == b->be[3];
}

/* Whether some stack sends this combination of flags; the table is that of `wire::parse`. */
INLINE int is_sane(u8 flags)
{
	const u64 good = 1ull << SYN | 1ull << (SYN | ACK) | 1ull << (SYN | URG) | 1ull << RST | 1ull << (RST | ACK) |
			 1ull << (FIN | ACK) | 1ull << (FIN | ACK | URG) | 1ull << ACK | 1ull << (ACK | URG);
	return good >> (flags & (FIN | SYN | RST | ACK | URG)) & 1;
}

INLINE int stranger(struct xdp_md *frame, const struct settings *set, const struct seen *seen, int syn)
{
	if (is_denied(&seen->flow.remote))
		return refuse(frame, DENIED);
	if (syn) {
		int verdict = answer(frame, seen);
		if (verdict != LEAVE)
			return verdict;
	}
	if (is_too_much(set, frame->rx_queue_index, syn))
		return refuse(frame, POLICED);
	return hand_up(frame, STRANGER);
}

INLINE int segment(struct xdp_md *frame, const struct settings *set, const struct seen *seen)
{
	const struct tcp *tcp;
	u32 length = seen->end - seen->transport;
	if (length < TCP || !FITS(tcp, frame, seen->transport))
		return refuse(frame, TRUNCATED);
	u32 header = (tcp->offset >> 4) * 4;
	if (header < TCP || header > length)
		return refuse(frame, BAD_TCP_HEADER);
	if (!is_sane(tcp->flags))
		return refuse(frame, BAD_FLAGS);
	if (!tcp->source || !tcp->destination)
		return refuse(frame, PORT_ZERO);
	int syn = (tcp->flags & (SYN | ACK)) == SYN;
	if (!syn && is_known(&seen->flow))
		return hand_up(frame, KNOWN);
	return stranger(frame, set, seen, syn);
}

/* Fills in the ports, if the frame has them. */
INLINE int find_ports(struct xdp_md *frame, u32 at, struct flow *flow)
{
	const struct ports *ports;
	if (!FITS(ports, frame, at))
		return 0;
	flow->local_port_be = ports->destination;
	flow->remote_port_be = ports->source;
	return 1;
}

/* Whether an ICMP error quotes a segment of ours: unreachable for IPv4, unreachable or too big for IPv6. */
INLINE int is_quoted4(struct xdp_md *frame, const struct settings *set, u32 at)
{
	const struct {
		u8 icmp[8];
		struct ipv4 ip;
		struct ports ports;
	} __attribute__((packed)) *error;
	if (!FITS(error, frame, at) || error->icmp[0] != 3 || error->ip.version != 0x45 ||
	    error->ip.protocol != PROTOCOL_TCP)
		return 0;
	struct flow flow = {mapped(error->ip.source), mapped(error->ip.destination), error->ports.source,
			    error->ports.destination};
	return is_ours(set, &flow);
}

INLINE int is_quoted6(struct xdp_md *frame, const struct settings *set, u32 at)
{
	const struct {
		u8 icmp[8];
		struct ipv6 ip;
		struct ports ports;
	} __attribute__((packed)) *error;
	if (!FITS(error, frame, at) || (error->icmp[0] != 1 && error->icmp[0] != 2) ||
	    error->ip.protocol != PROTOCOL_TCP)
		return 0;
	struct flow flow = {error->ip.source, error->ip.destination, error->ports.source, error->ports.destination};
	return is_ours(set, &flow);
}

/* Whether a datagram is for the port of DHCP clients. */
INLINE int is_for_client(struct xdp_md *frame, u32 at)
{
	const struct ports *ports;
	return FITS(ports, frame, at) && ports->destination == be16(68);
}

INLINE int ipv4(struct xdp_md *frame, const struct settings *set, u32 at)
{
	const struct ipv4 *ip;
	if (!FITS(ip, frame, at))
		return XDP_PASS;
	struct seen seen = {
		.flow = {mapped(ip->destination), mapped(ip->source), 0, 0},
		.network = at,
		.transport = at + IPV4,
		.end = at + be16(ip->length),
		.v4 = 1,
	};
	int plain = ip->version == 0x45 && !(ip->fragment & be16(0x3fff));
	int tcp = plain && ip->protocol == PROTOCOL_TCP && find_ports(frame, at + IPV4, &seen.flow);
	if (set->dhcp && plain && ip->protocol == PROTOCOL_UDP && is_for_client(frame, at + IPV4))
		return XDP_PASS;
	if (!is_whole(set, &seen.flow)) {
		int quoted = plain && ip->protocol == PROTOCOL_ICMP && is_quoted4(frame, set, at + IPV4);
		if (!(tcp && is_ours(set, &seen.flow)) && !quoted)
			return XDP_PASS;
	}
	if (ip->version != 0x45)
		return refuse(frame, ip->version >> 4 == 4 && (ip->version & 15) > 5 ? IP_OPTIONS : BAD_IP_HEADER);
	if (be16(ip->length) < IPV4 || seen.end > frame->data_end - frame->data)
		return refuse(frame, TRUNCATED);
	if (!ip->ttl)
		return refuse(frame, BAD_IP_HEADER);
	if (ip->fragment & be16(0x3fff))
		return refuse(frame, FRAGMENT);
	if (is_unknown(set, ip->protocol, PROTOCOL_ICMP))
		return refuse(frame, UNKNOWN_PROTOCOL);
	if (is_martian4(ip->source) || is_martian4(ip->destination))
		return refuse(frame, MARTIAN);
	if (ip->source == ip->destination)
		return refuse(frame, LAND);
	if (ip->protocol != PROTOCOL_TCP)
		return stranger(frame, set, &seen, 0);
	return segment(frame, set, &seen);
}

/* Hop-by-hop, routing, ESP, authentication, none, destination options, mobility, HIP, shim6. */
INLINE int is_extension(u8 protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 50 || protocol == 51 || protocol == 59 || protocol == 60 ||
	       protocol == 135 || protocol == 139 || protocol == 140;
}

/* Router and neighbour solicitations and advertisements, redirects. */
INLINE int is_neighbourly(struct xdp_md *frame, u32 at)
{
	const u8 *type;
	return FITS(type, frame, at) && *type >= 133 && *type <= 137;
}

INLINE int ipv6(struct xdp_md *frame, const struct settings *set, u32 at)
{
	const struct ipv6 *ip;
	if (!FITS(ip, frame, at))
		return XDP_PASS;
	struct seen seen = {
		.flow = {ip->destination, ip->source, 0, 0},
		.network = at,
		.transport = at + IPV6,
		.end = at + IPV6 + be16(ip->length),
		.v4 = 0,
	};
	int icmp = ip->protocol == PROTOCOL_ICMPV6;
	if (icmp && is_neighbourly(frame, at + IPV6))
		return XDP_PASS;
	int tcp = ip->protocol == PROTOCOL_TCP && find_ports(frame, at + IPV6, &seen.flow);
	if (!is_whole(set, &seen.flow)) {
		int quoted = icmp && is_quoted6(frame, set, at + IPV6);
		if (!(tcp && is_ours(set, &seen.flow)) && !quoted)
			return XDP_PASS;
	}
	if (*(const u8 *)ip >> 4 != 6)
		return refuse(frame, BAD_IP_HEADER);
	if (seen.end > frame->data_end - frame->data)
		return refuse(frame, TRUNCATED);
	if (!ip->hop_limit)
		return refuse(frame, BAD_IP_HEADER);
	if (ip->protocol == PROTOCOL_FRAGMENT)
		return refuse(frame, FRAGMENT);
	if (is_extension(ip->protocol))
		return refuse(frame, IP_OPTIONS);
	if (is_unknown(set, ip->protocol, PROTOCOL_ICMPV6))
		return refuse(frame, UNKNOWN_PROTOCOL);
	if (is_martian6(&seen.flow.remote) || is_low(&seen.flow.local))
		return refuse(frame, MARTIAN);
	if (is_same(&seen.flow.remote, &seen.flow.local))
		return refuse(frame, LAND);
	if (ip->protocol != PROTOCOL_TCP)
		return stranger(frame, set, &seen, 0);
	return segment(frame, set, &seen);
}

INLINE int is_station(const u8 *a, const u8 *b)
{
	return *(const u16 *)a == *(const u16 *)b && *(const u16 *)(a + 2) == *(const u16 *)(b + 2) &&
	       *(const u16 *)(a + 4) == *(const u16 *)(b + 4);
}

SECTION("xdp")
int hedgerow(struct xdp_md *frame)
{
	const struct ethernet *ethernet;
	u32 zero = 0;
	const struct settings *set = lookup(&settings, &zero);
	if (!set || !FITS(ethernet, frame, 0))
		return XDP_PASS;
	if (!is_station(ethernet->destination, set->mac) || ethernet->source[0] & 1)
		return XDP_PASS;
	u16 type = ethernet->type, vlan = 0;
	u32 at = ETHERNET;
	if (type == be16(TYPE_VLAN)) {
		const struct tag *tag;
		if (!FITS(tag, frame, ETHERNET))
			return XDP_PASS;
		vlan = be16(tag->value) & 0xfff;
		type = tag->type;
		at += TAG;
	}
	if (vlan != set->vlan)
		return XDP_PASS;
	if (type == be16(TYPE_IPV4))
		return ipv4(frame, set, at);
	if (type == be16(TYPE_IPV6))
		return ipv6(frame, set, at);
	return XDP_PASS;
}
