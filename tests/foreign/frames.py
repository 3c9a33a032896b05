"""HTTP, WebSocket and Chia as raw bytes inside TLS by Python's own `ssl`: smuggling, bombs, broken frames, lying messages."""

import ssl
import struct
import time
import zlib

from registry import PATIENCE, Failed, refused, reset, served, until_end
from wire import BINARY, CLOSE, HANDSHAKE, NEW_PEAK, PING, REQUEST_BLOCK, Talk, converse, frame, handshake, message, request


def context(place, certificate="p256"):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if certificate:
        made.load_cert_chain(*place.pem(certificate))
    return made


def secure(place, certificate="p256"):
    stream = context(place, certificate).wrap_socket(place.connect())
    stream.settimeout(PATIENCE)
    return stream


def answer(place, *pieces):
    """The status of the answer to a request in pieces."""
    stream = secure(place)
    for piece in pieces:
        stream.sendall(piece)
    return until_end(stream).split(b"\r\n")[0].decode()


def told(talk):
    """The close code of a session's end; 0 for an end without one."""
    try:
        return talk.closed()
    except Failed:
        return 0
    except (ConnectionResetError, ssl.SSLError):
        return 0


def upgraded(place):
    talk = Talk(secure(place))
    talk.upgrade()
    return talk


def ended(talk, *frames):
    """What a session that sends this is told."""
    try:
        talk.say(*frames)
    except (ConnectionError, ssl.SSLError):
        pass
    return told(talk)


def opened(place, *frames):
    """The same behind a good handshake and an answer of the node."""
    return ended(Talk(secure(place)).introduce().ask(), *frames)


@served
def python_ssl(place):
    converse(secure(place, "rsa2048"))


@served
def a_message_in_fragments_with_a_ping_inside(place):
    talk = Talk(secure(place)).introduce()
    body = message(REQUEST_BLOCK, struct.pack(">IB", 7, 0), number=5)
    talk.say(frame(body[:5], first=2), frame(b"hello", PING), frame(body[5:9], first=0), frame(body[9:], first=0x80))
    if talk.hear() != (10, b"hello"):
        raise Failed("the ping was not answered first")
    if talk.message()[0] != 28:
        raise Failed("no answer of the node")
    talk.bye()


@served
def everything_byte_by_byte(place):
    """Each byte in a TLS record of its own."""

    class Bytewise:
        def __init__(self, stream):
            self.stream, self.recv = stream, stream.recv

        def sendall(self, data):
            for byte in data:
                self.stream.sendall(bytes([byte]))

    converse(Bytewise(secure(place)))


@served
def compression_offered(place):
    """Never taken up, as a server may (RFC 7692 section 5)."""
    talk = Talk(secure(place))
    head = talk.upgrade(request(more="Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"))
    if b"sec-websocket-extensions" in head.lower():
        raise Failed(f"an extension was agreed on: {head!r}")
    talk.say(frame(handshake()))
    talk.message()
    talk.ask().bye()


# A11: HTTP.


@refused("http_path", heard="HTTP/1.1 404 Not Found")
def another_path(place):
    return answer(place, request(path="/"))


@refused("http_path")
def a_whole_address_as_path(place):
    return answer(place, request(path="http://elsewhere/ws"))


@refused("http_method", heard="HTTP/1.1 405 Method Not Allowed")
def another_method(place):
    return answer(place, request(method="POST"))


@refused("http_malformed", heard="HTTP/1.1 400 Bad Request")
def http_1_0(place):
    return answer(place, request(version="HTTP/1.0"))


@refused("http_malformed", heard="HTTP/1.1 400 Bad Request")
def no_host(place):
    return answer(place, request(host="X-Nothing: 1"))


@refused("http_malformed", heard="HTTP/1.1 400 Bad Request")
def two_hosts(place):
    return answer(place, request(host="Host: node\r\nHost: other"))


@refused("http_malformed", heard="HTTP/1.1 400 Bad Request")
def a_header_of_control_characters(place):
    return answer(place, request(more="X: a\0b\x1b[2J\r\n"))


