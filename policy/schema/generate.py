#!/usr/bin/env python3
"""Writes the facts about Chia's messages that the policy crate judges by.

Two files come out of an installed chia-blockchain, both checked in:

- protocol.json, the schema that the appliance reads at start: every message type with its number, who may send it, who
  handles it, which replies answer it, what its body looks like, and the node's own limits;
- samples.txt, messages of every type that the package can make, as it encodes them itself: type, id and bytes.

Usage, in an environment with chia-blockchain installed (python3 -m venv, pip install chia-blockchain):

    policy/schema/generate.py            writes both files
    policy/schema/generate.py --check    compares with the files at hand; says what differs and fails if anything does
"""

import ast
import dataclasses
import difflib
import importlib
import json
import pkgutil
import re
import sys
import types
import typing
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMA = HERE / "protocol.json"
SAMPLES = HERE / "samples.txt"

# What the package's annotations do not show: bytes that carry more than "absent" or "present". Keys are the values that
# the byte may have, with what follows it.
ABSENT = []
CHOICES = {
    # Bit 0 of the contract's byte: its hash follows. Bit 1: a proof of the second kind, which has exactly one of pool key
    # and contract.
    "ProofOfSpace": [
        ["challenge", "bytes32"],
        [
            "pool_public_key",
            {
                "0": [
                    [
                        "pool_contract_puzzle_hash",
                        {
                            "0": [["plot_public_key", "g1"], ["size", "uint8"], ["proof", "bytes"]],
                            "1": [
                                ["", "bytes32"],
                                ["plot_public_key", "g1"],
                                ["size", "uint8"],
                                ["proof", "bytes"],
                            ],
                            "3": [
                                ["", "bytes32"],
                                ["plot_public_key", "g1"],
                                ["plot_index", "uint16"],
                                ["meta_group", "uint8"],
                                ["strength", "uint8"],
                                ["proof", "bytes"],
                            ],
                        },
                    ]
                ],
                "1": [
                    ["", "g1"],
                    [
                        "pool_contract_puzzle_hash",
                        {
                            "0": [["plot_public_key", "g1"], ["size", "uint8"], ["proof", "bytes"]],
                            "1": [
                                ["", "bytes32"],
                                ["plot_public_key", "g1"],
                                ["size", "uint8"],
                                ["proof", "bytes"],
                            ],
                            "2": [
                                ["plot_public_key", "g1"],
                                ["plot_index", "uint16"],
                                ["meta_group", "uint8"],
                                ["strength", "uint8"],
                                ["proof", "bytes"],
                            ],
                        },
                    ],
                ],
            },
        ],
    ],
    "PartialProof": [["fragments", "bytes128"]],
}
# Two optional fields of a type that share the byte of the first: its bit 1 stands for the second.
SHARED = {
    "RewardChainBlock": ("infused_challenge_chain_ip_vdf", "header_mmr_root"),
    "SubEpochSummary": ("new_sub_slot_iters", "challenge_merkle_root"),
    "SubEpochData": ("new_difficulty", "challenge_merkle_root"),
}
# Types that end with the program that makes a block's transactions: bit 1 of its byte says that it comes as plain bytes,
# without the list of blocks that it refers to.
GENERATORS = {"FullBlock", "UnfinishedBlock"}
GENERATOR = {
    "0": [["ref_list", "list[uint32]"]],
    "1": [["", "program"], ["ref_list", "list[uint32]"]],
    "2": ABSENT,
    "3": [["buffer", "bytes"]],
}

# What changes with forks and is judged by consensus alone: a body is not refused for what stands inside these.
INTERIORS = [
    "FullBlock",
    "HeaderBlock",
    "UnfinishedBlock",
    "UnfinishedHeaderBlock",
    "WeightProof",
    "EndOfSubSlotBundle",
    "RewardChainBlock",
    "RewardChainBlockUnfinished",
    "Foliage",
    "ProofOfSpace",
    "PartialProof",
    "VDFInfo",
    "VDFProof",
    "SubEpochSummary",
    "ChallengeChainSubSlot",
    "RewardChainSubSlot",
    "InfusedChallengeChainSubSlot",
]

