//! The chain that the emulated node holds: blocks whose bytes follow from their height, so that whoever receives one can
//! tell whether it is right.

use hedgerow_policy::chia::{Message, number};

use crate::random::Random;

/// Asks for one block.
pub const REQUEST_BLOCK: u8 = 26;
/// Answers it.
pub const RESPOND_BLOCK: u8 = 27;
/// Says that there is no such block.
pub const REJECT_BLOCK: u8 = 28;
/// Tells a wallet that there is no such header.
pub const REJECT_HEADER_REQUEST: u8 = 53;
/// Answers a request for peers.
pub const RESPOND_PEERS: u8 = 44;

/// No node of any world has a block from this height on.
pub const NOWHERE: u32 = 1_000_000;

/// A block's bytes, 2 to 12 kB as real ones are.
pub fn block(height: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(height) << 8 | 0xb1);
    let mut bytes = vec![0; random.between(2_000, 12_000) as usize];
    random.fill(&mut bytes);
    bytes
}

/// Asks for the block at a height.
pub fn request_block(height: u32, id: u16) -> Message {
    let mut body = height.to_be_bytes().to_vec();
    body.push(1);
    Message::new(REQUEST_BLOCK, body).with_id(id)
}

/// Asks for the blocks from one height to another, both included.
pub fn request_blocks(first: u32, last: u32, id: u16) -> Message {
    let mut body = first.to_be_bytes().to_vec();
    body.extend_from_slice(&last.to_be_bytes());
    body.push(1);
    Message::new(number::REQUEST_BLOCKS, body).with_id(id)
}

/// The answer to a request, as a node gives it; `None` for what is no request.
pub fn answer(request: &Message) -> Option<Message> {
    let number = |at: usize| {
        let bytes = request.body.get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let reply = match request.kind {
        REQUEST_BLOCK if number(0)? >= NOWHERE => Message::new(REJECT_BLOCK, request.body.get(..4)?),
        REQUEST_BLOCK => Message::new(RESPOND_BLOCK, block(number(0)?)),
        number::REQUEST_BLOCKS => {
            let (first, last) = (number(0)?, number(4)?);
            let mut body = request.body[..8].to_vec();
            body.extend_from_slice(&(last.saturating_sub(first) + 1).to_be_bytes());
            (first..=last).for_each(|height| body.extend_from_slice(&block(height)));
            Message::new(number::RESPOND_BLOCKS, body)
        }
        number::REQUEST_BLOCK_HEADER => Message::new(REJECT_HEADER_REQUEST, request.body.get(..4)?),
        number::REQUEST_PEERS => Message::new(RESPOND_PEERS, 0_u32.to_be_bytes()),
        _ => return None,
    };
    Some(match request.id {
        Some(id) => reply.with_id(id),
        None => reply,
    })
}

/// Announces a tip of the chain.
pub fn new_peak(height: u32) -> Message {
    let mut body = vec![0; 88];
    Random::new(u64::from(height)).fill(&mut body);
    body[32..36].copy_from_slice(&height.to_be_bytes());
    body[36..52].copy_from_slice(&(u128::from(height) * 1_000).to_be_bytes());
    body[52..56].copy_from_slice(&height.saturating_sub(1).to_be_bytes());
    Message::new(number::NEW_PEAK, body)
}
