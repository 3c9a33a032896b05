"""The node's own judgement, line by line, for tests that compare ours with it.

    bodies.py          reads questions on standard input, answers each with one line

    body NAME HEX              is this the body of a message of this type?  yes, no, or off-curve: no, and only because an
                               element lies on no curve or in no subgroup
    start VERSION              a new peer, with the tables of limits of this version (1 or 2)
    count SECONDS NAME BYTES   would a node go on with this peer after one more message?  yes or no
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def body_classes():
    """The class of each message type's body, as the schema's generator finds it."""
    place = ROOT / "policy" / "schema" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", place)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return {kind.name: kind_class for kind, kind_class in generate.body_classes().items()}


class Peer:
    """A peer's messages, counted by the node's own limiter at a time that the test sets."""

    def __init__(self, version):
        from chia.protocols.shared_protocol import Capability
        from chia.server.rate_limits import RateLimiter

        self.now = 0.0
        self.capabilities = [Capability.BASE] + ([Capability.RATE_LIMITS_V2] if version == 2 else [])
        self.limiter = RateLimiter(True, get_time=lambda: self.now)

    def count(self, seconds, name, size):
        from chia.protocols.outbound_message import Message
        from chia.protocols.protocol_message_types import ProtocolMessageTypes
        from chia_rs.sized_ints import uint8

        self.now = seconds
        message = Message(uint8(ProtocolMessageTypes[name].value), None, bytes(size))
        return self.limiter.process_msg_and_check(message, self.capabilities, self.capabilities) is None


def judge(kind, data):
    try:
        kind.from_bytes(data)
    except Exception as error:
        return "off-curve" if "POINT_NOT" in str(error) else "no"
    return "yes"


def main():
    classes, peer = body_classes(), Peer(2)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "body":
            answer = judge(classes[rest[0]], bytes.fromhex(rest[1] if len(rest) > 1 else ""))
        elif word == "start":
            peer = Peer(int(rest[0]))
            answer = "yes"
        else:
            answer = "yes" if peer.count(float(rest[0]), rest[1], int(rest[2])) else "no"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
