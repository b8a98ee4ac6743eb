"""What ``ip link``, ``ip address`` and ``ip route`` do, so that no machine needs iproute2.

Everything acts on the network namespace that the calling thread is in. A request is a header, a fixed part
that depends on its kind, and attributes::

    struct nlmsghdr  { __u32 nlmsg_len; __u16 nlmsg_type, nlmsg_flags; __u32 nlmsg_seq, nlmsg_pid; };
    struct ifinfomsg { unsigned char ifi_family, pad; unsigned short ifi_type; int ifi_index;
                       unsigned ifi_flags, ifi_change; };                        /* RTM_NEWLINK */
    struct ifaddrmsg { __u8 ifa_family, ifa_prefixlen, ifa_flags, ifa_scope; __u32 ifa_index; };
    struct rtmsg     { unsigned char rtm_family, rtm_dst_len, rtm_src_len, rtm_tos,
                       rtm_table, rtm_protocol, rtm_scope, rtm_type; unsigned rtm_flags; };
    struct rtattr    { unsigned short rta_len, rta_type; };                      /* padded to 4 */

(``include/uapi/linux/{netlink,rtnetlink,if_addr,if_link,veth}.h``)
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=I")
_ERRNO = struct.Struct("=i")

_NLMSG_ERROR = 2
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NEW = _NLM_F_EXCL | _NLM_F_CREATE
_IFF_UP = 0x1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, _RT_TABLE_LOCAL = 254, 255
_RT_SCOPE_UNIVERSE, _RT_SCOPE_HOST = 0, 254
_RTPROT_STATIC = 4
_RTN_UNICAST, _RTN_LOCAL = 1, 2


def set_up(interface: str) -> None:
    """Bring an interface up (``ip link set <interface> up``)."""
    _ask(_RTM_NEWLINK, 0, _LINK.pack(0, 0, socket.if_nametoindex(interface), _IFF_UP, _IFF_UP))


def set_down(interface: str) -> None:
    """Take an interface down: from now on packets are lost there."""
    _ask(_RTM_NEWLINK, 0, _LINK.pack(0, 0, socket.if_nametoindex(interface), 0, _IFF_UP))


def add_veth(interface: str, peer: str, peer_namespace: int) -> None:
    """Make a pair of joined interfaces, the peer in the namespace of an open ``/proc/<pid>/ns/net``."""
    peer_link = _LINK.pack(0, 0, 0, 0, 0) + _name(peer)
    peer_link += _attribute(_IFLA_NET_NS_FD, _INDEX.pack(peer_namespace))
    info = _attribute(_IFLA_INFO_KIND, b"veth")
    info += _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer_link))
    _ask(_RTM_NEWLINK, _NEW, _LINK.pack(0, 0, 0, 0, 0) + _name(interface) + _attribute(_IFLA_LINKINFO, info))


def add_address(interface: str, address: str) -> None:
    """Give an interface an address with its prefix, usable at once (``ip address add``)."""
    parsed = ip_interface(address)
    six = isinstance(parsed, IPv6Interface)
    body = _ADDRESS.pack(
        socket.AF_INET6 if six else socket.AF_INET,
        parsed.network.prefixlen,
        _IFA_F_NODAD if six else 0,  # duplicate address detection would hold it back for a second
        _RT_SCOPE_UNIVERSE,
        socket.if_nametoindex(interface),
    )
    _ask(
        _RTM_NEWADDR,
        _NEW,
        body + _attribute(_IFA_LOCAL, parsed.packed) + _attribute(_IFA_ADDRESS, parsed.packed),
    )


def add_route(network: str, gateway: str) -> None:
    """Send what goes to a network through a gateway (``ip route add <network> via <gateway>``)."""
    _add_route(
        network,
        _RT_TABLE_MAIN,
        _RT_SCOPE_UNIVERSE,
        _RTN_UNICAST,
        _attribute(_RTA_GATEWAY, ip_address(gateway).packed),
    )


def add_local(network: str) -> None:
    """Make every address of a network one of this host (AnyIP, ``ip route add local <network> dev lo``)."""
    index = _INDEX.pack(socket.if_nametoindex("lo"))
    _add_route(network, _RT_TABLE_LOCAL, _RT_SCOPE_HOST, _RTN_LOCAL, _attribute(_RTA_OIF, index))


def _add_route(network: str, table: int, scope: int, kind: int, attributes: bytes) -> None:
    parsed = ip_network(network)
    family = socket.AF_INET6 if isinstance(parsed, IPv6Network) else socket.AF_INET
    body = _ROUTE.pack(family, parsed.prefixlen, 0, 0, table, _RTPROT_STATIC, scope, kind, 0)
    destination = _attribute(_RTA_DST, parsed.network_address.packed) if parsed.prefixlen else b""
    _ask(_RTM_NEWROUTE, _NEW, body + destination + attributes)


def _name(interface: str) -> bytes:
    return _attribute(_IFLA_IFNAME, interface.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _ask(kind: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        size = _HEADER.size + len(body)
        kernel.send(_HEADER.pack(size, kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 0, 0) + body)
        answer = kernel.recv(1 << 16)
    _, answer_kind, _, _, _ = _HEADER.unpack_from(answer)
    (code,) = _ERRNO.unpack_from(answer, _HEADER.size)
    if answer_kind != _NLMSG_ERROR or code:
        raise OSError(-code, f"rtnetlink: request {kind}: {os.strerror(-code)}")
