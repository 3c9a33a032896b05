"""Writes the kept corpus of messages: real bodies of the kinds that have the most in them, one message per file.

    corpus.py DIR      from the test chain beside this file; the same every time

They are what the differential tests and the fuzz target of bodies begin with, and what the figures of the bench parse.
"""

import sys
from pathlib import Path

import chain


def transactions():
    """A bundle of spends with the standard puzzle, signed by nobody."""
    from chia.wallet.puzzles.p2_delegated_puzzle_or_hidden_puzzle import puzzle_for_pk, solution_for_conditions
    from chia_rs import AugSchemeMPL, Coin, CoinSpend, G2Element, SpendBundle
    from chia_rs.sized_bytes import bytes32
    from chia_rs.sized_ints import uint64

    spends = []
    for number in range(1, 9):
        key = AugSchemeMPL.key_gen(bytes([number]) * 32).get_g1()
        puzzle = puzzle_for_pk(key)
        coin = Coin(bytes32(bytes([number]) * 32), puzzle.get_tree_hash(), uint64(number))
        solution = solution_for_conditions([[51, bytes([number]) * 32, number], [60, b"hedgerow"]])
        spends.append(CoinSpend(coin, puzzle.to_serialized(), solution.to_serialized()))
    return SpendBundle(spends, G2Element())


def messages():
    """Names, types and bodies."""
    from chia.protocols import full_node_protocol as full, wallet_protocol as wallet
    from chia.protocols.protocol_message_types import ProtocolMessageTypes as Type
    from chia.consensus.generator_tools import get_block_header
    from chia_rs import Program, UnfinishedBlock, WeightProof, solution_generator, solution_generator_backrefs
    from chia_rs.sized_ints import uint32

    blocks = chain.load(120)
    bundle = transactions()
    spends = [(spend.coin, bytes(spend.puzzle_reveal), bytes(spend.solution)) for spend in bundle.coin_spends]
    plain, packed = (Program.from_bytes(make(spends)) for make in (solution_generator, solution_generator_backrefs))
    with_slots = next(block for block in blocks if block.finished_sub_slots)
    paid = next(block for block in blocks if block.transactions_info is not None and block.height > 0)
    busy = paid.replace(transactions_generator=plain)
    dense = paid.replace(transactions_generator=packed, transactions_generator_ref_list=[uint32(7), uint32(9)])
    headers = [get_block_header(block) for block in blocks[100:110]]
    unfinished = UnfinishedBlock(
        dense.finished_sub_slots,
        dense.reward_chain_block.get_unfinished(),
        dense.challenge_chain_sp_proof,
        dense.reward_chain_sp_proof,
        dense.foliage,
        dense.foliage_transaction_block,
        dense.transactions_info,
        dense.transactions_generator,
        dense.transactions_generator_ref_list,
        None,
        0,
    )
    yield "blocks", Type.respond_blocks, full.RespondBlocks(uint32(100), uint32(107), [*blocks[100:106], busy, dense])
    yield "block", Type.respond_block, full.RespondBlock(with_slots)
    yield "block-packed", Type.respond_block, full.RespondBlock(dense)
    yield "unfinished", Type.respond_unfinished_block, full.RespondUnfinishedBlock(unfinished)
    yield "proof", Type.respond_proof_of_weight, full.RespondProofOfWeight(WeightProof([], [], headers), blocks[0].header_hash)
    yield "headers", Type.respond_block_headers, wallet.RespondBlockHeaders(uint32(100), uint32(109), headers)
    yield "transaction", Type.respond_transaction, full.RespondTransaction(bundle)
    peak = blocks[-1]
    yield "new-peak", Type.new_peak, full.NewPeak(
        peak.header_hash, peak.height, peak.weight, uint32(0), peak.reward_chain_block.get_unfinished().get_hash())
    yield "new-transaction", Type.new_transaction, full.NewTransaction(bundle.name(), 10**6, 5)
    yield "request-blocks", Type.request_blocks, full.RequestBlocks(uint32(0), uint32(32), True)
    states = [wallet.CoinState(spend.coin, None, uint32(7)) for spend in bundle.coin_spends]
    yield "coin-states", Type.coin_state_update, wallet.CoinStateUpdate(peak.height, uint32(0), peak.header_hash, states)


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    from chia.protocols.outbound_message import Message
    from chia_rs.sized_ints import uint8

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, body in messages():
        (folder / f"{name}.bin").write_bytes(bytes(Message(uint8(kind.value), None, bytes(body))))


if __name__ == "__main__":
    main()
