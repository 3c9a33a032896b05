"""Good clients of many makes that must get through, whole: aiohttp as nodes use it, `ws` on Node.js with several OpenSSLs."""

import asyncio
import json
import struct
import subprocess
from pathlib import Path

import aiohttp

from frames import context
from registry import CASES, PATIENCE, Case, Failed, served
from wire import REJECT_BLOCK, REQUEST_BLOCK, handshake, message

QUESTION = message(REQUEST_BLOCK, struct.pack(">IB", 7, 0), number=5)
ANSWER = message(REJECT_BLOCK, struct.pack(">I", 7), number=5)


async def visit(place, certificate, **more):
    host, port = place.to
    connector = aiohttp.TCPConnector(local_addr=(place.source, 0))
    async with aiohttp.ClientSession(connector=connector) as client:
        shown = context(place, certificate)
        async with client.ws_connect(f"wss://{host}:{port}/ws", ssl=shown, max_msg_size=50 << 20, **more) as socket:
            await socket.send_bytes(handshake())
            await socket.receive_bytes()
            await socket.send_bytes(QUESTION)
            answer = await socket.receive_bytes()
            if answer != ANSWER:
                raise Failed(f"no answer of the node but {answer!r}")
            await socket.ping(b"there?")


@served
def aiohttp_as_nodes_use_it(place):
    asyncio.run(asyncio.wait_for(visit(place, "rsa2048", autoping=True, heartbeat=60), PATIENCE))


@served
def aiohttp_that_offers_compression(place):
    asyncio.run(asyncio.wait_for(visit(place, "p256", compress=15), PATIENCE))


def node(tool, **options):
    """A session by `ws` on a Node.js."""

    def run(place):
        host, port = place.to
        pem, key = place.pem(options.pop("certificate", "rsa2048"))
        task = {
            "url": f"wss://{host}:{port}/ws", "localAddress": place.source, "cert": pem, "key": key,
            "handshake": handshake().hex(), "question": QUESTION.hex(), "answer": ANSWER.hex(), **options,
        }  # fmt: skip
        script = Path(__file__).with_name("session.mjs")
        command = [place.tools[tool], script, place.tools["ws"], json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            raise Failed((done.stderr or done.stdout).strip()[-300:])

    return run


CASES["node-with-post-quantum-share"] = Case(node("node"))
CASES["node-without-compression"] = Case(node("node", perMessageDeflate=False))
CASES["node-with-only-p256"] = Case(node("node", ecdhCurve="P-256"))
CASES["node-with-chacha"] = Case(node("node", ciphers="TLS_CHACHA20_POLY1305_SHA256"))
CASES["system-node"] = Case(node("system-node"))


def missing(tools):
    gone = {}
    if not tools.get("ws"):
        gone["node-"] = gone["system-node"] = "the `ws` package could not be installed"
    elif not tools.get("system-node"):
        gone["system-node"] = "no `node` of this system's own"
    return gone
