#!/usr/bin/env python3
"""Writes the facts about Chia's messages that the policy crate judges by.

Three files come out, all checked in:

- messages.json, read from an installed chia-blockchain: every message type with its number, who may send it, who
  handles it, which replies answer it, and the node's own limits;
- ../src/chia/table.rs, the part of it that the gate needs at run time, as a static Rust table. A test of the crate
  holds it against messages.json;
- samples.txt, some messages as the package itself encodes them: sender, type, id and bytes, for the crate's tests.

Usage, in an environment with chia-blockchain installed (python3 -m venv, pip install chia-blockchain):

    policy/schema/generate.py            all files
    policy/schema/generate.py --table    only the Rust table, from the messages.json at hand; needs no package
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FACTS = HERE / "messages.json"
SAMPLES = HERE / "samples.txt"
TABLE = HERE.parent / "src" / "chia" / "table.rs"


def limit(setting):
    """One entry of the node's rate-limit tables: size per message, and count and bytes a minute where limited."""
    if setting is None:
        return None
    facts = {"max_size": setting.max_size}
    if hasattr(setting, "frequency"):
        total = setting.max_total_size
        facts["per_minute"] = setting.frequency
        facts["bytes_per_minute"] = setting.frequency * setting.max_size if total is None else total
        facts["aggregate"] = setting.aggregate_limit
    return facts


def read_package():
    """The facts of the installed package."""
    import chia
    from chia.apis import StubMetadataRegistry
    from chia.full_node.full_node_api import FullNodeAPI
    from chia.protocols.outbound_message import NodeType
    from chia.protocols.protocol_message_type_to_node_type import ProtocolMessageTypeToNodeType
    from chia.protocols.protocol_message_types import ProtocolMessageTypes
    from chia.protocols.protocol_state_machine import VALID_REPLY_MESSAGE_MAP
    from chia.protocols.shared_protocol import Capability
    from chia.server.rate_limit_numbers import aggregate_limit, rate_limits
    from chia.server.rate_limits_v3 import rate_limits_v3

    by_full_node = FullNodeAPI.metadata.message_type_to_request
    services = {node.name.lower(): stub.message_type_to_request for node, stub in StubMetadataRegistry.items()}

    def handlers(kind):
        names = {name for name, handled in services.items() if kind in handled}
        return sorted(names | ({"full_node"} if kind in by_full_node else set()))

    def message(kind):
        window = rate_limits_v3.get(kind)
        return {
            "number": kind.value,
            "name": kind.name,
            "senders": sorted(node.name.lower() for node in ProtocolMessageTypeToNodeType.get(kind, set())),
            "handlers": handlers(kind),
            "replies": [reply.name for reply in VALID_REPLY_MESSAGE_MAP.get(kind, [])],
            "limit_v1": limit(rate_limits[1].get(kind)),
            "limit_v2": limit(rate_limits[2].get(kind, rate_limits[1].get(kind))),
            "window_v3": None if window is None else window.window_size,
        }

    return {
        "chia_blockchain": chia.__version__,
        "node_types": {node.name.lower(): node.value for node in NodeType},
        "capabilities": {capability.name.lower(): capability.value for capability in Capability},
        "aggregate_limit": {
            "per_minute": aggregate_limit.frequency,
            "bytes_per_minute": aggregate_limit.max_total_size,
        },
        "messages": [message(kind) for kind in sorted(ProtocolMessageTypes, key=lambda kind: kind.value)],
    }


