/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every struct and enum that the programs and user space share, defined here and nowhere else.
 *
 * User space binds its records to the BTF of these structs when it loads the object, and refuses
 * any difference by name. Rules: every byte has a name (padding is `padN`, always zero), `__be16`
 * and `__be32` are wire order, all else is host order. Index 0 of every id space means "none".
 */
#pragma once

/* Both families in one: IPv4 is v4-mapped (::ffff:a.b.c.d). */
struct ip_addr {
	__be32 word[4];
};

/* ---- vips: by address, the first lookup of every program ---- */

enum vip_flags {
	VIP_CLUSTER_IP = 1 << 0, /* every port is ours: an unknown one is refused */
	VIP_EXTERNAL = 1 << 1, /* external or load-balancer address: unknown ports are left alone */
	VIP_NODE_PORT = 1 << 2, /* local address that serves node ports (wildcard frontends) */
	VIP_HOST_PORT = 1 << 3, /* local address that serves host ports (wildcard frontends) */
	VIP_LOOPBACK = 1 << 4,	/* 127.0.0.1 (for all of 127/8) or ::1: host namespace only */
	VIP_ON_DEVICE = 1 << 5, /* cluster IP on a local device: left alone (NodeLocal DNS) */
	VIP_CANARY = 1 << 6,	/* connect() of a UDP socket leads to loopback: proves the hooks */
	VIP_LINGER = 1 << 7,	/* was a VIP: its flows go on, nothing new is served */
};

struct vip {
	__u32 flags; /* enum vip_flags */
};

/* ---- frontends: by address, port and protocol ---- */

enum frontend_kind {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_EXTERNAL_IP = 2,
	FRONTEND_LOAD_BALANCER = 3,
	FRONTEND_NODE_PORT = 4,
	FRONTEND_HOST_PORT = 5,
};

enum frontend_flags {
	FRONTEND_EXTERNAL = 1 << 0,	 /* scope: externalTrafficPolicy decides, else internal */
	FRONTEND_SOURCE_RANGES = 1 << 1, /* sources are filtered: only the packet path serves it */
};

/*
 * Node ports and wildcard host ports stand once per family under the wildcard address
 * (::ffff:0.0.0.0 or ::) and apply to local addresses.
 */
struct frontend_key {
	struct ip_addr address;
	__be16 port;
	__u8 protocol; /* IPPROTO_* */
	__u8 pad0;
};

/* Never changes in place: the kernel reuses hash elements while a reader may hold them. */
struct frontend {
	__u32 service; /* index into services */
	__u8 kind;     /* enum frontend_kind */
	__u8 flags;    /* enum frontend_flags */
	__u16 pad0;
};

/* ---- services: one aligned word each, published by one 8-byte store ---- */

struct service {
	__u32 record;	  /* id into records; 0 = not published */
	__u32 generation; /* who holds this index, and which life of its affinity */
} __attribute__((aligned(8)));

/* ---- records: immutable while published ---- */

enum record_flags {
	RECORD_INTERNAL_LOCAL = 1 << 0, /* internalTrafficPolicy: Local */
	RECORD_EXTERNAL_LOCAL = 1 << 1, /* externalTrafficPolicy: Local */
	RECORD_HAS_ENDPOINTS = 1 << 2,	/* some node could serve: an empty local set drops */
	RECORD_CONSISTENT = 1 << 3,	/* the client decides the backend, the same on all nodes */
};

/*
 * The extent holds every serving endpoint once, in the order
 *   cluster set only | both sets | local set only | serving but in no set (draining, other zone)
 * so the cluster and the local set are two windows of it, and membership is the whole of it.
 */
struct record {
	__u32 slots;	     /* first slot of the extent */
	__u32 members;	     /* length of the extent */
	__u32 cluster_count; /* cluster set = slots + 0 .. cluster_count */
	__u32 local_first;   /* local set = slots + local_first .. + local_count */
	__u32 local_count;
	__u32 affinity_timeout_s; /* 0 = no affinity */
	__u32 flags;		  /* enum record_flags */
	__u32 stats;		  /* index into the statistics */
};

/* ---- slots: one backend id each ---- */

struct slot {
	__u32 backend;
};

/* ---- backends: shared by services ---- */

enum backend_flags {
	BACKEND_LIVE = 1 << 0,	/* some service uses it */
	BACKEND_LOCAL = 1 << 1, /* its pod runs on this node */
	BACKEND_HOST = 1 << 2,	/* its address is the node's own: loopback sources reach it */
};

