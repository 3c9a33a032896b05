"""Odd TLS handshakes, played by tlslite-ng: each alters what a correct client would send."""

import os
import time

from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.constants import AlertDescription, AlertLevel, ContentType, GroupName, HandshakeType
from tlslite.errors import TLSAbruptCloseError, TLSLocalAlert, TLSRemoteAlert
from tlslite.extensions import ClientKeyShareExtension, SupportedGroupsExtension, SupportedVersionsExtension, TLSExtension
from tlslite.messages import Alert, Certificate, CertificateVerify, ClientHello, Finished, Message
from tlslite.utils.codec import Writer

from registry import PATIENCE, Failed, refused, reset, served, until_end
from wire import Talk, converse, frame, message

ERRORS = (TLSAbruptCloseError, ConnectionResetError, BrokenPipeError)


class Odd(TLSConnection):
    """A client whose messages pass through `alter` on their way out: it gives what is sent instead."""

    alter = None

    def _sendMsg(self, msg, randomizeFirstBlock=True, update_hashes=True):
        for each in self.alter(msg) if self.alter else [msg]:
            # What is slipped in is no part of the conversation that this client believes in.
            yield from super()._sendMsg(each, randomizeFirstBlock, update_hashes and each is msg)

    def put(self, *messages):
        """Sends messages as they are."""
        for each in messages:
            for _ in super()._sendMsg(each, update_hashes=False):
                pass

    def sendall(self, data):
        self.write(bytearray(data))

    def recv(self, count):
        return bytes(self.read(max=count, min=1))


def settings(**given):
    made = HandshakeSettings()
    made.keyShares = ["x25519"]
    made.certificate_compression_send = []  # it would compress what nobody said to understand
    for name, value in given.items():
        setattr(made, name, value)
    return made


def shake(place, alter=None, certificate="p256", record=None, using=None, chain=None):
    """A client after its own part of the handshake."""
    plain = place.connect()
    plain.settimeout(PATIENCE)
    client = Odd(plain)
    client.alter = alter
    if record:
        client.recordSize = record
    shown = {}
    if certificate:
        paths = place.pem(certificate)
        pem = [open(path).read() for path in paths]
        chain = chain or X509CertChain()
        chain.parsePemList(pem[0])
        shown = {"certChain": chain, "privateKey": parsePEMKey(pem[1], private=True)}
    client.handshakeClientCert(settings=using or settings(), **shown)
    client.alter = None
    return client


def verdict(client):
    """What a client hears in the end."""
    try:
        while client.read(max=1 << 16, min=1):
            pass
        return "close_notify"
    except TLSRemoteAlert as alert:
        return AlertDescription.toStr(alert.description)
    except TimeoutError as error:
        raise Failed("it is still open") from error
    except ERRORS:
        return "end"


def attempt(place, *args, **more):
    """A handshake that must not succeed: what the client hears."""
    try:
        client = shake(place, *args, **more)
    except TLSRemoteAlert as alert:
        return AlertDescription.toStr(alert.description)
    except TLSLocalAlert as alert:
        # The server has other keys than this client, whose transcript differs: it says what it cannot read.
        return AlertDescription.toStr(alert.description)
    except ERRORS:
        return "end"
    return verdict(client)


def after(place, *messages):
    """Sends messages behind a good handshake: what the client hears."""
    client = shake(place)
    try:
        client.put(*messages)
    except ERRORS:
        pass
    return verdict(client)


def altering(kind, change):
    """Changes messages of one kind: `change` gives what is sent instead, or None if it changed the message itself."""

    def alter(msg):
        if not isinstance(msg, kind):
            return [msg]
        instead = change(msg)
        return [msg] if instead is None else instead

    return alter


def hello(change):
    return altering(ClientHello, change)


def extension(msg, kind):
    return next(each for each in msg.extensions if isinstance(each, kind))


def handshake_bytes(kind, body):
    return Message(ContentType.handshake, bytearray([kind]) + bytearray(len(body).to_bytes(3, "big")) + bytearray(body))


