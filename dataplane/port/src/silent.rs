//! A port that only listens: what is to be sent is taken and thrown away, and the device is asked for nothing.
//!
//! Around a packet socket, which gets copies of frames, an appliance sees what a device's kernel sees, decides about it,
//! and changes nothing.

use std::os::fd::BorrowedFd;

use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Lane, Pool, Port, PortError, PortStatistics};

/// See the [module](self).
#[derive(Debug)]
pub struct Silent<P> {
    inner: P,
    abilities: Abilities,
}

impl<P: Port> Silent<P> {
    /// Silences `inner`.
    pub fn new(inner: P) -> Self {
        let abilities = inner.abilities().clone();
        let mode = format!("{}, silent: nothing is sent", abilities.mode);
        Silent { inner, abilities: Abilities { mode, ..abilities } }
    }
}

impl<P: Port> Pool for Silent<P> {
    fn allocate(&mut self) -> Option<Frame> {
        self.inner.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        self.inner.bytes(frame)
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.inner.bytes_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.inner.resize(frame, len)
    }

    fn prefetch(&self, frame: &Frame) {
        self.inner.prefetch(frame);
    }
}

impl<P: Port> Port for Silent<P> {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        self.inner.receive(lane, into)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let count = from.len();
        for (frame, _) in from.drain(count) {
            self.inner.release(frame);
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), PortError> {
        self.inner.flush()
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        self.inner.park()
    }

    fn statistics(&self) -> PortStatistics {
        self.inner.statistics()
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_dataplane::frame::Meta;

    use super::*;
    use crate::{Memory, MemoryConfig};

    #[test]
    fn it_hears_and_says_nothing_and_loses_no_frame_of_its_pool() {
        let (near, mut far) = Memory::pair(MemoryConfig::default(), MemoryConfig::default());
        let mut silent = Silent::new(near);
        assert!(silent.abilities().mode.contains("nothing is sent"));
        for _ in 0..10_000 {
            let mut batch = Batch::new();
            let mut frame = silent.allocate().expect("frames come back");
            assert!(silent.resize(&mut frame, 60));
            batch.push(frame, Meta::default()).expect("room");
            assert_eq!(silent.transmit(&mut batch).expect("a port"), 1);
        }
        silent.flush().expect("a port");
        assert_eq!(far.receive(Lane::Stranger, &mut Batch::new()).expect("a port"), 0);
        let mut batch = Batch::new();
        let mut frame = far.allocate().expect("a frame");
        assert!(far.resize(&mut frame, 60));
        batch.push(frame, Meta::default()).expect("room");
        far.transmit(&mut batch).expect("a port");
        far.flush().expect("a port");
        assert_eq!(silent.receive(Lane::Stranger, &mut Batch::new()).expect("a port"), 1);
    }
}
