//! The validator of bodies against the node's own types (`chia-protocol`): both must accept and refuse the same bytes.
//!
//! `CASES` sets how many bodies are compared, `SEED` which. Differences that are meant:
//!
//! - Elements of the curve's groups that have the right form and lie off the curve or outside its subgroup pass here: to
//!   see that costs more than all the rest, and the node sees it. Before both are compared, such elements are replaced
//!   by valid ones.
//! - `reject_puzzle_state`, `reject_coin_state` and `mempool_items_removed` hold a byte that the Rust types read as a word
//!   of a list. A node reads any byte there, by its Python types, and sends these itself. They are left out here and
//!   compared with Python in `tests/run node-bodies`.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use chia_bls::{PublicKey, SecretKey, Signature, sign};
use chia_protocol::*;
use chia_traits::Streamable;
use hedgerow_policy::chia::{Body, Fault, Schema, Scratches};
use hedgerow_tests::bodies::model::{Kind, Leaves, Model};
use hedgerow_tests::bodies::{Bodies, Random};

const SCHEMA: &str = include_str!("../../policy/schema/protocol.json");

type Oracle = fn(&[u8]) -> bool;

fn accepts<T: Streamable>(body: &[u8]) -> bool {
    T::from_bytes(body).is_ok()
}

/// The types of `chia-protocol` by the names that the protocol gives their messages.
macro_rules! oracles {
    ($($name:ident $kind:ident,)+) => { &[$((stringify!($name), accepts::<$kind> as Oracle),)+] };
}

const ORACLES: &[(&str, Oracle)] = oracles! {
    new_peak NewPeak, new_transaction NewTransaction, request_transaction RequestTransaction,
    respond_transaction RespondTransaction, request_proof_of_weight RequestProofOfWeight,
    respond_proof_of_weight RespondProofOfWeight, request_block RequestBlock, respond_block RespondBlock,
    reject_block RejectBlock, request_blocks RequestBlocks, respond_blocks RespondBlocks, reject_blocks RejectBlocks,
    new_unfinished_block NewUnfinishedBlock, request_unfinished_block RequestUnfinishedBlock,
    respond_unfinished_block RespondUnfinishedBlock,
    new_signage_point_or_end_of_sub_slot NewSignagePointOrEndOfSubSlot,
    request_signage_point_or_end_of_sub_slot RequestSignagePointOrEndOfSubSlot,
    respond_signage_point RespondSignagePoint, respond_end_of_sub_slot RespondEndOfSubSlot,
    request_mempool_transactions RequestMempoolTransactions, new_compact_vdf NewCompactVDF,
    request_compact_vdf RequestCompactVDF, respond_compact_vdf RespondCompactVDF, request_peers RequestPeers,
    respond_peers RespondPeers, new_unfinished_block2 NewUnfinishedBlock2,
    request_unfinished_block2 RequestUnfinishedBlock2, request_puzzle_solution RequestPuzzleSolution,
    respond_puzzle_solution RespondPuzzleSolution, reject_puzzle_solution RejectPuzzleSolution,
    send_transaction SendTransaction, transaction_ack TransactionAck, new_peak_wallet NewPeakWallet,
    request_block_header RequestBlockHeader, respond_block_header RespondBlockHeader,
    reject_header_request RejectHeaderRequest, request_removals RequestRemovals, respond_removals RespondRemovals,
    reject_removals_request RejectRemovalsRequest, request_additions RequestAdditions,
    respond_additions RespondAdditions, reject_additions_request RejectAdditionsRequest,
    respond_block_headers RespondBlockHeaders, reject_block_headers RejectBlockHeaders,
    request_block_headers RequestBlockHeaders, request_header_blocks RequestHeaderBlocks,
    reject_header_blocks RejectHeaderBlocks, respond_header_blocks RespondHeaderBlocks,
    register_for_ph_updates RegisterForPhUpdates, respond_to_ph_updates RespondToPhUpdates,
    register_for_coin_updates RegisterForCoinUpdates, respond_to_coin_updates RespondToCoinUpdates,
    coin_state_update CoinStateUpdate, request_children RequestChildren, respond_children RespondChildren,
    request_ses_hashes RequestSesInfo, respond_ses_hashes RespondSesInfo,
    request_fee_estimates RequestFeeEstimates, respond_fee_estimates RespondFeeEstimates,
    request_remove_puzzle_subscriptions RequestRemovePuzzleSubscriptions,
    respond_remove_puzzle_subscriptions RespondRemovePuzzleSubscriptions,
    request_remove_coin_subscriptions RequestRemoveCoinSubscriptions,
    respond_remove_coin_subscriptions RespondRemoveCoinSubscriptions, request_puzzle_state RequestPuzzleState,
    respond_puzzle_state RespondPuzzleState, request_coin_state RequestCoinState,
    respond_coin_state RespondCoinState, mempool_items_added MempoolItemsAdded, request_cost_info RequestCostInfo,
    respond_cost_info RespondCostInfo,
};

/// Finds elements of the curve's groups that only their arithmetic shows to be none.
struct Points<'a> {
    valid: &'a [Vec<Vec<u8>>; 2],
    replace: Vec<(usize, usize)>,
}

/// Whether the bytes fail only because no such point is on the curve or in the subgroup.
fn off_curve(group: usize, bytes: &[u8]) -> Option<bool> {
    let failure = match group {
        0 => PublicKey::from_bytes(bytes.try_into().ok()?).err()?.to_string() + "",
        _ => Signature::from_bytes(bytes.try_into().ok()?).err()?.to_string() + "",
    };
    Some(failure.contains("POINT_NOT"))
}

