# SPDX-License-Identifier: Apache-2.0
"""What is done to a packet before it is sent: fields that lie, bytes that flip, ends that miss.

Each way is a function of dice, bytes and the offset of the IP header; some of them keep the
checksums right, so that what is odd gets past whoever checks them first.
"""

from __future__ import annotations

from random import Random
from typing import Callable

from .craft import checksum

Way = Callable[[Random, bytearray, int], None]

_SHARP = (0, 1, 2, 4, 5, 8, 0x0F, 0x10, 0x3F, 0x40, 0x45, 0x60, 0x7F, 0x80, 0xF0, 0xFE, 0xFF)
_SHARP_WORDS = (0, 1, 7, 8, 19, 20, 21, 28, 39, 40, 41, 60, 0x2000, 0x4000, 0x7FFF, 0x8000, 0xFFFF)
_PROTOCOLS = (0, 1, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 135, 255)
_HEADERS = 110
_HOW_OFTEN = (0, 0, 1, 1, 1, 2, 3, 4)


def _place(dice: Random, data: bytearray, at: int) -> int:
    return dice.randrange(min(at, len(data) - 1), min(len(data), _HEADERS))


def flip(dice: Random, data: bytearray, at: int) -> None:
    data[_place(dice, data, at)] ^= 1 << dice.randrange(8)


def sharp(dice: Random, data: bytearray, at: int) -> None:
    data[_place(dice, data, at)] = dice.choice(_SHARP)


def word(dice: Random, data: bytearray, at: int) -> None:
    place = _place(dice, data, at) & ~1
    if place + 2 <= len(data):
        data[place : place + 2] = dice.choice(_SHARP_WORDS).to_bytes(2, "big")


def noise(dice: Random, data: bytearray, at: int) -> None:
    place = _place(dice, data, at)
    length = min(dice.randrange(1, 24), len(data) - place)
    data[place : place + length] = dice.randbytes(length)


def cut(dice: Random, data: bytearray, at: int) -> None:
    del data[dice.randrange(min(at, len(data)), len(data) + 1) :]


def grow(dice: Random, data: bytearray, at: int) -> None:
    data += dice.randbytes(dice.choice((1, 2, 7, 64, 700, 2000)))


def move(dice: Random, data: bytearray, at: int) -> None:
    """All that follows stands elsewhere than it is looked for."""
    place = _place(dice, data, at)
    if dice.random() < 0.5:
        data[place:place] = dice.randbytes(dice.choice((1, 2, 4, 8, 40)))
    else:
        del data[place : place + dice.choice((1, 2, 4, 8, 20))]


