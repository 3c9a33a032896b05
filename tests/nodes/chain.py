"""The test chain: real blocks of network testnet0, farmed once and kept beside this file, compressed and checksummed.

    chain.py make [--blocks N]     farm the chain anew (minutes; needs plots, which are made on the way)
    chain.py check                 verify the checksum and count the blocks

Long enough (more than WEIGHT_PROOF_RECENT_BLOCKS of the test constants) that an empty node asks for a proof of weight
before it asks for blocks, as it would on the real network.
"""

import argparse
import asyncio
import hashlib
import lzma
import os
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHAIN = HERE / "chain.xz"
CHECKSUM = HERE / "chain.sha256"
CACHE = Path(os.environ.get("HEDGEROW_TEST_CACHE", HERE.parent / ".cache")).resolve()
BLOCKS = 506


def load(limit=None):
    """The chain's blocks, first to last, at most `limit` of them."""
    from chia_rs import FullBlock

    packed = CHAIN.read_bytes()
    if hashlib.sha256(packed).hexdigest() != CHECKSUM.read_text().split()[0]:
        raise SystemExit(f"{CHAIN} does not match {CHECKSUM}")
    raw, blocks, at = lzma.decompress(packed), [], 0
    while at < len(raw) and len(blocks) != limit:
        (size,) = struct.unpack_from(">I", raw, at)
        blocks.append(FullBlock.from_bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return blocks


def save(blocks):
    raw = b"".join(struct.pack(">I", len(bytes(block))) + bytes(block) for block in blocks)
    packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
    CHAIN.write_bytes(packed)
    CHECKSUM.write_text(f"{hashlib.sha256(packed).hexdigest()}  {CHAIN.name}\n")


def use_cached_plots():
    """Sends block_tools to the cached plots. It reads this variable when it is imported, so call this before."""
    home = CACHE / "plots"
    home.mkdir(parents=True, exist_ok=True)
    os.environ["CHIA_ROOT"] = str(home / "root")
    # Where this is set, block_tools wants plots that its own project's machines have, and makes none.
    os.environ.pop("CI", None)


async def farm_tools(keychain):
    """block_tools with its fixed keys and four of the smallest plots; the plots are made if the cache has none."""
    from chia.simulator.block_tools import BlockTools, test_constants

    tools = BlockTools(test_constants, keychain=keychain, automated_testing=True)
    await tools.setup_keys()
    await tools.setup_plots(num_og_plots=4, num_pool_plots=0, num_non_keychain_plots=0, num_v2_plots=0, plot_size=18)
    return tools


async def make(count):
    from chia.simulator.keyring import TempKeyring

    with TempKeyring() as keychain:
        tools = await farm_tools(keychain)
        blocks = []
        while len(blocks) < count:
            blocks = tools.get_consecutive_blocks(min(50, count - len(blocks)), block_list_input=blocks)
            print(f"{len(blocks)} of {count} blocks", flush=True)
    save(blocks)
    print(f"{CHAIN}: {CHAIN.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    arguments = parser.parse_args()
    if arguments.what == "make":
        use_cached_plots()
        asyncio.run(make(arguments.blocks))
    else:
        print(f"{len(load())} blocks")


if __name__ == "__main__":
    main()
