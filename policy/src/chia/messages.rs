//! Numbers of the message types that the gate itself has to know; all else about types is in the schema.

macro_rules! numbers {
    ($( $(#[doc = $doc:literal])+ $constant:ident = $number:literal $name:literal, )+) => {
        /// Numbers on the wire.
        pub mod number {
            $( $(#[doc = $doc])+ pub const $constant: u8 = $number; )+

            /// All of them with their names in the protocol, which a test holds against the schema.
            pub const ALL: &[(u8, &str)] = &[$(($number, $name),)+];
        }
    };
}

numbers! {
    /// Opens every session, both ways.
    HANDSHAKE = 1 "handshake",
    /// Announces a new tip of the chain.
    NEW_PEAK = 20 "new_peak",
    /// A transaction on its way to the mempool of another full node.
    NEW_TRANSACTION = 21 "new_transaction",
    /// Brings a transaction; older nodes answer [`REQUEST_MEMPOOL_TRANSACTIONS`] with many.
    RESPOND_TRANSACTION = 23 "respond_transaction",
    /// Asks for the proof that a long chain has its weight.
    REQUEST_PROOF_OF_WEIGHT = 24 "request_proof_of_weight",
    /// Asks for a block.
    REQUEST_BLOCK = 26 "request_block",
    /// Brings a block that was asked for.
    RESPOND_BLOCK = 27 "respond_block",
    /// Asks for a range of blocks.
    REQUEST_BLOCKS = 29 "request_blocks",
    /// Answers [`REQUEST_BLOCKS`]; the largest ordinary message.
    RESPOND_BLOCKS = 30 "respond_blocks",
    /// Brings a block without its proofs of time, the first sight of it.
    RESPOND_UNFINISHED_BLOCK = 34 "respond_unfinished_block",
    /// Brings a signage point.
    RESPOND_SIGNAGE_POINT = 37 "respond_signage_point",
    /// Brings the end of a sub-slot.
    RESPOND_END_OF_SUB_SLOT = 38 "respond_end_of_sub_slot",
    /// Asks for all transactions that pass a filter.
    REQUEST_MEMPOOL_TRANSACTIONS = 39 "request_mempool_transactions",
    /// Asks for a smaller proof of time.
    REQUEST_COMPACT_VDF = 40 "request_compact_vdf",
    /// Asks for addresses of full nodes.
    REQUEST_PEERS = 43 "request_peers",
    /// Answers [`REQUEST_PEERS`].
    RESPOND_PEERS = 44 "respond_peers",
    /// Announces a new tip of the chain to wallets.
    NEW_PEAK_WALLET = 50 "new_peak_wallet",
    /// A wallet asks for the header of a block.
    REQUEST_BLOCK_HEADER = 51 "request_block_header",
    /// An introducer's list of full nodes.
    RESPOND_PEERS_INTRODUCER = 64 "respond_peers_introducer",
    /// Asks to be told of coins with these puzzle hashes.
    REGISTER_FOR_PH_UPDATES = 70 "register_for_ph_updates",
    /// Asks to be told of these coins.
    REGISTER_FOR_COIN_UPDATES = 72 "register_for_coin_updates",
    /// A reply that says "nothing"; whether it may be used is negotiated by capability.
    NONE_RESPONSE = 91 "none_response",
    /// Takes registrations for puzzle hashes back, or all of them.
    REQUEST_REMOVE_PUZZLE_SUBSCRIPTIONS = 94 "request_remove_puzzle_subscriptions",
    /// Takes registrations for coins back, or all of them.
    REQUEST_REMOVE_COIN_SUBSCRIPTIONS = 96 "request_remove_coin_subscriptions",
    /// Asks for coins with these puzzle hashes, and to be told of more where its end says so.
    REQUEST_PUZZLE_STATE = 98 "request_puzzle_state",
    /// Asks for these coins, and to be told of them where its end says so.
    REQUEST_COIN_STATE = 101 "request_coin_state",
    /// Agrees on windows for requests, right after the handshake.
    CONFIGURE_WINDOW_SIZES = 111 "configure_window_sizes",
    /// Says that a request failed.
    ERROR = 255 "error",
}