def ethernet(dice: Random, data: bytearray, at: int) -> None:
    """Another MAC, kind of frame or VLAN tag."""
    if not at or len(data) < at:
        return
    choice = dice.randrange(4)
    if choice == 0:
        data[0:6] = dice.choice((b"\xff" * 6, bytes(6), b"\x01\x00\x5e\x00\x00\x01"))
    elif choice == 1:
        data[6:12] = dice.choice((b"\xff" * 6, bytes(6), bytes(data[0:6])))
    elif choice == 2:
        data[12:12] = dice.choice((b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05\x81\x00\x00\x06"))
    else:
        data[12:14] = dice.choice((b"\x08\x06", b"\x86\xdd", b"\x08\x00", b"\x00\x2e", b"\x88\x47"))


def protocol(dice: Random, data: bytearray, at: int) -> None:
    place = at + (9 if _is_ipv4(data, at) else 6)
    if place < len(data):
        data[place] = dice.choice(_PROTOCOLS)


def length(dice: Random, data: bytearray, at: int) -> None:
    place = at + (2 if _is_ipv4(data, at) else 4)
    if place + 2 <= len(data):
        said = int.from_bytes(data[place : place + 2], "big")
        new = dice.choice((*_SHARP_WORDS, said - 1, said + 1, said - 8, len(data)))
        data[place : place + 2] = (new & 0xFFFF).to_bytes(2, "big")


def version(dice: Random, data: bytearray, at: int) -> None:
    """Version, and how long the header of IPv4 is."""
    if at < len(data):
        data[at] = dice.choice((0x40, 0x44, 0x45, 0x46, 0x4A, 0x4F, 0x60, 0x65, 0, 0xF5))


def fragment(dice: Random, data: bytearray, at: int) -> None:
    """Of IPv4: a part of something, by an offset that fits nothing."""
    if _is_ipv4(data, at) and at + 8 <= len(data):
        bits = dice.choice((0x2000, 0x3FFF, 0x1FFF, 1, 2, 0x8000, 0xA000, 185, 0x20B9))
        data[at + 6 : at + 8] = bits.to_bytes(2, "big")


def hops(dice: Random, data: bytearray, at: int) -> None:
    place = at + (8 if _is_ipv4(data, at) else 7)
    if place < len(data):
        data[place] = dice.choice((0, 1, 2, 255))


def offset(dice: Random, data: bytearray, at: int) -> None:
    """Where TCP says that its payload begins, and flags of all sorts."""
    place = at + (20 if _is_ipv4(data, at) else 40) + 12
    if place + 2 <= len(data):
        data[place] = dice.choice((0, 0x10, 0x40, 0x50, 0x60, 0xF0))
        data[place + 1] = dice.randrange(256)


def extension(dice: Random, data: bytearray, at: int) -> None:
    """Of IPv6: one more header before the payload, with whatever length it claims."""
    if _is_ipv4(data, at) or len(data) < at + 40:
        return
    kind = dice.choice((0, 43, 44, 51, 60))
    header = bytes([data[at + 6], dice.choice((0, 0, 0, 1, 2, 255))]) + dice.randbytes(6)
    data[at + 6] = kind
    data[at + 40 : at + 40] = header
    said = int.from_bytes(data[at + 4 : at + 6], "big") + 8
    data[at + 4 : at + 6] = (said & 0xFFFF).to_bytes(2, "big")


def land(dice: Random, data: bytearray, at: int) -> None:
    """The source is the destination, or the other way round."""
    begin, size = (at + 12, 4) if _is_ipv4(data, at) else (at + 8, 16)
    if begin + 2 * size > len(data):
        return
    ends = bytes(data[begin : begin + size]), bytes(data[begin + size : begin + 2 * size])
    new = dice.choice((ends[0] * 2, ends[1] * 2, ends[1] + ends[0]))
    data[begin : begin + 2 * size] = new


def client(dice: Random, data: bytearray, at: int) -> None:
    """A new client port: the sum of the segment is kept, by another word of it."""
    ipv4 = _is_ipv4(data, at)
    place = at + (20 if ipv4 else 40)
    if place + 18 > len(data):
        return
    check = {6: 16, 17: 6}.get(data[at + (9 if ipv4 else 6)])
    if check is None:
        return
    old = int.from_bytes(data[place : place + 2], "big")
    step = dice.randrange(1 << 13)
    sum_place = slice(place + check, place + check + 2)
    said = int.from_bytes(data[sum_place], "big")
    if old + step < 0x10000 and said > step:
        data[place : place + 2] = (old + step).to_bytes(2, "big")
        data[sum_place] = (said - step).to_bytes(2, "big")


def header_sum(dice: Random, data: bytearray, at: int) -> None:
    """Mend the sum of the IPv4 header, whatever was done to it before."""
    end = at + (data[at] & 15) * 4 if at < len(data) else 0
    if _is_ipv4(data, at) and at + 20 <= end <= len(data):
        data[at + 10 : at + 12] = bytes(2)
        data[at + 10 : at + 12] = checksum(bytes(data[at:end])).to_bytes(2, "big")


def _is_ipv4(data: bytearray, at: int) -> bool:
    return at < len(data) and data[at] >> 4 == 4


WAYS: tuple[Way, ...] = (
    *(flip, sharp, word, noise, cut, grow, move, ethernet, protocol, length, version, fragment),
    *(hops, offset, extension, land, client, client, client, header_sum),
)


def mutate(dice: Random, frame: bytes, at: int, longest: int) -> bytes:
    """The packet as it is, or after up to four of the ways."""
    data = bytearray(frame)
    for _ in range(_HOW_OFTEN[dice.getrandbits(3)]):
        if not data:
            break
        WAYS[int(dice.random() * len(WAYS))](dice, data, at)
    if data and dice.random() < 0.5:
        header_sum(dice, data, at)
    return bytes(data[:longest])
