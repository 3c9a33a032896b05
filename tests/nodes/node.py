"""A real Chia full node, offline, driven through its standard input.

    node.py --root DIR --port P [--rpc-port P] [--network NAME] [--preload N] [--farms] [--private-ca DIR]
            [--merge YAML] [--address A] [--set KEY=JSON ...]

Answers one JSON line per command line, in order; the first line it prints says that it is ready. Commands:

    {"do": "state"}                          peak, own id, connections, messages by type, bans
    {"do": "connect", "host": H, "port": P}  dial, as the node's RPC `open_connection` does
    {"do": "farm", "blocks": N}              farm transaction blocks (needs --farms)
    {"do": "learn", "hosts": [H, ...]}        know these as peers, private ones too, to be told to who asks

--merge lays a file over the configuration, as an operator would write it; of `full_node_peers` it leaves out --address,
the node's own. With --private-ca nodes share the authority that their RPC demands certificates of.

The node stops when its standard input ends. Each root gets a TLS identity of its own, so each is another peer.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import yaml

import chain

CHAIN_NETWORK = "testnet0"  # whose constants the test chain was farmed with, whatever the network is called
PEERS_PORT = 58555  # the default of no network, which a node would not pass on
INBOUND_SLOTS = 32  # what the stock configuration leaves for inbound full nodes
# Libraries print, and the plotter does so from C: only answers go to standard output.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
MESSAGES = {"in": Counter(), "out": Counter()}


def prepare_root(root, arguments):
    """Configuration and TLS identity of a root, made on first use. Returns the configuration."""
    from chia.ssl.create_ssl import create_all_ssl
    from chia.util.config import create_default_chia_config, load_config, lock_config, save_config

    if not (root / "config" / "config.yaml").exists():
        root.mkdir(parents=True, exist_ok=True)
        create_default_chia_config(root)
        authority = private_authority(arguments.private_ca) if arguments.private_ca else None
        names = {"private_node_names": ["full_node", "daemon"], "public_node_names": ["full_node"]}
        create_all_ssl(root, private_ca_crt_and_key=authority, **names)
    config = load_config(root, "config.yaml")
    log = config["logging"] | {"log_stdout": False, "log_level": "INFO"}
    config |= {"selected_network": arguments.network, "self_hostname": "127.0.0.1", "logging": log}
    config["full_node"] |= {
        "selected_network": arguments.network,
        "logging": log,
        "port": arguments.port,
        "rpc_port": arguments.rpc_port or arguments.port + 1000,
        "db_sync": "off",
        "enable_upnp": False,
        "dns_servers": [],
        "introducer_peer": None,
        "full_node_peers": [],
        "max_sync_wait": 1,  # seconds to wait for more peers before a long sync; thirty by default
        "reserved_cores": max(0, (os.cpu_count() or 1) - 1),
    }
    if arguments.merge:
        merge(config, yaml.safe_load(arguments.merge.read_text()))
        peers = config["full_node"]["full_node_peers"]
        config["full_node"]["full_node_peers"] = [peer for peer in peers if peer["host"] != arguments.address]
    for setting in arguments.set:
        key, _, value = setting.partition("=")
        config["full_node"][key] = json.loads(value)
    with lock_config(root, "config.yaml"):
        save_config(root, "config.yaml", config)
    return config


def merge(config, over):
    """Lays one mapping over another, down to the leaves."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value


def private_authority(folder):
    """Certificate and key of an authority that several nodes share; whoever comes first makes them."""
    from chia.ssl.create_ssl import make_ca_cert

    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "private_ca.crt", folder / "private_ca.key"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not certificate.exists():
            make_ca_cert(certificate, key)
        return certificate.read_bytes(), key.read_bytes()


def count_messages():
    """Counts every message that passes the node's connections, by direction and type."""
    from chia.protocols.protocol_message_types import ProtocolMessageTypes
    from chia.server.ws_connection import WSChiaConnection

    send, read = WSChiaConnection._send_message, WSChiaConnection._read_one_message

    def note(direction, message):
        known = message.type in ProtocolMessageTypes._value2member_map_
        MESSAGES[direction][ProtocolMessageTypes(message.type).name if known else str(message.type)] += 1

    async def counted_send(self, message, priority=0):
        note("out", message)
        await send(self, message, priority)

    async def counted_read(self):
        message = await read(self)
        if message is not None:
            note("in", message)
        return message

    WSChiaConnection._send_message, WSChiaConnection._read_one_message = counted_send, counted_read


