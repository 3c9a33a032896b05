"""What a peer says inside TLS: the upgrade, WebSocket frames, Chia messages. For any stream that has `sendall` and `recv`."""

import base64
import os
import struct

NETWORK = "testnet0"
FULL_NODE, WALLET = 1, 6
HANDSHAKE, NEW_PEAK, REQUEST_BLOCK, REJECT_BLOCK = 1, 20, 26, 28
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
CAPABILITIES = [(1, "1"), (2, "1"), (3, "1"), (5, "1")]


class Failed(Exception):
    """A case did not go as it should, in one sentence."""


def request(method="GET", path="/ws", version="HTTP/1.1", host="Host: node", key=None, protocol="13", more=""):
    """An upgrade request; `more` are further header lines, each with its end."""
    key = key or base64.b64encode(os.urandom(16)).decode()
    return (
        f"{method} {path} {version}\r\n{host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: {protocol}\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
    ).encode()


def frame(payload=b"", opcode=BINARY, first=None, mask=b"\x37\xfa\x21\x3d", length=None):
    """A frame; `first` is its first byte where it is not that of a whole message, `length` a lie about its length."""
    length = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    head = bytes([0x80 | opcode if first is None else first])
    if length < 126:
        head += bytes([bit | length])
    elif length < 1 << 16:
        head += struct.pack(">BH", bit | 126, length)
    else:
        head += struct.pack(">BQ", bit | 127, length)
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + (mask or b"") + payload


def text(value):
    return struct.pack(">I", len(value)) + value.encode()


def handshake(network=NETWORK, kind=FULL_NODE, more=b""):
    capabilities = b"".join(struct.pack(">H", number) + text(value) for number, value in CAPABILITIES)
    body = text(network) + text("0.0.37") + text("2.7.5") + struct.pack(">HB", 8444, kind)
    return message(HANDSHAKE, body + struct.pack(">I", len(CAPABILITIES)) + capabilities + more)


def message(kind, body=b"", number=None, length=None):
    """A message; `length` is a lie about its body's length."""
    length = struct.pack(">I", len(body) if length is None else length)
    head = bytes([kind, 0]) if number is None else struct.pack(">BBH", kind, 1, number)
    return head + length + body


class Talk:
    """One side of a WebSocket over a stream."""

    def __init__(self, stream):
        self.stream = stream
        self.held = b""

    def say(self, *frames):
        self.stream.sendall(b"".join(frames))

    def more(self):
        came = self.stream.recv(65536)
        if not came:
            raise Failed(f"it ended; before that came {self.held[:80]!r}")
        self.held += bytes(came)

    def take(self, count):
        while len(self.held) < count:
            self.more()
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def upgrade(self, sent=None):
        """Asks for the upgrade; gives the answer's head."""
        self.say(sent or request())
        while b"\r\n\r\n" not in self.held:
            self.more()
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"no upgrade but {head[:80]!r}")
        return head

    def hear(self):
        """The next frame: opcode and payload."""
        first, second = self.take(2)
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
        return first & 0x0F, self.take(length)

    def message(self):
        """The next binary message; pings are answered."""
        while True:
            opcode, payload = self.hear()
            if opcode == BINARY:
                return payload
            if opcode == PING:
                self.say(frame(payload, PONG))
            elif opcode == CLOSE:
                raise Failed(f"closed with {payload!r}")

    def introduce(self):
        """Upgrade and handshake, answered by the node."""
        self.upgrade()
        self.say(frame(handshake()))
        answer = self.message()
        if answer[0] != HANDSHAKE:
            raise Failed(f"no handshake but {answer[:40]!r}")
        return self

    def ask(self, height=7):
        """A request that only the node can answer, and its answer."""
        self.say(frame(message(REQUEST_BLOCK, struct.pack(">IB", height, 0), number=5)))
        answer = self.message()
        if answer != message(REJECT_BLOCK, struct.pack(">I", height), number=5):
            raise Failed(f"no answer of the node but {answer[:40]!r}")
        return self

    def bye(self):
        self.say(frame(struct.pack(">H", 1000), CLOSE))
        while self.hear()[0] != CLOSE:
            pass

    def closed(self):
        """Reads on until the other side closes; its code."""
        while True:
            opcode, payload = self.hear()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")


def converse(stream):
    """A whole session: upgrade, handshake, a question that the node answers, farewell."""
    Talk(stream).introduce().ask().bye()