@refused("http_malformed", heard="HTTP/1.1 400 Bad Request")
def http_2(place):
    return answer(place, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@refused("http_not_upgrade", heard="HTTP/1.1 400 Bad Request")
def no_upgrade(place):
    return answer(place, b"GET /ws HTTP/1.1\r\nHost: node\r\n\r\n")


@refused("http_not_upgrade", heard="HTTP/1.1 400 Bad Request")
def another_version_of_websocket(place):
    return answer(place, request(protocol="8"))


@refused("http_not_upgrade", heard="HTTP/1.1 400 Bad Request")
def a_short_key(place):
    return answer(place, request(key="AAAA"))


@refused("http_too_large", heard="HTTP/1.1 431 Request Header Fields Too Large")
def many_headers(place):
    return answer(place, request(more="X: y\r\n" * 60))


@refused("http_too_large", heard="HTTP/1.1 431 Request Header Fields Too Large")
def a_header_without_end(place):
    return answer(place, b"GET /ws HTTP/1.1\r\nHost: node\r\nX: ", *[b"y" * 1_000] * 8)


@refused("http_body", heard="HTTP/1.1 400 Bad Request")
def a_body(place):
    return answer(place, request(more="Content-Length: 5\r\n"), b"hello")


@refused("http_body", heard="HTTP/1.1 400 Bad Request")
def a_chunked_body(place):
    return answer(place, request(more="Transfer-Encoding: chunked\r\n"), b"0\r\n\r\n")


@refused("http_body", heard="HTTP/1.1 400 Bad Request")
def two_lengths(place):
    return answer(place, request(more="Content-Length: 0\r\nContent-Length: 44\r\n"))


@refused("http_body", heard="HTTP/1.1 400 Bad Request")
def a_request_inside_a_request(place):
    return answer(place, request() + request(path="/admin"))


@refused("http_timeout", heard="HTTP/1.1 408 Request Timeout", slow=True)
def a_request_byte_by_byte(place):
    stream = secure(place)
    try:
        for byte in request():
            stream.sendall(bytes([byte]))
            time.sleep(0.2)
    except (ConnectionError, ssl.SSLError):
        pass
    return until_end(stream).split(b"\r\n")[0].decode()


# A12: WebSocket, before and behind the handshake. Many more as raw bytes: `policy/tests/autobahn.rs`.


@refused("ws_unmasked", heard=1002)
def no_mask(place):
    return opened(place, frame(message(NEW_PEAK, bytes(80)), mask=None))


@refused("ws_reserved_bits", heard=1002)
def a_bomb_of_compression(place):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(40 << 20)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    talk = Talk(secure(place))
    talk.upgrade(request(more="Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    talk.say(frame(handshake()))
    talk.message()
    return ended(talk, frame(packed, first=0x80 | 0x40 | BINARY))


@refused("ws_opcode", heard=1002)
def an_unknown_opcode(place):
    return opened(place, frame(b"", 11))


@refused("ws_text_frame", heard=1003)
def text_instead_of_bytes(place):
    return opened(place, frame(b"hello", 1))


@refused("ws_length", heard=1002)
def a_length_beyond_63_bits(place):
    return opened(place, b"\x82\xff" + b"\xff" * 8 + b"mask")


@refused("ws_too_large", heard=1009)
def a_message_of_a_tebibyte(place):
    return opened(place, frame(length=1 << 40))


@refused("ws_control", heard=1002)
def a_long_ping(place):
    return opened(place, frame(bytes(126), PING))


@refused("ws_control", heard=1002)
def a_ping_in_fragments(place):
    return opened(place, frame(b"", first=PING))


@refused("ws_control", heard=1002)
def a_close_with_half_a_code(place):
    return opened(place, frame(b"\x03", CLOSE))


@refused("ws_continuation", heard=1002)
def a_continuation_of_nothing(place):
    return opened(place, frame(b"x", first=0x80))


@refused("ws_continuation", heard=1002)
def a_message_inside_a_message(place):
    return opened(place, frame(b"x", first=2), frame(b"x", first=2))


@refused("ws_fragments", heard=1002)
def fragments_of_one_byte(place):
    block = message(27, bytes(30_000))
    parts = [frame(block[at : at + 1], first=0 if at else 2) for at in range(len(block))]
    return opened(place, *parts)


@refused("ws_control_flood", heard=1002)
def a_flood_of_pings(place):
    return opened(place, frame(bytes(125), PING) * 5_000)


@refused("ws_control_flood", heard=1002)
def a_flood_of_pongs(place):
    return opened(place, frame(b"", 10) * 5_000)


@refused("ws_control_flood", heard=1002)
def a_flood_of_empty_fragments(place):
    return opened(place, frame(b"\x14", first=2), frame(b"", first=0) * 5_000)


@refused("peer_closed", heard=1000)
def data_behind_a_close(place):
    return opened(place, frame(struct.pack(">H", 1000), CLOSE), frame(message(NEW_PEAK, bytes(80))) * 100)


@refused("peer_lost")
def a_reset_in_the_middle_of_a_message(place):
    stream = secure(place)
    Talk(stream).introduce().ask().say(frame(message(27, bytes(4_000)))[:900])
    reset(stream)


# A13: handshakes.


@refused("chia_wrong_network", heard=1002)
def another_network(place):
    return ended(upgraded(place), frame(handshake("mainnet")))


@refused("chia_wrong_type")
def a_wallet_where_nodes_are_served(place):
    return ended(upgraded(place), frame(handshake(kind=6)))


@refused("chia_wrong_type", "chia_bad_handshake")
def a_kind_of_peer_that_does_not_exist(place):
    return ended(upgraded(place), frame(handshake(kind=99)))


@refused("chia_no_handshake", heard=1002)
def a_message_before_the_handshake(place):
    return ended(upgraded(place), frame(message(NEW_PEAK, bytes(80))))


@refused("chia_bad_handshake", heard=1002)
def a_handshake_with_something_behind(place):
    return ended(upgraded(place), frame(handshake(more=b"x")))


@refused("chia_bad_handshake", heard=1002)
def a_handshake_that_lies_about_a_text(place):
    return ended(upgraded(place), frame(message(HANDSHAKE, b"\xff\xff\xff\xff" + bytes(40))))


@refused("chia_bad_handshake", "message_too_large", "ws_too_large", "chia_no_handshake")
def a_giant_handshake(place):
    return ended(upgraded(place), frame(message(HANDSHAKE, bytes(300_000))))


@refused("chia_second_handshake", heard=1002)
def two_handshakes(place):
    return opened(place, frame(handshake()))


@refused("chia_second_handshake", "chia_no_handshake", "not_for_this_sender")
def another_kind_of_peer_by_a_second_handshake(place):
    return opened(place, frame(handshake(kind=6)))


# A14: messages.


@refused("unknown_message", heard=1002)
def an_unknown_message_that_is_large(place):
    return opened(place, frame(message(200, bytes(70_000))))


@refused("rate_limited", "message_too_large", heard=(1008, 1009))
def an_oversize_message(place):
    return opened(place, frame(message(NEW_PEAK, bytes(5_000))))


@refused("envelope_malformed", "body_malformed", heard=1002)
def a_truncated_message(place):
    return opened(place, frame(message(REQUEST_BLOCK, bytes(3), number=6, length=5)))


@refused("body_malformed", heard=1002)
def a_body_that_is_short(place):
    return opened(place, frame(message(NEW_PEAK, bytes(20))))


@refused("body_malformed", heard=1002)
def a_body_with_something_behind(place):
    return opened(place, frame(message(REQUEST_BLOCK, struct.pack(">IB", 7, 0) + b"x", number=6)))


@refused("body_malformed", heard=1002)
def a_flag_that_is_none(place):
    return opened(place, frame(message(REQUEST_BLOCK, struct.pack(">IB", 7, 2), number=6)))


@refused("body_malformed", heard=1002)
def a_list_of_four_billion(place):
    return opened(place, frame(message(44, b"\xff\xff\xff\xff" + bytes(200))))


@refused("envelope_malformed", heard=1002)
def an_empty_message(place):
    return opened(place, frame(b""))


@refused("not_for_this_sender", heard=1002)
def a_message_of_wallets(place):
    return opened(place, frame(message(48, bytes(100))))


@refused("rate_limited", heard=1008)
def a_flood_of_requests(place):
    return opened(place, frame(message(43, number=9)) * 40)