def write_samples():
    """Messages that full nodes and wallets send to a full node, in the package's own encoding."""
    from chia.protocols import full_node_protocol as full, shared_protocol as shared, wallet_protocol as wallet
    from chia.protocols.outbound_message import Message, NodeType
    from chia.protocols.protocol_message_types import ProtocolMessageTypes as Type
    from chia.server.rate_limits_v3 import rl_v3_to_configure_message
    from chia_rs.sized_bytes import bytes32
    from chia_rs.sized_ints import int16, uint8, uint16, uint32, uint64, uint128

    digest = bytes32(bytes(range(32)))

    def greeting(network, kind, extra=()):
        capabilities = [*shared.default_capabilities[kind], *extra]
        version = shared.protocol_version[kind]
        return shared.Handshake(network, version, "2.7.5", uint16(8444), uint8(kind.value), capabilities)

    tomorrow = [(uint16(4711), "maybe"), (uint16(7), "1")]
    peak = full.NewPeak(digest, uint32(7_000_000), uint128(2**70), uint32(6_999_998), digest)
    peers = full.RespondPeers([])
    node, light = NodeType.FULL_NODE, NodeType.WALLET
    samples = [
        (node, Type.handshake, None, greeting("mainnet", node)),
        (node, Type.handshake, None, greeting("testnet11", node, tomorrow)),
        (light, Type.handshake, None, greeting("mainnet", light)),
        (node, Type.configure_window_sizes, None, rl_v3_to_configure_message()),
        (node, Type.new_peak, None, peak),
        (node, Type.new_transaction, None, full.NewTransaction(digest, uint64(10**9), uint64(5))),
        (node, Type.request_transaction, 0, full.RequestTransaction(digest)),
        (node, Type.request_block, 1, full.RequestBlock(uint32(77), True)),
        (node, Type.reject_block, 32769, full.RejectBlock(uint32(77))),
        (node, Type.request_blocks, 65535, full.RequestBlocks(uint32(0), uint32(31), True)),
        (node, Type.request_proof_of_weight, 2, full.RequestProofOfWeight(uint32(7_000_000), digest)),
        (node, Type.request_peers, None, full.RequestPeers()),
        (node, Type.respond_peers, None, peers),
        (node, Type.error, 3, shared.Error(int16(1), "no", None)),
        (light, Type.request_peers, 4, full.RequestPeers()),
        (light, Type.request_block_header, 5, wallet.RequestBlockHeader(uint32(9))),
        (light, Type.register_for_ph_updates, 6, wallet.RegisterForPhUpdates([digest], uint32(0))),
        (light, Type.request_puzzle_state, 7, wallet.RequestPuzzleState(
            [digest], None, digest, wallet.CoinStateFilters(True, True, True, uint64(0)), True)),
    ]
    lines = [
        f"{sender.name.lower()} {kind.name} {'-' if number is None else number} "
        f"{bytes(Message(uint8(kind.value), None if number is None else uint16(number), bytes(body))).hex()}"
        for sender, kind, number, body in samples
    ]
    SAMPLES.write_text("\n".join(lines) + "\n")


def write_facts(facts):
    """JSON with one message per line, so that a new version of the package makes a readable difference."""
    head = {key: value for key, value in facts.items() if key != "messages"}
    lines = [f'  "{key}": {json.dumps(value)},' for key, value in head.items()]
    messages = ",\n".join(f"    {json.dumps(message)}" for message in facts["messages"])
    FACTS.write_text("{\n" + "\n".join(lines) + '\n  "messages": [\n' + messages + "\n  ]\n}\n")


def write_table(facts):
    """The Rust table: one line per message type, in the order of their numbers."""
    types = facts["node_types"]
    numbers = {message["name"]: message["number"] for message in facts["messages"]}

    def kinds(names):
        if len(names) == len(types):
            return "NodeTypes::ALL"
        return f"NodeTypes({sum(1 << types[name] for name in names)})"

    def line(message):
        sizes = [limit["max_size"] for limit in (message["limit_v1"], message["limit_v2"]) if limit]
        replies = ", ".join(str(numbers[name]) for name in message["replies"])
        return (
            f'    MessageType {{ number: {message["number"]}, name: "{message["name"]}", '
            f'senders: {kinds(message["senders"])}, handlers: {kinds(message["handlers"])}, '
            f"replies: &[{replies}], largest: {max(sizes) if sizes else 0} }},"
        )

    body = "\n".join(line(message) for message in facts["messages"])
    TABLE.write_text(
        f"""//! The message types of chia-blockchain {facts["chia_blockchain"]}.
//!
//! Written by `policy/schema/generate.py`: change that, not this.

use super::messages::MessageType;
use super::node_type::NodeTypes;

/// Every message type that the package knows, in the order of their numbers.
#[rustfmt::skip]
pub(super) static TABLE: &[MessageType] = &[
{body}
];
"""
    )


def main():
    if sys.argv[1:] == ["--table"]:
        facts = json.loads(FACTS.read_text())
    elif not sys.argv[1:]:
        facts = read_package()
        write_facts(facts)
        write_samples()
    else:
        sys.exit(__doc__)
    write_table(facts)
    print(f'{len(facts["messages"])} message types of chia-blockchain {facts["chia_blockchain"]}')


if __name__ == "__main__":
    main()
