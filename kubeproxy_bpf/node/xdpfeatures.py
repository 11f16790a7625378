# SPDX-License-Identifier: Apache-2.0
"""Which devices can send what XDP redirects to them, as their drivers say (Linux 6.3).

A frame that is redirected to another device vanishes without a word. A veth says so as well: it
can send while its peer has XDP or GRO. Asked by ``packets``, in a thread. pyroute2 is imported
late, since it weighs 10 MB.
"""

from __future__ import annotations

_FAMILY = "netdev"
_GET_DEVICES = 1
_VERSION = 1
_NDO_XMIT = 4  # enum netdev_xdp_act


def redirect_targets() -> frozenset[int]:
    """The numbers of these devices in the network namespace of the calling thread.

    Raises:
        OSError: the kernel does not tell.
    """
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket

    class Message(genlmsg):  # type: ignore[misc]
        prefix = "NETDEV_A_DEV_"
        nla_map = (
            ("NETDEV_A_DEV_UNSPEC", "none"),
            ("NETDEV_A_DEV_IFINDEX", "uint32"),
            ("NETDEV_A_DEV_PAD", "none"),
            ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        )

    request = Message()
    request["cmd"], request["version"] = _GET_DEVICES, _VERSION
    try:
        with GenericNetlinkSocket() as netdev:
            netdev.bind(_FAMILY, Message)
            flags = NLM_F_REQUEST | NLM_F_DUMP
            answers = list(netdev.nlm_request(request, msg_type=netdev.prid, msg_flags=flags))
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error
    return frozenset(
        answer.get_attr("NETDEV_A_DEV_IFINDEX")
        for answer in answers
        if (answer.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0) & _NDO_XMIT
    )
