"""A slow line between two TAP devices: every frame takes its time, and no more bits pass in a second than the line has.

    link.py NEAR FAR --delay MS --rate MBIT [--queue MS]

Makes both devices in the network namespace that it runs in; either can be moved to another one. The delay is that of one
way. What would wait longer than --queue for its turn is lost, as at any full router. The first line it prints says that the
devices are there. Ends with its standard input, and prints then what passed and what was lost, each way.
"""

import argparse
import fcntl
import json
import os
import selectors
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_MAX = 2048
# What a frame costs on the wire beside its bytes: preamble, checksum and gap.
FRAME_EXTRA = 24


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Way:
    """Frames from one device to the other, in their order."""

    def __init__(self, source, target, arguments):
        self.source, self.target = source, target
        self.delay, self.most = arguments.delay / 1000, arguments.queue / 1000
        self.bits = arguments.rate * 1e6
        self.free_at = 0.0  # when the line has sent all that it took
        self.waiting = deque()
        self.passed = self.bytes = self.lost = 0

    def take(self, now):
        while True:
            try:
                frame = os.read(self.source, FRAME_MAX)
            except BlockingIOError:
                return
            begin = max(now, self.free_at)
            if begin - now > self.most:
                self.lost += 1
                continue
            self.free_at = begin + (len(frame) + FRAME_EXTRA) * 8 / self.bits
            self.waiting.append((self.free_at + self.delay, frame))

    def give(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            _, frame = self.waiting.popleft()
            try:
                os.write(self.target, frame)
                self.passed, self.bytes = self.passed + 1, self.bytes + len(frame)
            except OSError:  # the device is down, or its queue is full
                self.lost += 1

    def due(self):
        return self.waiting[0][0] if self.waiting else float("inf")

    def sum(self):
        return {"frames": self.passed, "bytes": self.bytes, "lost": self.lost}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--delay", type=float, required=True, metavar="MS")
    parser.add_argument("--rate", type=float, required=True, metavar="MBIT")
    parser.add_argument("--queue", type=float, default=200, metavar="MS")
    arguments = parser.parse_args()
    near, far = tap(arguments.near), tap(arguments.far)
    ways = [Way(near, far, arguments), Way(far, near, arguments)]
    print(json.dumps({"ready": True}), flush=True)
    selector = selectors.DefaultSelector()
    for way in ways:
        selector.register(way.source, selectors.EVENT_READ, way)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    while True:
        wait = min(way.due() for way in ways) - time.monotonic()
        for key, _ in selector.select(None if wait == float("inf") else max(0, wait)):
            if key.data is None:
                print(json.dumps({"outward": ways[0].sum(), "back": ways[1].sum()}), flush=True)
                return
            key.data.take(time.monotonic())
        for way in ways:
            way.give(time.monotonic())


if __name__ == "__main__":
    main()
