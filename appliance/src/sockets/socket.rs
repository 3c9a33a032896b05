//! One connection of the kernel with a block for what came and a block for what goes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Standing;
use hedgerow_dataplane::wire::FlowKey;

use super::blocks::{BLOCK, Block, Blocks};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Being opened by us.
    Connecting,
    /// Open, at least one way.
    Open,
    /// Its session is over; gone at that instant at the latest.
    Orphan(Instant),
}

/// Bytes that wait in a block.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    block: Option<Block>,
    start: usize,
    end: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let (start, end) = (self.start, self.end);
        self.block.as_mut().map_or(&mut [], |block| &mut block[start..end])
    }

    /// Takes bytes off the front.
    pub(super) fn take(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room at the end, in a block that is taken where there is none yet; `None` where there is none to take.
    pub(super) fn room(&mut self, blocks: &mut Blocks) -> Option<&mut [u8]> {
        if self.block.is_none() {
            self.block = Some(blocks.take()?);
        }
        let (start, end) = (self.start, self.end);
        let block = self.block.as_mut()?;
        if end == BLOCK && start > 0 {
            block.copy_within(start..end, 0);
            (self.start, self.end) = (0, end - start);
        }
        Some(&mut block[self.end..])
    }

    /// The first `n` bytes of the room are filled.
    pub(super) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(BLOCK);
    }

    /// Gives the block back if nothing waits in it.
    pub(super) fn tidy(&mut self, blocks: &mut Blocks) {
        if self.len() == 0
            && let Some(block) = self.block.take()
        {
            blocks.give(block);
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) key: FlowKey,
    pub(super) phase: Phase,
    pub(super) standing: Standing,
    /// A peer came to us.
    pub(super) accepted: bool,
    pub(super) inbox: Waiting,
    pub(super) outbox: Waiting,
    /// A read may find something; a write may find room.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side has sent FIN.
    pub(super) fin: bool,
    /// We shall send FIN, and have.
    pub(super) finishing: bool,
    shut: bool,
    /// The host found no room to write.
    pub(super) wanted: bool,
    /// It stands among those that have something to send.
    pub(super) dirty: bool,
    /// It stands among those that found no block free.
    pub(super) starved: bool,
    /// Bytes that the host would take.
    pub(super) appetite: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, key: FlowKey, phase: Phase) -> Self {
        Socket {
            stream,
            key,
            phase,
            standing: if phase == Phase::Connecting { Standing::Reserved } else { Standing::Stranger },
            accepted: false,
            inbox: Waiting::default(),
            outbox: Waiting::default(),
            readable: false,
            writable: false,
            fin: false,
            finishing: false,
            shut: false,
            wanted: false,
            dirty: false,
            starved: false,
            appetite: BLOCK,
        }
    }

    pub(super) fn is_orphan(&self) -> bool {
        matches!(self.phase, Phase::Orphan(_))
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Orphan(until) if until <= now)
    }

    /// Whether bytes or our FIN still have to go.
    pub(super) fn has_output(&self) -> bool {
        self.outbox.len() > 0 || self.finishing && !self.shut
    }

    /// Reads what is there into an empty inbox, as far as the host has an appetite for it; false where no block was free.
    pub(super) fn fill(&mut self, blocks: &mut Blocks) -> io::Result<bool> {
        if self.inbox.len() > 0 || !self.readable || self.fin || self.appetite == 0 {
            return Ok(true);
        }
        let Some(room) = self.inbox.room(blocks) else { return Ok(false) };
        let most = room.len().min(self.appetite);
        match (&self.stream).read(&mut room[..most]) {
            Ok(0) => self.fin = true,
            Ok(n) => self.inbox.filled(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.inbox.tidy(blocks);
        Ok(true)
    }

    /// Writes what waits, and our FIN after it; whether the host waits for the room that this made.
    pub(super) fn flush(&mut self, blocks: &mut Blocks) -> io::Result<bool> {
        while self.writable && self.outbox.len() > 0 {
            match (&self.stream).write(self.outbox.bytes()) {
                Ok(n) => self.outbox.take(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outbox.tidy(blocks);
        if self.finishing && !self.shut && self.outbox.len() == 0 {
            self.shut = true;
            // Where the other side is gone already, its reset says so.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(self.outbox.len() < BLOCK && std::mem::take(&mut self.wanted))
    }

    /// Reads and forgets, a bounded amount at a time; whether the other side's FIN has come.
    pub(super) fn discard(&mut self) -> io::Result<bool> {
        let mut sink = [0; 4_096];
        for _ in 0..16 {
            if self.fin || !self.readable {
                break;
            }
            match (&self.stream).read(&mut sink) {
                Ok(0) => self.fin = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.fin)
    }

    pub(super) fn give_back_inbox(&mut self, blocks: &mut Blocks) {
        self.inbox.take(BLOCK);
        self.inbox.tidy(blocks);
    }

    pub(super) fn give_back(&mut self, blocks: &mut Blocks) {
        self.give_back_inbox(blocks);
        self.outbox.take(BLOCK);
        self.outbox.tidy(blocks);
    }
}