# Replies that a full node takes although it asked for nothing, by its own handlers: gossip, and pairs without ids.
# Versions are those of the sender.
PUSHES = {
    "respond_peers": "always",
    "respond_proof_of_weight": "always",
    "respond_unfinished_block": "always",
    "respond_signage_point": "always",
    "respond_end_of_sub_slot": "always",
    "respond_compact_vdf": "pending",  # after request_compact_vdf, whatever the id
    "respond_transaction": "before 2.6.0",  # so many after request_mempool_transactions
    "error": "always",
}

# The classes of messages whose names do not tell.
CLASS_NAMES = {"solution_response": "SolverResponse", "partial_proofs": "PartialProofsData"}

# Types of the Rust package that are encoded as one value.
PLAIN = {"G1Element": "g1", "G2Element": "g2", "Program": "program", "SerializedProgram": "program"}


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


class Shapes:
    """Collects the shapes of all types that messages use."""

    def __init__(self):
        import chia_rs

        source = (Path(chia_rs.__file__).parent / "chia_rs.pyi").read_text()
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        self.rust = {node.name: self._streamed(node) for node in classes}
        self.types = {}

    @staticmethod
    def _streamed(node):
        """The fields of a class of the Rust package: the arguments of its constructor, in order."""
        hints = {
            item.target.id: ast.unparse(item.annotation)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        new = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__new__"), None)
        if new is None:
            return list(hints.items())
        return [(a.arg, hints.get(a.arg, ast.unparse(a.annotation))) for a in new.args.args[1:]]

    def of_class(self, kind):
        """The name of a class's shape."""
        name = kind.__name__
        if name in self.types or name in PLAIN or is_primitive(name):
            return PLAIN.get(name, name)
        if dataclasses.is_dataclass(kind):
            self.types[name] = None
            hints = typing.get_type_hints(kind)
            fields = [[field.name, self.of_hint(hints[field.name])] for field in dataclasses.fields(kind)]
            self.types[name] = fields
            return name
        return self.of_rust(name)

    def of_hint(self, hint):
        """The shape of a field of a Python class."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is list:
            return f"list[{self.of_hint(arguments[0])}]"
        if origin is tuple:
            return f"tuple[{','.join(self.of_hint(argument) for argument in arguments)}]"
        if origin in (typing.Union, types.UnionType):
            (inner,) = [argument for argument in arguments if argument is not type(None)]
            return f"optional[{self.of_hint(inner)}]"
        return self.of_class(hint)

    def of_rust(self, name):
        """The name of a shape of the Rust package."""
        if name in PLAIN or is_primitive(name) or name in self.types:
            return PLAIN.get(name, name)
        self.types[name] = None
        if name in CHOICES:
            self.types[name] = CHOICES[name]
            return name
        fields = []
        shared = SHARED.get(name)
        for field, hint in self.rust[name]:
            if name in GENERATORS and field == "transactions_generator":
                fields.append([field, GENERATOR])
                break
            if shared and field == shared[0]:
                first = self.annotation(re.fullmatch(r"Optional\[(.*)\]", hint)[1])
                both = [["", first], [shared[1], "bytes32"]]
                fields.append([field, {"0": ABSENT, "1": both[:1], "2": both[1:], "3": both}])
            elif not (shared and field == shared[1]):
                fields.append([field, self.annotation(hint)])
        self.types[name] = fields
        return name

    def annotation(self, text):
        """The shape that an annotation of the Rust package stands for."""
        text = text.replace("chia_rs.", "").strip("\"' ")
        if match := re.fullmatch(r"(?:list|List|Sequence)\[(.*)\]", text):
            return f"list[{self.annotation(match[1])}]"
        if match := re.fullmatch(r"(?:tuple|Tuple)\[(.*)\]", text):
            return f"tuple[{','.join(self.annotation(part) for part in split(match[1]))}]"
        if match := re.fullmatch(r"Optional\[(.*)\]", text) or re.fullmatch(r"(.*) \| None", text):
            return f"optional[{self.annotation(match[1])}]"
        return self.of_rust("bytes" if text == "ReadableBuffer" else text)


def is_primitive(name):
    return bool(re.fullmatch(r"u?int\d+|bytes\d*|bool|str", name))


def split(text):
    """The parts of a list with nested brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def body_classes():
    """The class of each message type's body."""
    import chia.protocols
    from chia.apis import StubMetadataRegistry
    from chia.full_node.full_node_api import FullNodeAPI
    from chia.protocols import shared_protocol as shared
    from chia.protocols.protocol_message_types import ProtocolMessageTypes as Type

    found = {
        Type.handshake: shared.Handshake,
        Type.configure_window_sizes: shared.ConfigureWindowSizes,
        Type.error: shared.Error,
    }
    for metadata in [FullNodeAPI.metadata, *StubMetadataRegistry.values()]:
        for kind, request in metadata.message_type_to_request.items():
            found.setdefault(kind, request.message_class)
    modules = [importlib.import_module(f"chia.protocols.{m.name}") for m in pkgutil.iter_modules(chia.protocols.__path__)]
    for kind in Type:
        name = CLASS_NAMES.get(kind.name, "".join(word.capitalize() for word in kind.name.split("_")))
        for module in modules:
            if kind not in found and hasattr(module, name):
                found[kind] = getattr(module, name)
    return found


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
    shapes, bodies = Shapes(), body_classes()

    def handlers(kind):
        names = {name for name, handled in services.items() if kind in handled}
        return sorted(names | ({"full_node"} if kind in by_full_node else set()))

    def message(kind):
        facts = {
            "number": kind.value,
            "name": kind.name,
            "body": shapes.of_class(bodies[kind]) if kind in bodies else None,
            "senders": sorted(node.name.lower() for node in ProtocolMessageTypeToNodeType.get(kind, set())),
            "handlers": handlers(kind),
            "replies": [reply.name for reply in VALID_REPLY_MESSAGE_MAP.get(kind, [])],
            "push": PUSHES.get(kind.name),
            "limit_v1": limit(rate_limits[1].get(kind)),
            "limit_v2": limit(rate_limits[2].get(kind, rate_limits[1].get(kind))),
        }
        if kind in rate_limits_v3:  # 0: not limited, as in configure_window_sizes
            facts["window_v3"] = rate_limits_v3[kind].window_size or 0
        return facts

    messages = [message(kind) for kind in sorted(ProtocolMessageTypes, key=lambda kind: kind.value)]
    return {
        "chia_blockchain": chia.__version__,
        "node_types": {node.name.lower(): node.value for node in NodeType},
        "capabilities": {capability.name.lower(): capability.value for capability in Capability},
        "aggregate_limit": {
            "per_minute": aggregate_limit.frequency,
            "bytes_per_minute": aggregate_limit.max_total_size,
        },
        "interiors": [name for name in INTERIORS if name in shapes.types],
        "types": dict(sorted(shapes.types.items())),
        "messages": messages,
    }


def samples():
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
    messages = [
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
        for sender, kind, number, body in messages
    ]
    return "\n".join(lines) + "\n"


def as_text(facts):
    """JSON with one message or type per line, so that a new version of the package makes a readable difference."""
    def value(key, entry):
        if key == "types":
            lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(fields)}" for name, fields in entry.items())
            return "{\n" + lines + "\n  }"
        if key == "messages":
            return "[\n" + ",\n".join(f"    {json.dumps(message)}" for message in entry) + "\n  ]"
        return json.dumps(entry)

    return "{\n" + ",\n".join(f'  "{key}": {value(key, entry)}' for key, entry in facts.items()) + "\n}\n"


def compare(path, text):
    """Prints how the file differs from what the package says; whether it does."""
    old = path.read_text().splitlines() if path.exists() else []
    difference = list(difflib.unified_diff(old, text.splitlines(), f"{path.name} (checked in)", "the package", lineterm="", n=0))
    for line in difference:
        print(line)
    return bool(difference)


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    facts = read_package()
    files = {SCHEMA: as_text(facts), SAMPLES: samples()}
    print(f'{len(facts["messages"])} message types, {len(facts["types"])} body types of chia-blockchain {facts["chia_blockchain"]}')
    if sys.argv[1:]:
        if any([compare(path, text) for path, text in files.items()]):
            sys.exit("the package says otherwise: run policy/schema/generate.py and look at the difference")
        return
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
