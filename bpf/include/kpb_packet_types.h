/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Structs and enums of the packet path (TC and XDP) that user space shares; see kpb_types.h for
 * the rules. Times are in ticks of 2^27 ns (0.134 s) of CLOCK_MONOTONIC_COARSE: 32 bits hold 18
 * years of them, and no program divides.
 */
#pragma once

#include "kpb_types.h"

enum { TICK_SHIFT = 27 };

/* ---- flows: one entry per direction, keyed by the packet as it arrives at a hook ---- */

struct tuple {
	struct ip_addr source;
	struct ip_addr destination;
	__be16 source_port; /* both 0 where the protocol has none */
	__be16 destination_port;
	__u8 protocol; /* IPPROTO_* */
	__u8 pad0[3];
};

/*
 * A rewrite has a partner: the entry that undoes it, whose key is what this one makes of a packet
 * with the two ends exchanged. Partners are made and removed together, and either is alive as
 * long as one of them is.
 */
enum track_flags {
	TRACK_REPLY = 1 << 0,	/* towards the client */
	TRACK_EGRESS = 1 << 1,	/* applies where packets leave: netfilter sees them before it */
	TRACK_DIRECT = 1 << 2,	/* leaves by redirection: netfilter sees no packet of the flow */
	TRACK_HOST = 1 << 3,	/* the receiver is a socket of this host */
	TRACK_PASS = 1 << 4,	/* a flow of the host's own: left alone, no rewrite */
	TRACK_DSR = 1 << 5,	/* unchanged to the next hop of the backend */
	TRACK_FIN = 1 << 6,	/* a FIN was seen in this direction */
	TRACK_LOCAL = 1 << 7,	/* the sender is a socket of this host: comes by loopback only */
	TRACK_ALONE = 1 << 8,	/* has no partner */
	TRACK_ASSURED = 1 << 9, /* was established: a reset alone does not end it */
	TRACK_RESET = 1 << 10,	/* the latest RST came from this direction */
};

enum track_state {
	STATE_NONE = 0,
	STATE_TCP_NEW = 1,	   /* SYN seen, no answer yet */
	STATE_TCP_REPLIED = 2,	   /* SYN answered */
	STATE_TCP_ESTABLISHED = 3, /* handshake complete */
	STATE_TCP_CLOSING = 4,	   /* one FIN */
	STATE_TCP_TIME_WAIT = 5,   /* two FINs */
	STATE_TCP_CLOSED = 6,	   /* RST */
	STATE_UDP_NEW = 7,
	STATE_UDP_REPLIED = 8,
	STATE_OTHER = 9,
	STATE_KINDS = 10,
};

/*
 * The kernel gives a removed element to another key while a program may still read it: `check`
 * belongs to the key and this life of the flow. Who removes the entry makes it void before.
 */
struct flow {
	__u32 check;
	__u32 deadline; /* tick after which the entry is as good as absent */
	struct ip_addr source;
	struct ip_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 ifindex; /* device to leave by; 0 = as the routes say */
	__u32 backend; /* towards the client: with `service` the MAC that its packet came from */
	__u32 service;
	__u32 record; /* for which membership of the backend was last checked; of an answer the
		       * service */
	__u16 flags;  /* enum track_flags */
	__u8 state;   /* enum track_state */
	__u8 turn;    /* of both partners, chosen when they are made: tells lives apart */
};

/* Who waits in the queue: a flow by its key, as long as it has the same turn. */
struct track_place {
	struct tuple key;
	__u32 due; /* tick before which it is not over, or not looked at */
	__u32 turn;
};

/* ---- fragments: what only the first one of a datagram tells ---- */

struct fragment_key {
	struct ip_addr source;
	struct ip_addr destination;
	__be32 id;
	__u32 protocol;
};

struct fragment {
	__be16 source_port;
	__be16 destination_port;
	__u32 through_stack; /* bool: the first was too large for the way straight out */
};

/* ---- devices: by interface index ---- */

enum device_flags {
	DEVICE_POD = 1 << 0,	    /* the host's end of a pod's device */
	DEVICE_POD_LOCAL = 1 << 1,  /* the local detector knows pods by this device */
	DEVICE_ETHERNET = 1 << 2,   /* frames have an Ethernet header */
	DEVICE_XDP_TARGET = 1 << 3, /* XDP may redirect frames to it */
	DEVICE_PEER = 1 << 4,	    /* a pod's: its other end may be entered directly */
};

/* Node addresses to masquerade with on the way out of the device; zero: those of the node. */
struct device {
	struct ip_addr ipv4;
	struct ip_addr ipv6;
	__u8 mac[6];
	__u16 flags; /* enum device_flags */
	__u32 mtu;
};

/* ---- node: one entry, facts that change while the programs run ---- */

/* An address is inside if `address & mask` of it equals `address`. A mask of 0 is no prefix. */
struct prefix {
	struct ip_addr address;
	struct ip_addr mask;
};

enum { NODE_SERVICE_CIDRS = 4 };

struct node {
	struct ip_addr ipv4; /* primary addresses; zero: none of the family */
	struct ip_addr ipv6;
	struct prefix pods_ipv4; /* local detector by CIDR; no prefix: none */
	struct prefix pods_ipv6;
	struct prefix service_cidr[NODE_SERVICE_CIDRS];
	__u32 service_cidrs; /* how many of them */
	__u32 pad0;
};

/* ---- source ranges: who may use a load-balancer address ---- */

/* `prefix_bits` counts from the start of `service`: 32 for the service plus those of the source. */
struct source_range_key {
	__u32 prefix_bits;
	__u32 service; /* index into services */
	struct ip_addr source;
};

struct source_range {
	__u32 allow; /* 1 */
};

/* ---- statistics: by service index ---- */

struct service_stats {
	__u64 flows;	      /* new flows of the packet path */
	__u64 snat_exhausted; /* flows refused since no port was free */
	__u64 rejected;	      /* refused or dropped for another reason */
};
