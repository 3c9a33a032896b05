"""Listens to one device and says which addresses and which of some texts came in by it, as JSON lines.

    wire.py --device DEVICE TEXT...

The first line says that it listens; when standard input ends a second one follows:

    {"frames": N, "addresses": ["10.1.0.1", ...], "texts": ["10.2.0.1", ...]}

`addresses` are those in the headers of ARP, IPv4 and IPv6 frames, `texts` those TEXTs that stood anywhere in a frame.
"""

import argparse
import ipaddress
import json
import select
import socket
import sys

EVERYTHING = 0x0003  # ETH_P_ALL
OUTGOING = 4  # PACKET_OUTGOING
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
# Where two addresses of so many bytes lie behind the Ethernet header.
PLACES = {ARP: ((14, 24), 4), IPV4: ((12, 16), 4), IPV6: ((8, 24), 16)}


def addresses(frame):
    starts, size = PLACES.get(int.from_bytes(frame[12:14], "big"), ((), 0))
    cut = (frame[14 + start : 14 + start + size] for start in starts)
    return {str(ipaddress.ip_address(address)) for address in cut if len(address) == size}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("texts", nargs="*")
    arguments = parser.parse_args()
    needles = {text: text.encode() for text in arguments.texts}
    heard, found, frames = set(), set(), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING)) as wire:
        wire.bind((arguments.device, 0))
        print(json.dumps({"listens": True}), flush=True)
        while True:
            ready, _, _ = select.select([wire, sys.stdin], [], [])
            if wire in ready:
                frame, address = wire.recvfrom(1 << 17)
                if address[2] != OUTGOING:
                    frames += 1
                    heard |= addresses(frame)
                    found |= {text for text, needle in needles.items() if needle in frame}
            elif not sys.stdin.buffer.read1():
                break
    print(json.dumps({"frames": frames, "addresses": sorted(heard), "texts": sorted(found)}), flush=True)


if __name__ == "__main__":
    main()
