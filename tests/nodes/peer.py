"""A peer that does one thing to a Chia port and says how it was answered, as one JSON line.

    peer.py KIND --to HOST:PORT [--from ADDRESS] [--certificate CRT --key KEY] [--network NAME] [--hold] [--ask-peers N]
            [--storm N --peak HASH]

Kinds: `chia` shows a fresh identity of the Chia CA (or the one given), upgrades and sends a handshake; `anonymous` shows
no certificate; `foreign` one of an authority of its own; `http` speaks plain HTTP; `garbage` sends bytes that are no
TLS. With --hold an accepted `chia` session is kept, answering pings, until standard input ends; a second line then says
whether it was still open. With --ask-peers N it asks N times for the peers that the node knows, and its answer has all messages
that came until it was answered as often, in hexadecimal, under `messages`.

With --hold and --storm it announces N times a minute the peak of that hash, which the node has.

Outcomes: `accepted` (the handshake was answered), `refused` with a detail (anything that ended before), `silent`.
"""

import argparse
import asyncio
import datetime
import json
import ssl
import struct
import sys
import tempfile
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PATIENCE = 45  # seconds
FULL_NODE = 1
HANDSHAKE = 1
NEW_PEAK = 20
REQUEST_PEERS = 43
RESPOND_PEERS = 44
CAPABILITIES = [(1, "1"), (2, "1"), (3, "1"), (5, "1")]


def chia_authority():
    import importlib.util

    folder = Path(importlib.util.find_spec("chia").origin).parent / "ssl"
    certificate = x509.load_pem_x509_certificate((folder / "chia_ca.crt").read_bytes())
    return certificate, serialization.load_pem_private_key((folder / "chia_ca.key").read_bytes(), None)


def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def certificate(subject, key, issuer, signer, authority):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(signer, hashes.SHA256())


def fresh_identity(folder, foreign):
    """Paths of a new leaf certificate and its key, under the Chia CA or under an authority that nobody knows."""
    if foreign:
        signer = ec.generate_private_key(ec.SECP256R1())
        authority = certificate(name("Elsewhere"), signer, name("Elsewhere"), signer, True)
    else:
        authority, signer = chia_authority()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certificate(name("Chia"), key, authority.subject, signer, False)
    paths = folder / "leaf.crt", folder / "leaf.key"
    paths[0].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def text(value):
    return struct.pack(">I", len(value)) + value.encode()


def handshake(network):
    capabilities = b"".join(struct.pack(">H", number) + text(value) for number, value in CAPABILITIES)
    body = text(network) + text("0.0.37") + text("2.7.5") + struct.pack(">HB", 8444, FULL_NODE)
    body += struct.pack(">I", len(CAPABILITIES)) + capabilities
    return struct.pack(">BBI", HANDSHAKE, 0, len(body)) + body


def tls(arguments, folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if arguments.certificate:
        context.load_cert_chain(arguments.certificate, arguments.key)
    elif arguments.kind != "anonymous":
        context.load_cert_chain(*fresh_identity(folder, arguments.kind == "foreign"))
    return context


async def session(arguments, folder):
    connector = aiohttp.TCPConnector(local_addr=(arguments.source, 0) if arguments.source else None)
    async with aiohttp.ClientSession(connector=connector) as client:
        context = tls(arguments, folder)
        async with client.ws_connect(f"wss://{arguments.to}/ws", ssl=context, max_msg_size=50 << 20) as socket:
            await socket.send_bytes(handshake(arguments.network))
            answer = await socket.receive()
            if answer.type != aiohttp.WSMsgType.BINARY or answer.data[0] != HANDSHAKE:
                return refused(f"{answer.type.name} {answer.data!r} {answer.extra!r}")
            if arguments.ask_peers:
                messages = [answer.data, *await asked(socket, arguments.ask_peers)]
                return {"outcome": "accepted", "messages": [message.hex() for message in messages]}
            say({"outcome": "accepted"})
            if arguments.hold:
                say({"still_open": await held(socket, storm(socket, arguments) if arguments.storm else None)})
            return None


async def asked(socket, times):
    """Asks for peers so many times, and reads until it was answered as often."""
    for number in range(times):
        await socket.send_bytes(struct.pack(">BBHI", REQUEST_PEERS, 1, number, 0))
    messages, answers = [], 0
    async for message in socket:
        messages.append(message.data)
        answers += message.data[0] == RESPOND_PEERS
        if answers == times:
            break
    return messages


async def storm(socket, arguments):
    """Announces a peak that the node knows, evenly, for ever."""
    body = bytes.fromhex(arguments.peak) + struct.pack(">I16sI32s", 1, (1).to_bytes(16, "big"), 0, bytes(32))
    clock, count = asyncio.get_running_loop().time, 0
    begin = clock()
    while True:
        await socket.send_bytes(struct.pack(">BBI", NEW_PEAK, 0, len(body)) + body)
        count += 1
        await asyncio.sleep(max(0, begin + count * 60 / arguments.storm - clock()))


async def held(socket, work=None):
    """Reads on until standard input ends; whether the session lived that long."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    ended = asyncio.ensure_future(lines.read())

    async def drain():
        async for _ in socket:
            pass

    drained = asyncio.ensure_future(drain())
    worked = asyncio.ensure_future(work) if work else None
    await asyncio.wait([ended, drained], return_when=asyncio.FIRST_COMPLETED)
    if worked:
        worked.cancel()
    return not drained.done() and not (worked and worked.done() and not worked.cancelled())


async def raw(arguments, first):
    """Sends bytes as they are and waits for the end."""
    host, _, port = arguments.to.rpartition(":")
    source = (arguments.source, 0) if arguments.source else None
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), local_addr=source)
    writer.write(first)
    answer = await reader.read()
    writer.close()
    return refused(f"end after {len(answer)} bytes: {answer[:40]!r}")


def refused(detail):
    return {"outcome": "refused", "detail": detail}


async def act(arguments, folder):
    work = {
        "http": lambda: raw(arguments, b"GET /ws HTTP/1.1\r\nHost: node\r\n\r\n"),
        "garbage": lambda: raw(arguments, bytes(range(128, 256)) * 4),
    }.get(arguments.kind, lambda: session(arguments, folder))
    try:
        return await (work() if arguments.hold else asyncio.wait_for(work(), PATIENCE))
    except asyncio.TimeoutError:
        return {"outcome": "silent"}
    except (OSError, ssl.SSLError, aiohttp.ClientError) as error:
        return refused(f"{type(error).__name__}: {error}")


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["chia", "anonymous", "foreign", "http", "garbage"])
    parser.add_argument("--to", required=True)
    parser.add_argument("--from", dest="source")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--network", default="testnet0")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--storm", type=int, default=0, metavar="N")
    parser.add_argument("--peak", metavar="HASH")
    parser.add_argument("--ask-peers", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answer = asyncio.run(act(arguments, Path(folder)))
    if answer:
        say(answer)


if __name__ == "__main__":
    main()
