# SPDX-License-Identifier: Apache-2.0
"""C structures and function types of libbpf and bpf(2), as ctypes; layout only.

libbpf's option structs start with their own size, so only the fields that we set are written
down: libbpf takes the rest as zero. The kernel's info structs grow at the end in the same way.
"""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    Structure,
    Union,
    c_char,
    c_char_p,
    c_int,
    c_size_t,
    c_ubyte,
    c_uint32,
    c_uint64,
    c_void_p,
)

# va_list as a pointer: on x86-64 it is an array, which decays to one; on aarch64 it is a struct
# too large for registers, which the calling convention passes by reference; elsewhere on Linux
# it is a pointer. It may be used once only.
PrintFn = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class OpenOpts(Structure):
    _fields_ = [("sz", c_size_t), ("object_name", c_char_p)]


class MapCreateOpts(Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
    ]


class BatchOpts(Structure):
    _fields_ = [("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64)]


class LinkUpdateOpts(Structure):
    _fields_ = [("sz", c_size_t), ("flags", c_uint32), ("old_prog_fd", c_uint32)]


class XdpAttachOpts(Structure):
    _fields_ = [("sz", c_size_t), ("old_prog_fd", c_int)]


class XdpQueryOpts(Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("prog_id", c_uint32),
        ("drv_prog_id", c_uint32),
        ("hw_prog_id", c_uint32),
        ("skb_prog_id", c_uint32),
        ("attach_mode", c_ubyte),
    ]


class RunOpts(Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class XdpMd(Structure):
    """``struct xdp_md``, the context of an XDP program; offsets count from the frame's start."""

    _fields_ = [
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("data_meta", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("rx_queue_index", c_uint32),
        ("egress_ifindex", c_uint32),
    ]


class MapInfoStruct(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
        ("ifindex", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("btf_id", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("pad0", c_uint32),
    ]


class ProgramInfoStruct(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_ubyte * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
        ("pad0", c_uint32),
    ]


class _CgroupLink(Structure):
    _fields_ = [("cgroup_id", c_uint64), ("attach_type", c_uint32)]


class _DeviceLink(Structure):
    _fields_ = [("ifindex", c_uint32), ("attach_type", c_uint32)]


class _TracingLink(Structure):
    _fields_ = [("attach_type", c_uint32), ("target_obj_id", c_uint32)]


class _LinkDetail(Union):
    _fields_ = [
        ("cgroup", _CgroupLink),
        ("device", _DeviceLink),  # tcx, netkit, xdp (without attach_type)
        ("tracing", _TracingLink),
        ("room", c_uint64 * 8),
    ]


class ObjectHead(Structure):
    """How what the kernel tells of a map, program or link begins."""

    _fields_ = [("type", c_uint32), ("id", c_uint32)]


class LinkInfoStruct(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad0", c_uint32),
        ("detail", _LinkDetail),
    ]


class LinkCreateAttr(Structure):
    """``link_create`` of ``union bpf_attr``, with the place in the chain of tcx and netkit."""

    _fields_ = [
        ("prog_fd", c_uint32),
        ("target", c_uint32),  # cgroup fd or interface index
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("relative_fd", c_uint32),
        ("pad0", c_uint32),
        ("expected_revision", c_uint64),
    ]


class QueryAttr(Structure):
    """``query`` of ``union bpf_attr``, with the links of tcx and netkit."""

    _fields_ = [
        ("target", c_uint32),  # interface index
        ("attach_type", c_uint32),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_uint64),
        ("count", c_uint32),
        ("pad0", c_uint32),
        ("prog_attach_flags", c_uint64),
        ("link_ids", c_uint64),
        ("link_attach_flags", c_uint64),
        ("revision", c_uint64),
    ]


class AttachAttr(Structure):
    """``attach_bpf`` of ``union bpf_attr``, as far as kernels without tcx know it."""

    _fields_ = [
        ("target", c_uint32),  # cgroup fd or interface index
        ("prog_fd", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("replace_fd", c_uint32),
    ]


class NextIdAttr(Structure):
    """What all walks over ids have in ``union bpf_attr``."""

    _fields_ = [("start_id", c_uint32), ("next_id", c_uint32), ("open_flags", c_uint32)]


class BtfInfoStruct(Structure):
    _fields_ = [
        ("btf", c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    ]