async def create_service(root, config, farms, stack):
    from chia.consensus.constants import replace_str_to_bytes
    from chia.simulator.block_tools import test_constants

    if not farms:
        from chia.full_node.start_full_node import create_full_node_service

        overrides = config["network_overrides"]["constants"][CHAIN_NETWORK]
        constants = replace_str_to_bytes(test_constants, **overrides)
        return await create_full_node_service(root, config, constants, connect_to_daemon=False)

    from chia.simulator.keyring import TempKeyring
    from chia.simulator.start_simulator import create_full_node_simulator_service

    tools = await chain.farm_tools(stack.enter_context(TempKeyring()))
    config["simulator"] = config.get("simulator", {}) | {"auto_farm": False, "use_current_time": True}
    return await create_full_node_simulator_service(root, config, tools, connect_to_daemon=False)


async def preload(node, count):
    from chia.simulator.add_blocks_in_batches import add_blocks_in_batches

    await add_blocks_in_batches(chain.load(count), node)


class Control:
    """Carries out commands."""

    def __init__(self, service):
        self.service, self.node, self.server = service, service._node, service._server

    async def state(self):
        peak = self.node.blockchain.get_peak()
        return {
            "height": peak.height if peak else None,
            "header_hash": peak.header_hash.hex() if peak else None,
            "node_id": self.server.node_id.hex(),
            "bans": self.server.banned_peers,
            "messages": MESSAGES,
            "connections": [
                {
                    "node_id": peer.peer_node_id.hex(),
                    "host": peer.peer_info.host,
                    "type": peer.connection_type.name.lower() if peer.connection_type else None,
                    "server_port": peer.peer_server_port,
                    "outbound": peer.is_outbound,
                }
                for peer in self.server.all_connections.values()
                if not peer.closed
            ],
        }

    async def connect(self, host, port):
        from chia.types.peer_info import PeerInfo
        from chia.util.network import resolve

        target = PeerInfo(await resolve(host), port)
        return {"connected": await self.server.start_client(target, self.node.on_connect)}

    async def farm(self, blocks):
        from chia.simulator.simulator_protocol import FarmNewBlockProtocol

        api = self.service._api
        for _ in range(blocks):
            await api.farm_new_transaction_block(FarmNewBlockProtocol(api.bt.farmer_ph))
        return await self.state()

    async def learn(self, hosts):
        from chia.types.peer_info import PeerInfo, TimestampedPeerInfo

        known = self.node.full_node_peers.address_manager
        known.make_private_subnets_valid()
        for host in hosts:
            # Each from a source of its own: what one source tells shares few places.
            source = PeerInfo(host, PEERS_PORT)
            await known.add_to_new_table([TimestampedPeerInfo(host, PEERS_PORT, int(time.time()))], source)
        return {"known": await known.size()}

    async def carry_out(self, command):
        try:
            return await getattr(self, command.pop("do"))(**command)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def obey(self):
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            say(await self.carry_out(json.loads(line)))


def say(answer):
    print(json.dumps(answer), file=ANSWERS, flush=True)


async def run(arguments):
    from chia.util.chia_logging import initialize_service_logging

    root = arguments.root.resolve()
    config = prepare_root(root, arguments)
    count_messages()
    initialize_service_logging(service_name="full_node", config=config, root_path=root)
    with contextlib.ExitStack() as stack:
        service = await create_service(root, config, arguments.farms, stack)
        async with service.manage():
            if arguments.preload:
                await preload(service._node, arguments.preload)
            control = Control(service)
            say({"ready": True} | await control.state())
            await control.obey()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8444)
    parser.add_argument("--rpc-port", type=int, help="a thousand above the other by default")
    parser.add_argument("--network", default=CHAIN_NETWORK, help="what the network is called in handshakes")
    parser.add_argument("--preload", type=int, default=0, help="blocks of the test chain to begin with")
    parser.add_argument("--farms", action="store_true", help="a node that can farm blocks when told to")
    parser.add_argument("--private-ca", type=Path, metavar="DIR", help="the RPC's authority; made if it is missing")
    parser.add_argument("--merge", type=Path, metavar="YAML", help="settings as in config.yaml")
    parser.add_argument("--address", help="the node's own, which it does not dial")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a full_node setting")
    arguments = parser.parse_args()
    chain.use_cached_plots()

    from chia.server.chia_policy import set_chia_policy

    set_chia_policy(INBOUND_SLOTS)  # as the stock start script does: accept pauses at 100 sockets more than that
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
