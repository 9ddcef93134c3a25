// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The few fields of the kernel's own structures that programs look at. Where they lie is found out when the
// programs are loaded (CO-RE), from the running kernel's BTF.
#pragma once

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next, *prev;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct key_vector {
	__u32 key;
	unsigned char pos, bits;
	struct hlist_head leaf; // or nodes below it
};

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

// Where a route leads: within the route, or in an object that routes share.
struct fib_nh_common {
	struct net_device *nhc_dev;
	__u8 nhc_gw_family;
	union {
		__be32 ipv4;
		struct in6_addr ipv6;
	} nhc_gw;
};

struct fib_nh {
	struct fib_nh_common nh_common;
};

struct fib6_nh {
	struct fib_nh_common nh_common;
};

struct nh_info {
	struct fib_nh_common fib_nhc;
};

struct nh_grp_entry {
	struct nexthop *nh;
};

struct nh_group {
	struct nh_grp_entry nh_entries[1];
};

struct nexthop {
	_Bool is_group;
	union {
		struct nh_info *nh_info;
		struct nh_group *nh_grp;
	};
};

struct fib_info {
	unsigned char fib_scope;
	__be32 fib_prefsrc;
	struct nexthop *nh;
	struct fib_nh fib_nh[1];
};

struct fib_alias {
	struct hlist_node fa_list;
	struct fib_info *fa_info;
	__u8 fa_dscp, fa_type, fa_slen;
};

struct fib_table {
	struct hlist_node tb_hlist;
	__u32 tb_id;
	unsigned long *tb_data;
};

struct fib_kuid_range {
	struct {
		__u32 val;
	} start, end;
};

struct fib_rule_port_range___own { // linux/fib_rules.h has that name
	__u16 start, end;
};

// A rule of routing.
struct fib_rule {
	struct list_head list;
	int iifindex, oifindex; // -1: there is no such interface
	__u32 mark, mark_mask, flags, table;
	__u8 action, l3mdev, ip_proto;
	__be64 tun_id;
	int suppress_ifgroup, suppress_prefixlen;
	struct fib_kuid_range uid_range;
	struct fib_rule_port_range___own sport_range, dport_range;
};

struct fib4_rule {
	struct fib_rule common;
	__u8 dst_len, src_len, dscp, dscp_mask;
	__u8 dscp_full : 1;
};

struct fib_rules_ops {
	struct list_head rules_list;
};

struct netns_ipv4 {
	struct fib_table *fib_main, *fib_default;
	struct hlist_head *fib_table_hash;
	struct fib_rules_ops *rules_ops;
	_Bool fib_has_custom_rules;
};

struct in_ifaddr {
	struct in_ifaddr *ifa_next;
	__be32 ifa_local, ifa_address, ifa_mask;
	unsigned char ifa_scope;
	__u32 ifa_flags;
};

struct in_device {
	struct in_ifaddr *ifa_list;
};

struct rt6key {
	struct in6_addr addr;
	int plen;
};

struct fib6_info {
	struct fib6_node *fib6_node; // 0: not in a table
	struct rt6key fib6_dst, fib6_prefsrc;
	__u8 fib6_type;
	struct nexthop *nh;
	struct fib6_nh fib6_nh[1];
};

struct fib6_node {
	struct fib6_node *left, *right;
	struct fib6_info *leaf;
	__u16 fn_bit, fn_flags;
};

struct fib6_table {
	struct fib6_node tb6_root;
};

struct fib6_rule {
	struct fib_rule common;
	struct rt6key src, dst;
	__be32 flowlabel_mask;
	__u8 dscp, dscp_mask;
	__u8 dscp_full : 1;
};

struct netns_ipv6 {
	struct fib6_info *fib6_null_entry;
	struct fib6_table *fib6_main_tbl, *fib6_local_tbl;
	struct fib_rules_ops *fib6_rules_ops;
	_Bool fib6_has_custom_rules;
	unsigned int fib6_routes_require_src;
};

struct net {
	struct list_head dev_base_head;
	struct hlist_head *dev_index_head;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

struct inet6_ifaddr {
	struct in6_addr addr;
	__u32 prefix_len, flags;
	struct fib6_info *rt; // by which it is this host's
	struct list_head if_list;
};

struct ipv6_devconf {
	__s32 use_tempaddr;
};

struct inet6_dev {
	struct list_head addr_list;
	struct ipv6_devconf cnf;
};

struct net_device {
	char name[16];
	int ifindex;
	struct list_head dev_list;
	struct hlist_node index_hlist;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	struct in6_addr skc_v6_daddr;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	__u16 skc_num;
	int skc_bound_dev_if;
	possible_net_t skc_net;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct cred {
	kuid_t fsuid;
	kgid_t fsgid;
};

struct file {
	const struct cred *f_cred;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup_subsys_state {
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct css_set *cgroups;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct socket {
	struct file *file;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	struct sock_cgroup_data sk_cgrp_data;
	__u32 sk_mark;
	__u8 sk_userlocks;
};

struct sk_buff {
	struct sock *sk;
};

struct bpf_sock_addr_kern {
	struct sock *sk;
	void *t_ctx; // of a datagram: where its source is, within what says how it is to be sent
};

struct ipcm_cookie {
	__be32 addr;
	int oif;
};

struct flowi_common {
	int flowic_oif;
};

struct flowi6 {
	struct flowi_common __fl_common;
	struct in6_addr saddr;
};

struct in6_pktinfo {
	int ipi6_ifindex;
};

struct ipv6_pinfo {
	int ucast_oif;
	struct in6_pktinfo sticky_pktinfo;
	__u8 srcprefs;
};

struct inet_sock {
	struct ipv6_pinfo *pinet6;
	int uc_index;
};

struct seq_file;

struct mptcp_sock {
	__u64 local_key;
};

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop
