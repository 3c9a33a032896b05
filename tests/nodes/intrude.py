"""Sends frames that try to reach a host behind a gateway which is no router, as one JSON line of what was sent.

    intrude.py --to ADDRESS [--via ADDRESS] [--forge ADDRESS] TEXT

Datagrams, SYNs and pings straight to ADDRESS, in two fragments, from a forged source, by a source route (RFC 791, section
3.1), and inside datagrams to the gateway: IP in IP (RFC 2003) and GRE (RFC 2784). TEXT is in each of them, to be
recognised. The kernel's route decides where they go first; without --via nothing is sent to a gateway.
"""

import argparse
import json
import socket
import struct

PORTS = [22, 8444, 8555]  # of datagrams and SYNs
ICMP, IP_IN_IP, TCP, UDP, GRE = 1, 4, 6, 17, 47
MORE_FRAGMENTS = 0x2000
LOOSE_SOURCE_ROUTE = 131


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def packet(source, target, protocol, payload, flags=0, options=b""):
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 7, flags, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def transport(source, target, protocol, segment, place):
    """The segment with its checksum at `place`."""
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack(">BBH", 0, protocol, len(segment))
    return segment[:place] + struct.pack(">H", checksum(pseudo + segment)) + segment[place + 2 :]


def contents(source, target, text):
    """Protocol and payload of each thing that is tried."""
    for port in PORTS:
        yield UDP, transport(source, target, UDP, struct.pack(">HHHH", 4444, port, 8 + len(text), 0) + text, 6)
        syn = struct.pack(">HHIIBBHHH", 4444, port, 1, 0, 5 << 4, 0x02, 8192, 0, 0) + text
        yield TCP, transport(source, target, TCP, syn, 16)
    ping = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + text
    yield ICMP, ping[:2] + struct.pack(">H", checksum(ping)) + ping[4:]


def attempts(own, arguments):
    text, target, via = arguments.text.encode(), arguments.to, arguments.via
    for source in filter(None, [own, arguments.forge]):
        for protocol, payload in contents(source, target, text):
            straight = packet(source, target, protocol, payload)
            yield straight
            yield packet(source, target, protocol, payload[:8], MORE_FRAGMENTS)
            yield packet(source, target, protocol, payload[8:], 1)
            if via:
                route = struct.pack(">BBB", LOOSE_SOURCE_ROUTE, 7, 4) + socket.inet_aton(target) + b"\0"
                yield packet(source, via, protocol, payload, options=route)
                yield packet(own, via, IP_IN_IP, straight)
                yield packet(own, via, GRE, struct.pack(">HH", 0, 0x0800) + straight)


def own_address(target):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return probe.getsockname()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True)
    parser.add_argument("--via")
    parser.add_argument("--forge")
    parser.add_argument("text")
    arguments = parser.parse_args()
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
        for data in attempts(own_address(arguments.to), arguments):
            wire.sendto(data, (socket.inet_ntoa(data[16:20]), 0))
            sent += 1
    print(json.dumps({"sent": sent}), flush=True)


if __name__ == "__main__":
    main()
