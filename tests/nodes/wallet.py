"""A real Chia wallet, offline, driven through its standard input.

    wallet.py --root DIR --peer HOST:PORT [--network NAME]

It has the keys that the test chain was farmed with, so it owns coins, and dials its one peer for as long as it lives. Answers
one JSON line per command line, in order; the first line says that it is ready. The only command:

    {"do": "state"}     height that it is synced to, whether it thinks so itself, coins, connections, messages by type

The wallet stops when its standard input ends.
"""

import argparse
import asyncio
from pathlib import Path

import chain
import node


def prepare_root(root, arguments):
    """Configuration and TLS identity of a root, made on first use. Returns the configuration."""
    from chia.ssl.create_ssl import create_all_ssl
    from chia.util.config import create_default_chia_config, load_config, lock_config, save_config

    if not (root / "config" / "config.yaml").exists():
        root.mkdir(parents=True, exist_ok=True)
        create_default_chia_config(root)
        create_all_ssl(root, private_node_names=["wallet", "daemon"], public_node_names=["wallet"])
    config = load_config(root, "config.yaml")
    log = config["logging"] | {"log_stdout": False, "log_level": "INFO"}
    host, _, port = arguments.peer.rpartition(":")
    config |= {"selected_network": arguments.network, "self_hostname": "127.0.0.1", "logging": log}
    config["wallet"] |= {
        "selected_network": arguments.network,
        "logging": log,
        "start_rpc_server": False,
        "dns_servers": [],
        "introducer_peer": None,
        "connect_to_unknown_peers": False,
        "full_node_peers": [{"host": host, "port": int(port)}],
        "trusted_peers": {},
    }
    with lock_config(root, "config.yaml"):
        save_config(root, "config.yaml", config)
    return config


class Control(node.Control):
    """Carries out commands."""

    def __init__(self, service):
        self.service, self.node, self.server = service, service._node, service._node.server

    async def state(self):
        manager = self.node.wallet_state_manager
        return {
            "height": await manager.blockchain.get_finished_sync_up_to(),
            "synced": await manager.synced(),
            "coins": await manager.coin_store.count_small_unspent(1 << 63),
            "messages": node.MESSAGES,
            "connections": [
                {"host": peer.peer_info.host, "outbound": peer.is_outbound}
                for peer in self.server.all_connections.values()
                if not peer.closed
            ],
        }


async def run(arguments):
    from chia.simulator.block_tools import BlockTools, test_constants
    from chia.simulator.keyring import TempKeyring
    from chia.util.chia_logging import initialize_service_logging
    from chia.wallet.start_wallet import create_wallet_service

    root = arguments.root.resolve()
    config = prepare_root(root, arguments)
    node.count_messages()
    initialize_service_logging(service_name="wallet", config=config, root_path=root)
    with TempKeyring() as keychain:
        await BlockTools(test_constants, keychain=keychain, automated_testing=True).setup_keys()
        service = create_wallet_service(root, config, test_constants, keychain, connect_to_daemon=False)
        async with service.manage():
            control = Control(service)
            node.say({"ready": True} | await control.state())
            await control.obey()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--peer", required=True, metavar="HOST:PORT", help="the node that it dials")
    parser.add_argument("--network", default=node.CHAIN_NETWORK, help="what the network is called in handshakes")
    arguments = parser.parse_args()
    chain.use_cached_plots()
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