struct backend {
	struct ip_addr address;
	__be16 port;
	__u8 protocol;	  /* IPPROTO_* */
	__u8 flags;	  /* enum backend_flags */
	__u32 generation; /* grows when the id is given to another address */
};

/* ---- affinity: written by programs ---- */

enum client_kind {
	CLIENT_ADDRESS = 0, /* packets: the source address */
	CLIENT_NETNS = 1,   /* sockets: the cookie of their network namespace in the last 8 bytes */
};

struct affinity_key {
	struct ip_addr client;
	__u32 service;
	__u32 client_kind; /* enum client_kind */
};

enum affinity_window {
	WINDOW_CLUSTER = 1 << 0,
	WINDOW_LOCAL = 1 << 1,
};

/* A backend counts only while both generations match and it is in the set that applies. */
struct affinity {
	__u32 backend;
	__u32 backend_generation;
	__u32 record;	  /* record id for which membership was last checked */
	__u32 windows;	  /* enum affinity_window: where in that record it was found */
	__u32 generation; /* of the service */
	__u32 last_use_s; /* CLOCK_MONOTONIC_COARSE */
};

/* ---- sockets: written by programs ---- */

enum flow_flags {
	FLOW_USED = 1 << 0,
	FLOW_CONNECTED = 1 << 1, /* chosen by connect(): aborted when the backend goes away */
};

/* What one UDP socket remembers of one VIP: which backend, and what to answer in its name. */
struct sock_flow {
	struct ip_addr vip;
	struct ip_addr backend_address;
	__be16 vip_port;
	__be16 backend_port;
	__u32 service;
	__u32 record;	  /* record id for which membership was last checked */
	__u32 generation; /* of the service */
	__u32 backend;
	__u32 backend_generation;
	__u32 last_use; /* turn of the socket, not a time */
	__u32 flags;	/* enum flow_flags */
};

enum { SOCK_FLOWS = 4 };

struct sock_state {
	struct sock_flow flow[SOCK_FLOWS];
	struct ip_addr spilled; /* VIP of the flow that was moved out last: head of a chain */
	__be16 spilled_port;	/* 0 = none */
	__u16 pad0;
	__u32 turn;
};

/* Overflow of sock_state: the same flow under the address sent to and the address heard from. */
enum flow_direction {
	FLOW_FORWARD = 0,
	FLOW_REPLY = 1,
};

struct sock_flow_key {
	__u64 cookie;
	struct ip_addr address;
	__be16 port;
	__u16 direction; /* enum flow_direction */
	__u32 pad0;
};

/* The chain leads to all that a closing socket has to remove. A reply entry ends no chain. */
struct sock_spill {
	struct sock_flow flow;
	struct ip_addr next;
	__be16 next_port; /* 0 = the last */
	__u16 pad0;
};

/* What a TCP socket dialled, for getpeername. */
struct origin {
	struct ip_addr address;
	__be16 port;
	__u16 pad0;
};

/* ---- counters: one per way out ---- */