def alerts(count, description, level=AlertLevel.warning):
    return [Alert().create(description, level) for _ in range(count)]


# Versions, suites and groups.


def only(version):
    return settings(minVersion=version, maxVersion=version, versions=[version])


@refused("tls_incompatible", heard="protocol_version")
def tls_1_2(place):
    return attempt(place, using=only((3, 3)))


@refused("tls_incompatible", heard=("protocol_version", "handshake_failure"))
def tls_1_1(place):
    return attempt(place, using=only((3, 2)))


@refused("tls_incompatible", heard=("protocol_version", "handshake_failure"))
def tls_1_0(place):
    return attempt(place, using=only((3, 1)))


@refused("tls_incompatible", "tls_protocol")
def ssl_3(place):
    return attempt(place, using=only((3, 0)))


@refused("tls_garbage", heard=(b"", "reset"))
def ssl_2(place):
    plain = place.connect()
    plain.sendall(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x07\x00\xc0" * 7 + os.urandom(16))
    return until_end(plain)


@refused("tls_incompatible", heard="protocol_version")
def versions_that_do_not_exist(place):
    return attempt(place, hello(lambda msg: extension(msg, SupportedVersionsExtension).create([(3, 9), (127, 28)]) and None))


@refused("tls_incompatible", heard="handshake_failure")
def no_suite_in_common(place):
    def change(msg):
        msg.cipher_suites = [0x1304, 0x1305]  # AES-CCM, which this client knows and nobody else asks for

    return attempt(place, hello(change))


@refused("tls_incompatible", "tls_protocol", heard=("handshake_failure", "illegal_parameter"))
def no_group_in_common(place):
    return attempt(place, using=settings(keyShares=["secp521r1"], eccCurves=["secp521r1"], dhGroups=["ffdhe2048"]))


@served
def invented_suites_groups_and_extensions(place):
    """RFC 8701: values that nobody knows are passed over."""

    def change(msg):
        msg.cipher_suites = [0x0A0A, 0xDADA, *msg.cipher_suites]
        extension(msg, SupportedGroupsExtension).groups.insert(0, 0x2A2A)
        extension(msg, ClientKeyShareExtension).client_shares.insert(0, share(0x2A2A, b"\0"))
        msg.extensions[:0] = [TLSExtension(extType=0x3A3A).create(bytearray()), TLSExtension(extType=0xEAEA).create(bytearray(9))]

    converse(shake(place, hello(change)))


def share(group, key):
    from tlslite.extensions import KeyShareEntry

    return KeyShareEntry().create(group, bytearray(key))


# The shape of the first flight.


@served
def handshake_in_records_of_64_bytes(place):
    converse(shake(place, record=64))


@refused("tls_too_large", heard=("end", "record_overflow", "decode_error", "internal_error"))
def handshake_in_records_of_3_bytes(place):
    return attempt(place, record=3)


def padded(size):
    """RFC 7685, in place of the padding that a client may have chosen itself."""

    def change(msg):
        others = [each for each in msg.extensions if each.extType != 21]
        msg.extensions = [*others, TLSExtension(extType=21).create(bytearray(size))]

    return hello(change)


@served
def three_kilobytes_of_hello(place):
    converse(shake(place, padded(3_000)))


@refused("tls_too_large")
def sixty_kilobytes_of_hello(place):
    return attempt(place, padded(60_000))


@refused("tls_protocol", heard=("decode_error", "illegal_parameter"))
def an_extension_twice(place):
    return attempt(place, hello(lambda msg: msg.extensions.append(msg.extensions[0])))


@refused("tls_protocol", heard=("decode_error", "illegal_parameter"))
def an_extension_that_lies_about_its_length(place):
    lie = TLSExtension(extType=10).create(bytearray(b"\xff\xff\0\x1d"))

    def change(msg):
        msg.extensions = [lie if isinstance(each, SupportedGroupsExtension) else each for each in msg.extensions]

    return attempt(place, hello(change))


@refused("tls_protocol", "tls_incompatible", heard=("decode_error", "illegal_parameter", "handshake_failure"))
def only_compression(place):
    def change(msg):
        msg.compression_methods = [1]

    return attempt(place, hello(change))


@refused("tls_protocol")
def empty_handshake_records(place):
    return attempt(place, hello(lambda msg: [Message(ContentType.handshake, bytearray())] * 40 + [msg]))


@refused("tls_protocol", heard="unexpected_message")
def finished_first(place):
    return attempt(place, hello(lambda msg: [handshake_bytes(HandshakeType.finished, os.urandom(32))]))


@refused("tls_protocol", heard=("unexpected_message", "decode_error"))
def certificate_first(place):
    return attempt(place, hello(lambda msg: [handshake_bytes(HandshakeType.certificate, bytes(4))]))


@refused("tls_protocol", heard=("unexpected_message", "decode_error"))
def hello_of_a_server(place):
    return attempt(place, hello(lambda msg: [handshake_bytes(HandshakeType.server_hello, bytes(70))]))


@refused("tls_protocol", heard=("unexpected_message", "bad_record_mac"))
def two_hellos(place):
    return attempt(place, hello(lambda msg: [msg, Message(ContentType.handshake, msg.write())]))


@refused("tls_protocol", heard=("unexpected_message", "bad_record_mac"))
def data_before_anything_is_agreed(place):
    return attempt(place, hello(lambda msg: [msg, Message(ContentType.application_data, bytearray(100))]))


@refused("tls_protocol", heard=("unexpected_message", "bad_record_mac"))
def heartbeat_that_asks_for_memory(place):
    beat = Message(ContentType.heartbeat, bytearray(b"\x01\x40\x00"))
    return attempt(place, hello(lambda msg: [msg, beat]))


@served
def heartbeats_offered(place):
    converse(shake(place, using=settings(use_heartbeat_extension=True)))


@refused("tls_protocol")
def a_flood_of_change_cipher_spec(place):
    change = Message(ContentType.change_cipher_spec, bytearray(b"\x01"))
    return attempt(place, hello(lambda msg: [msg] + [change] * 200))


@refused("tls_protocol", "tls_alert", "tls_too_large")
def a_flood_of_warnings(place):
    return attempt(place, hello(lambda msg: alerts(200, AlertDescription.user_canceled) + [msg]))


@refused("tls_alert")
def a_fatal_alert(place):
    return attempt(place, hello(lambda msg: [msg, *alerts(1, AlertDescription.internal_error, AlertLevel.fatal)]))


@refused("peer_closed", "peer_lost")
def a_hello_and_the_end(place):
    plain = place.connect()
    plain.sendall(first_hello(place))
    plain.shutdown(1)
    until_end(plain)


@refused("peer_lost")
def a_hello_and_a_reset(place):
    plain = place.connect()
    plain.sendall(first_hello(place))
    plain.recv(1)
    reset(plain)


def first_hello(place):
    """The record of a good hello."""

    class Sink:
        def __init__(self):
            self.sent = b""

        def __getattr__(self, name):
            return lambda *args: None

        def send(self, data):
            self.sent += bytes(data)
            return len(data)

        def sendall(self, data):
            self.sent += bytes(data)

        def recv(self, count):
            return b""

    sink = Sink()
    try:
        Odd(sink).handshakeClientCert(settings=settings())
    except ERRORS:
        pass
    return sink.sent


# HelloRetryRequest and early data.


@served
def no_key_share_at_all(place):
    converse(shake(place, using=settings(keyShares=[], eccCurves=["x25519", "secp256r1"])))


@served
def a_key_share_of_another_group(place):
    converse(shake(place, using=settings(keyShares=["secp521r1"])))


@served
def a_post_quantum_key_share(place):
    """What OpenSSL 3.5 sends, as bytes that stand for its key: 1,216 of them beside one of X25519."""
    quantum = share(GroupName.x25519mlkem768, os.urandom(1_216))

    def change(msg):
        extension(msg, SupportedGroupsExtension).groups.insert(0, GroupName.x25519mlkem768)
        extension(msg, ClientKeyShareExtension).client_shares.insert(0, quantum)

    converse(shake(place, hello(change)))


@refused("tls_protocol", heard="illegal_parameter")
def the_same_hello_again_instead_of_what_was_asked(place):
    """The retry asks for X25519; the second hello brings P-521 again."""
    shares = []

    def change(msg):
        shares.append(list(extension(msg, ClientKeyShareExtension).client_shares))
        extension(msg, ClientKeyShareExtension).client_shares = shares[0]

    return attempt(place, hello(change), using=settings(keyShares=["secp521r1"]))


@served
def early_data_that_nobody_wants(place):
    """Offered with a ticket that is no ticket of ours: the server passes over it (RFC 8446 section 4.2.10)."""
    early = [Message(ContentType.application_data, bytearray(os.urandom(900))) for _ in range(4)]
    converse(shake(place, hello(lambda msg: [offer_early_data(msg), *early]), using=settings(pskConfigs=[(b"none", b"x" * 32)])))


@refused("tls_protocol", "tls_too_large")
def early_data_without_end(place):
    early = [Message(ContentType.application_data, bytearray(os.urandom(16_000))) for _ in range(8)]
    return attempt(place, hello(lambda msg: [offer_early_data(msg), *early]), using=settings(pskConfigs=[(b"none", b"x" * 32)]))


def offer_early_data(msg):
    """Before the last extension, which must be the one with the ticket."""
    if not any(each.extType == 42 for each in msg.extensions):
        msg.extensions.insert(-1, TLSExtension(extType=42).create(bytearray()))
    return msg


# The client's second flight.


@refused("tls_no_certificate", heard="certificate_required")
def no_certificate(place):
    return attempt(place, certificate=None)


@refused("tls_protocol", heard=("unexpected_message", "decode_error"))
def no_proof_of_the_key(place):
    return attempt(place, altering(CertificateVerify, lambda msg: []))


@refused("tls_protocol", heard="decrypt_error")
def a_wrong_signature(place):
    def change(msg):
        msg.signature = bytearray(msg.signature)
        msg.signature[-1] ^= 1

    return attempt(place, altering(CertificateVerify, change))


@refused("tls_protocol", heard=("illegal_parameter", "decrypt_error", "handshake_failure"))
def a_signature_scheme_that_was_not_offered(place):
    def change(msg):
        msg.signatureAlgorithm = (4, 1)  # rsa_pkcs1_sha256, which TLS 1.3 forbids here

    return attempt(place, altering(CertificateVerify, change))


@refused("tls_protocol", heard=("decrypt_error", "unexpected_message"))
def a_wrong_finished(place):
    def change(msg):
        msg.verify_data = bytearray(os.urandom(len(msg.verify_data)))

    return attempt(place, altering(Finished, change))


@refused("tls_protocol")
def data_instead_of_finished(place):
    return attempt(place, altering(Finished, lambda msg: [Message(ContentType.application_data, bytearray(b"GET /ws HTTP/1.1\r\n"))]))


def certificate_message(entries, context=b""):
    writer = Writer()
    writer.addVarSeq(bytearray(context), 1, 1)
    body = b"".join(len(one).to_bytes(3, "big") + one + b"\0\0" for one in entries)
    return handshake_bytes(HandshakeType.certificate, bytes(writer.bytes) + len(body).to_bytes(3, "big") + body)


def showing(*entries, **more):
    return altering(Certificate, lambda msg: [certificate_message(entries, **more)])


@refused("tls_bad_certificate", "tls_protocol")
def a_certificate_of_noise(place):
    return attempt(place, showing(os.urandom(600)))


@refused("tls_bad_certificate", "tls_protocol", "tls_no_certificate")
def an_empty_certificate(place):
    return attempt(place, showing(b""))


@refused("tls_bad_certificate", "tls_protocol", "tls_too_large")
def a_thousand_tiny_certificates(place):
    return attempt(place, showing(*[b"\x30\0"] * 1_000))


@refused("tls_protocol", heard=("illegal_parameter", "decode_error"))
def a_certificate_for_a_request_that_was_not_made(place):
    return attempt(place, showing(b"\x30\0", context=b"context"))


# Behind Finished.


@served
def key_updates_now_and_then(place):
    client = shake(place)
    talk = Talk(client).introduce()
    for _ in range(3):
        for _ in client.send_keyupdate_request(1):
            pass
        talk.ask()
    talk.bye()


@refused("tls_key_updates")
def a_flood_of_key_updates(place):
    client = shake(place)
    try:
        for _ in range(100):
            for _ in client.send_keyupdate_request(1):
                pass
    except ERRORS:
        pass
    return verdict(client)


@refused("tls_protocol", heard="unexpected_message")
def renegotiation(place):
    return after(place, handshake_bytes(HandshakeType.client_hello, os.urandom(200)))


@refused("tls_protocol", heard="unexpected_message")
def a_ticket_from_a_client(place):
    return after(place, handshake_bytes(HandshakeType.new_session_ticket, bytes(40)))


@refused("tls_protocol", heard="unexpected_message")
def a_certificate_after_the_fact(place):
    return after(place, certificate_message([b"\x30\0"]))


@refused("tls_protocol", heard="unexpected_message")
def heartbeat_in_a_session(place):
    return after(place, Message(ContentType.heartbeat, bytearray(b"\x01\x40\x00")))


@refused("tls_protocol", heard="unexpected_message")
def a_flood_of_warnings_in_a_session(place):
    return after(place, *alerts(200, AlertDescription.user_canceled))


@refused("tls_alert")
def a_fatal_alert_in_a_session(place):
    return after(place, *alerts(1, AlertDescription.internal_error, AlertLevel.fatal))


def nothing(count):
    return [Message(ContentType.application_data, bytearray()) for _ in range(count)]


@served
def some_empty_records(place):
    client = shake(place)
    client.put(*nothing(20))
    converse(client)


@refused("tls_protocol", heard="unexpected_message")
def a_flood_of_empty_records(place):
    return after(place, *nothing(100))


@served
def records_with_padding(place):
    """RFC 8446 section 5.4."""
    converse(shake(place, using=settings(padding_cb=lambda length, kind, most: 200)))


@refused("tls_protocol", heard="bad_record_mac")
def a_record_of_noise(place):
    client = shake(place)
    client.sock.sendall(b"\x17\x03\x03\x00\x64" + os.urandom(100))
    return verdict(client)


@refused("tls_protocol")
def a_forged_alert_without_protection(place):
    client = shake(place)
    client.sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
    return verdict(client)


@refused("tls_too_large", heard="record_overflow")
def a_record_beyond_its_length(place):
    client = shake(place)
    client.sock.sendall(b"\x17\x03\x03\x48\x00" + os.urandom(100))
    return verdict(client)


@refused("peer_closed")
def data_behind_the_end(place):
    client = shake(place)
    Talk(client).introduce()
    client.put(*alerts(1, AlertDescription.close_notify))
    try:
        client.put(Message(ContentType.application_data, bytearray(frame(message(20, bytes(80))))))
    except ERRORS:
        pass
    return verdict(client)


# Slow ones: a deadline ends them.

LATE = ("tls_timeout", "peer_lost")  # the session's own, or that of its connection


@refused(*LATE, slow=True)
def half_a_hello(place):
    plain = place.connect()
    plain.sendall(first_hello(place)[:100])
    until_end(plain)


@refused(*LATE, slow=True)
def a_hello_byte_by_byte(place):
    plain = place.connect()
    try:
        for byte in first_hello(place):
            plain.sendall(bytes([byte]))
            time.sleep(0.1)
    except ERRORS:
        pass
    until_end(plain)


@refused(*LATE, slow=True)
def a_hello_and_silence(place):
    plain = place.connect()
    plain.sendall(first_hello(place))
    until_end(plain)


@refused(*LATE, slow=True)
def silence_instead_of_finished(place):
    def alter(msg):
        return [] if isinstance(msg, Finished) else [msg]

    return attempt(place, alter)
