//! Sends frames through a network device of the kernel and receives none: for load generators.
//!
//! A packet socket without a protocol: the kernel hands it no copies of what arrives, so that a generator pays for what it
//! sends and for nothing else. Frames go out as they are, one system call for up to [`BATCH`] of them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use hedgerow_dataplane::frame::BATCH;
use hedgerow_dataplane::wire::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{OpenError, Problem};
use crate::syscall::{self, Messages, PIECES};

/// A way out through one device.
pub struct PacketSender {
    socket: OwnedFd,
    messages: Messages,
    mac: Mac,
}

impl std::fmt::Debug for PacketSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketSender").field("mac", &self.mac).finish_non_exhaustive()
    }
}

impl PacketSender {
    /// Opens the device, in the network namespace of the calling thread. Needs `CAP_NET_RAW`.
    pub fn open(device: &str) -> Result<Self, OpenError> {
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, "CAP_NET_RAW", source).of(device);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(|errno| fail("a packet socket")(errno.into()))?;
        let facts = syscall::interface(socket.as_fd(), device).map_err(fail("asking for the device"))?;
        let interface = rustix::net::netdevice::name_to_index(&socket, device)
            .map_err(|errno| fail("asking for the device")(errno.into()))?;
        syscall::bind_packet(socket.as_fd(), interface, 0).map_err(fail("binding to the device"))?;
        Ok(PacketSender { socket, messages: Messages::new(BATCH), mac: facts.mac })
    }

    /// The device's own address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends a prefix of `frames`, at most [`BATCH`]; says how many the device took, which is none where its queue is full.
    pub fn send(&mut self, frames: &[&[u8]]) -> io::Result<usize> {
        let frames = &frames[..frames.len().min(BATCH)];
        let mut pieces = [[IoSlice::new(&[]); PIECES]; BATCH];
        for (piece, frame) in pieces.iter_mut().zip(frames) {
            piece[0] = IoSlice::new(frame);
        }
        match self.messages.send(self.socket.as_fd(), &pieces[..frames.len()]) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR)) =>
            {
                Ok(0)
            }
            result => result,
        }
    }
}