impl Leaves for Points<'_> {
    fn point(&mut self, group: usize, at: usize, bytes: &[u8]) -> bool {
        if self.valid[group].iter().any(|valid| valid == bytes) {
            return true;
        }
        match off_curve(group, bytes) {
            None => true,
            Some(true) => {
                self.replace.push((group, at));
                true
            }
            Some(false) => false,
        }
    }

    fn program(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut cursor = Cursor::new(bytes);
        Program::parse::<false>(&mut cursor).ok()?;
        Some(cursor.position() as usize)
    }
}

fn valid_points() -> [Vec<Vec<u8>>; 2] {
    let keys: Vec<SecretKey> = (1..6_u8).map(|n| SecretKey::from_seed(&[n; 32])).collect();
    let mut infinity = vec![0; 48];
    infinity[0] = 0xc0;
    let public = keys.iter().map(|key| key.public_key().to_bytes().to_vec());
    let signed = keys.iter().map(|key| sign(key, b"hedgerow").to_bytes().to_vec());
    let second = infinity.iter().copied().chain([0; 48]).collect();
    [public.chain([infinity]).collect(), signed.chain([second]).collect()]
}

/// Our judgement of a body in pieces that the closure draws.
fn judge(
    schema: &Schema,
    scratches: &Arc<Scratches>,
    kind: u8,
    body: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<(), Fault> {
    let mut judged = Body::of(schema, kind, body.len() as u32).expect("a known type");
    let mut rest = body;
    loop {
        let (here, more) = rest.split_at(piece().min(rest.len()));
        judged.take(schema, scratches, here)?;
        if more.is_empty() {
            assert!(judged.is_complete());
            return Ok(());
        }
        rest = more;
    }
}

struct Bench {
    schema: Arc<Schema>,
    scratches: Arc<Scratches>,
    model: Model,
    valid: [Vec<Vec<u8>>; 2],
}

impl Bench {
    fn new() -> Bench {
        Bench {
            schema: Schema::embedded(),
            scratches: Scratches::new(2),
            model: Model::new(SCHEMA),
            valid: valid_points(),
        }
    }

    /// Compares the judgements of one body; says what it was, or how they differ.
    fn compare(
        &self,
        kind: &Kind,
        oracle: Option<Oracle>,
        body: &[u8],
        random: &mut Random,
    ) -> Result<bool, String> {
        let ours = judge(&self.schema, &self.scratches, kind.number, body, || usize::MAX);
        let most = 1 + random.below(60);
        let pieces =
            judge(&self.schema, &self.scratches, kind.number, body, || random.below(most + 1) as usize);
        if ours != pieces {
            return Err(format!("{}: {ours:?} whole, {pieces:?} in pieces: {}", kind.name, hex(body)));
        }
        let mut points = Points { valid: &self.valid, replace: Vec::new() };
        let modelled = self.model.accepts(&kind.body, body, &mut points);
        let mut patched = body.to_vec();
        for (group, at) in points.replace {
            patched[at..][..[48, 96][group]].copy_from_slice(&self.valid[group][0]);
        }
        let theirs = oracle.map_or(modelled, |oracle| oracle(&patched));
        if ours.is_ok() != theirs || modelled != theirs {
            let path = ours.err().map(|fault| fault.path(&self.schema));
            return Err(format!(
                "{}: ours {ours:?} at {path:?}, chia-protocol {theirs}, the model {modelled}: {}",
                kind.name,
                hex(body)
            ));
        }
        Ok(theirs)
    }
}

fn hex(body: &[u8]) -> String {
    body.iter().take(2_000).map(|byte| format!("{byte:02x}")).collect()
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn bodies_are_judged_as_the_node_judges_them() {
    let bench = Bench::new();
    let oracles: BTreeMap<&str, Oracle> = ORACLES.iter().copied().collect();
    let points = [bench.valid[0].as_slice(), bench.valid[1].as_slice()];
    let mut bodies = Bodies::new(&bench.model, setting("SEED", 1), points);
    let (cases, mut count, mut good) = (setting("CASES", 40_000), 0, 0);
    let (mut failures, mut seen) = (Vec::new(), BTreeMap::<&str, u64>::new());
    while count < cases && failures.len() < 10 {
        for kind in &bench.model.kinds {
            let oracle = oracles.get(kind.name.as_str()).copied();
            let valid = bodies.valid(&kind.body);
            for change in [false, true, true, true, true] {
                let mut body = valid.clone();
                if change {
                    bodies.change(&mut body);
                }
                count += 1;
                match bench.compare(kind, oracle, &body, &mut bodies.random) {
                    Ok(accepted) => {
                        good += u64::from(accepted);
                        *seen.entry(&kind.name).or_default() += u64::from(accepted);
                    }
                    Err(difference) => failures.push(difference),
                }
            }
        }
    }
    println!("{count} bodies compared, {good} of them valid");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(
        ORACLES.iter().filter(|(name, _)| bench.model.kinds.iter().any(|k| k.name == *name)).count(),
        ORACLES.len()
    );
    let never: Vec<_> = bench
        .model
        .kinds
        .iter()
        .filter(|kind| seen.get(kind.name.as_str()).is_none_or(|&n| n == 0))
        .collect();
    assert!(never.is_empty(), "no valid body of {never:?}");
}