enum counter {
	COUNT_NONE = 0,
	COUNT_TRANSLATED = 1,	     /* connect or first datagram sent to a backend */
	COUNT_STICKY = 2,	     /* datagram sent to the backend the socket already has */
	COUNT_REPLY = 3,	     /* answer shown in the name of the VIP */
	COUNT_NO_ENDPOINTS = 4,	     /* refused: no endpoint anywhere */
	COUNT_NO_LOCAL_ENDPOINT = 5, /* unreachable: local policy, no local endpoint */
	COUNT_UNKNOWN_PORT = 6,	     /* refused: a cluster IP's port that no service has */
	COUNT_SOURCE_RANGES = 7,     /* left to the packet path */
	COUNT_ON_DEVICE = 8,	     /* left alone: the cluster IP is on a local device */
	COUNT_LOOPBACK_SOURCE = 9,   /* left alone: no backend that a loopback source reaches */
	COUNT_BIND_REFUSED = 10,     /* bind to a node port in use */
	COUNT_ORIGIN_FULL = 11,	     /* origin or flow not remembered: no room */
	COUNT_FLOW_OVERFLOW = 12,    /* a socket with more VIPs than SOCK_FLOWS */
	COUNT_AFFINITY_HIT = 13,
	COUNT_SOCKET_ABORTED = 14, /* connected UDP socket whose backend went away */
	COUNT_OTHER_NETNS = 15,	   /* hook runs from other network namespaces than the host's */
	COUNT_HALF_STATE = 16,	   /* an id led nowhere: must stay 0 */
	COUNT_ADDRESS_PROBE = 17,  /* left alone: a resolver asks for its source address */
	/* Packets. */
	COUNT_FLOW_NEW = 18,		     /* a flow was made */
	COUNT_FLOWS_FULL = 19,		     /* dropped: no room for a new flow */
	COUNT_FLOWS_RECYCLED = 20,	     /* unanswered flow removed to make room */
	COUNT_SNAT_EXHAUSTED = 21,	     /* dropped: no source port free for the backend */
	COUNT_PACKET_NO_ENDPOINTS = 22,	     /* rejected: no endpoint anywhere */
	COUNT_PACKET_NO_LOCAL_ENDPOINT = 23, /* dropped: local policy, no local endpoint */
	COUNT_PACKET_UNKNOWN_PORT = 24,	     /* rejected: a cluster IP's port that no service has */
	COUNT_PACKET_UNUSED_ADDRESS = 25,    /* dropped: of a ServiceCIDR, but no service's */
	COUNT_PACKET_SOURCE_RANGES = 26,     /* dropped: the source is in no range */
	COUNT_UNKNOWN_TCP = 27,		     /* reset: neither SYN nor of a known flow */
	COUNT_UNKNOWN_TCP_TO_STACK = 28, /* left alone: a flow that netfilter or a socket knows */
	COUNT_REJECTS_LIMITED = 29,	 /* dropped instead of rejected: too many */
	COUNT_MALFORMED = 30,		 /* left alone: cannot be parsed */
	COUNT_FRAGMENT_LOST = 31,	 /* left alone: came before the first of its datagram */
	COUNT_TOO_BIG = 32,		 /* answered with fragmentation needed or packet too big */
	COUNT_NO_ROUTE = 33,		 /* dropped: no route to the backend */
	COUNT_HOP_LIMIT = 34,		 /* dropped: time to live used up */
	COUNT_ICMP_ERROR = 35,		 /* ICMP error translated with its inner header */
	COUNT_DSR = 36,			 /* sent to the backend's node unchanged */
	COUNT_SCTP_PORT = 37,		 /* left alone: SCTP would need another port */
	COUNT_FLOW_ENDED = 38,		 /* UDP flow whose backend went away */
	COUNT_KINDS = 39,
};

/* ---- traffic: by service index, for each processor; only with CONFIG_SERVICE_TRAFFIC ---- */

struct service_traffic {
	__u64 connections; /* of sockets: TCP connections, and UDP sockets for each VIP */
	__u64 packets;	   /* of the packet path, both directions */
	__u64 bytes;	   /* of these, from the IP header on */
};

/* ---- configuration: .rodata, fixed for the run ---- */

enum config_flags {
	CONFIG_TCP_ORIGIN = 1 << 0,	   /* remember what TCP sockets dialled */
	CONFIG_POD_SHORTCUT_IPV4 = 1 << 1, /* pods reach all endpoints of an external */
	CONFIG_POD_SHORTCUT_IPV6 = 1 << 2, /* frontend with a local policy: detector exists */
	CONFIG_MASQUERADE_ALL = 1 << 3,	   /* masqueradeAll */
	CONFIG_PRESERVE_SOURCE = 1 << 4,   /* local backends see the client's address */
	CONFIG_DSR_TCP = 1 << 5,	   /* remote backends answer the client themselves */
	CONFIG_DSR_UDP = 1 << 6,
	CONFIG_REDIRECT_PEER = 1 << 7,	 /* straight into local pods, past netfilter */
	CONFIG_DETECT_BY_CIDR = 1 << 8,	 /* no detector in a family without CIDR of pods */
	CONFIG_SERVICE_TRAFFIC = 1 << 9, /* count what passes for each service */
};

enum { CONFIG_TIMEOUTS = 16 }; /* by enum track_state of kpb_packet_types.h */

struct kpb_config {
	__u64 host_netns; /* cookie of the namespace that the proxy runs in */
	__u64 instance;	  /* id of the instance that owns these programs */
	__u32 flags;	  /* enum config_flags */
	__u16 snat_first; /* source ports for masquerading: the first, and how many */
	__u16 snat_count;
	__u32 rejects_per_s;		/* ICMP errors and RSTs, for each processor */
	__u32 timeout[CONFIG_TIMEOUTS]; /* ticks, by enum track_state */
	__u32 forward_mark;		/* of packets that FORWARD shall accept, or 0 */
	__u16 middle_first; /* source ports of clients' packets that need another than their own */
	__u16 middle_count;
	__u32 pad0;
};
