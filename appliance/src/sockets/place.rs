//! What stands in the place of a port whose connections are the kernel's: no frame comes from it, none goes to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Lane, Pool, Port, PortError, PortStatistics};
use hedgerow_dataplane::wire::Mac;
use rustix::event::{EventfdFlags, eventfd};

/// See the module.
#[derive(Debug)]
pub struct Place {
    abilities: Abilities,
    /// Never becomes readable.
    silence: OwnedFd,
}

impl Place {
    /// The place of a port.
    ///
    /// # Errors
    /// Where the kernel has no descriptor left.
    pub fn new() -> std::io::Result<Place> {
        let abilities = Abilities {
            mac: Mac([0x02, 0, 0, 0, 0, 0]),
            mtu: 1_500,
            frame_bytes: 2_048,
            frames: 0,
            checksum: false,
            segmentation: 0,
            vlan: false,
            lanes: false,
            mode: super::CAVEAT.to_owned(),
        };
        let silence = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Place { abilities, silence })
    }
}

impl Pool for Place {
    fn allocate(&mut self) -> Option<Frame> {
        None
    }
    fn release(&mut self, _frame: Frame) {}
    fn bytes(&self, _frame: &Frame) -> &[u8] {
        &[]
    }
    fn bytes_mut(&mut self, _frame: &mut Frame) -> &mut [u8] {
        &mut []
    }
    fn resize(&mut self, _frame: &mut Frame, _len: usize) -> bool {
        false
    }
}

impl Port for Place {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }
    fn receive(&mut self, _lane: Lane, _into: &mut Batch) -> Result<usize, PortError> {
        Ok(0)
    }
    fn transmit(&mut self, _from: &mut Batch) -> Result<usize, PortError> {
        Ok(0)
    }
    fn flush(&mut self) -> Result<(), PortError> {
        Ok(())
    }
    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        Some(self.silence.as_fd())
    }
    fn statistics(&self) -> PortStatistics {
        PortStatistics::default()
    }
}
