"""A node that does what the cases need and no more: mutual TLS 1.3 as nodes have it, the upgrade, a handshake, and an answer to
requests for blocks. Made of aiohttp, as nodes are.

    stub.py CHIA_CRT CERTIFICATE KEY

Prints one JSON line with its port, then one for each peer whose handshake came. Ends with its standard input.
"""

import asyncio
import json
import ssl
import struct
import sys

from aiohttp import WSMsgType, web

import wire

REQUEST_BLOCK_HEADER, REJECT_HEADER_REQUEST, NEW_PEAK_WALLET = 51, 53, 50
PEAK = bytes(32) + struct.pack(">I", 100) + bytes(15) + b"\x01" + struct.pack(">I", 100)


def say(**line):
    print(json.dumps(line), flush=True)


async def session(request):
    socket = web.WebSocketResponse(max_msg_size=50 << 20)
    await socket.prepare(request)
    async for came in socket:
        if came.type != WSMsgType.BINARY:
            continue
        kind, flag = came.data[:2]
        number = int.from_bytes(came.data[2:4], "big") if flag else None
        body = came.data[8 if flag else 6 :]
        if kind == wire.HANDSHAKE:
            await socket.send_bytes(wire.handshake())
            wallet = kind_of(body) == wire.WALLET
            say(peer="wallet" if wallet else "other")
            if wallet:
                await socket.send_bytes(wire.message(NEW_PEAK_WALLET, PEAK))
        elif kind == wire.REQUEST_BLOCK:
            await socket.send_bytes(wire.message(wire.REJECT_BLOCK, body[:4], number))
        elif kind == REQUEST_BLOCK_HEADER:
            await socket.send_bytes(wire.message(REJECT_HEADER_REQUEST, body[:4], number))
    return socket


def kind_of(body):
    """The node type in a handshake: behind three texts and a port."""
    at = 0
    for _ in range(3):
        at += 4 + int.from_bytes(body[at : at + 4], "big")
    return body[at + 2]


async def main(authority, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/ws", session)
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    say(port=site._server.sockets[0].getsockname()[1])
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await lines.read()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
