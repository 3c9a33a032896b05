/* What the programs share with the ports that load them: keys and values of the maps, and the numbers of reasons.
 * `src/lanes.rs` holds the same layouts in Rust. Numbers are in the host's byte order unless called `be`. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* An IP address as the wire has it; IPv4 in its v4-mapped form. */
struct address {
	u32 be[4];
};

/* A TCP connection, seen from our side. */
struct flow {
	struct address local;
	struct address remote;
	u16 local_port_be;
	u16 remote_port_be;
};

/* Something that frames are ours by. */
struct endpoint {
	struct address address;
	u16 port_be; /* 0: all of the address, whatever the protocol */
	u16 role;
};

enum role {
	DESTINATION = 0,
	/* frames from here are for us, whatever their destination: nodes that see the peers' addresses; with port 0 whatever
	 * the protocol, too: nodes with a way out */
	SOURCE = 1,
};

/* The key of a trie of prefixes. */
struct prefix {
	u32 length;
	struct address address; /* IPv4 in the first word, as the trie compares from the front */
};

struct prefix4 {
	u32 length;
	u32 be;
};

/* Settings of a device. */
struct settings {
	u8 mac[6];
	u16 vlan;       /* 12 bits; 0: untagged */
	u32 sources;    /* there are endpoints by source */
	u32 ports;      /* there are endpoints by port */
	u64 police_ns;  /* what one frame of a stranger costs; 0: no policing */
	u64 police_burst_ns;
	u32 transit;    /* packets are passed on: UDP is none of the kernel's either */
	u32 dhcp;       /* UDP to the port of DHCP clients is read beside */
};

/* Why a frame was refused; the order is that of `lanes::REASONS`. */
enum reason {
	TRUNCATED,
	BAD_IP_HEADER,
	IP_OPTIONS,
	FRAGMENT,
	UNKNOWN_PROTOCOL,
	MARTIAN,
	LAND,
	BAD_TCP_HEADER,
	BAD_FLAGS,
	PORT_ZERO,
	BAD_OPTIONS,
	BAD_CHECKSUM,
	DENIED,
	POLICED,
	REPLY_CAP,
	NO_FRAME,
	NO_QUEUE, /* counted as lost: the queue has no socket */
	COOKIE,   /* not refused: answered */
	REASONS,
};

/* Lanes, as offsets into the map of sockets. */
enum lane {
	KNOWN = 0,
	STRANGER = 1,
	LANES = 2,
};
