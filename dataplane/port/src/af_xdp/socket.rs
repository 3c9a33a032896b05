//! Sockets of AF_XDP: options, rings and binding, as far as two of them on one queue need it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytemuck::{NoUninit, Pod, Zeroable};

use super::rings::{Consumer, Descriptor, Producer};
use super::umem::{HEADROOM, Umem};
use crate::syscall;

/// `struct xdp_ring_offset`: where a ring's parts lie, in bytes from its start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Offsets {
    pub(crate) producer: u64,
    pub(crate) consumer: u64,
    pub(crate) entries: u64,
    pub(crate) flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct AllOffsets {
    receive: Offsets,
    send: Offsets,
    fill: Offsets,
    completion: Offsets,
}

/// `struct xdp_umem_reg`.
#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Registration {
    start: u64,
    len: u64,
    chunk: u32,
    headroom: u32,
    flags: u32,
    metadata: u32,
}

/// `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Statistics {
    /// Frames for which no memory was there, or that did not fit.
    dropped: u64,
    invalid_receive: u64,
    /// Descriptors to send that the kernel refused.
    pub(crate) invalid_send: u64,
    ring_full: u64,
    fill_empty: u64,
    send_empty: u64,
}

impl Statistics {
    /// Frames that reached the socket and were lost there.
    pub(crate) fn lost(&self) -> u64 {
        self.dropped + self.ring_full
    }
}

/// A socket of AF_XDP.
pub(crate) struct Socket(OwnedFd);

/// Whether the kernel has to be told to look into the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kick {
    /// It looked, or will by itself.
    Done,
    /// It looked and could not take everything yet.
    Again,
    /// The device is down.
    Down,
}

impl Socket {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        Ok(Socket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn set<T: NoUninit>(&self, option: i32, value: &T) -> io::Result<()> {
        syscall::set_option(self.0.as_fd(), libc::SOL_XDP, option, value)
    }

    /// Makes `umem` the memory of this socket, which must not outlive it in use: the kernel writes there as long as this
    /// socket, or one that shares with it, is open.
    pub(crate) fn register(&self, umem: &Umem) -> io::Result<()> {
        let (start, len) = umem.region();
        // The headroom that the kernel keeps anyway is not counted.
        debug_assert_eq!(HEADROOM, 256);
        let registration =
            Registration { start, len, chunk: umem.chunk(), headroom: 0, flags: 0, metadata: 0 };
        self.set(libc::XDP_UMEM_REG, &registration)
    }

    fn offsets(&self) -> io::Result<AllOffsets> {
        syscall::option(self.0.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)
    }

    /// A receive ring of `entries`, a power of two like all of them.
    pub(crate) fn receive_ring(&self, entries: u32) -> io::Result<Consumer<Descriptor>> {
        self.set(libc::XDP_RX_RING, &entries)?;
        Consumer::new(self.0.as_fd(), libc::XDP_PGOFF_RX_RING as u64, self.offsets()?.receive, entries)
    }

    pub(crate) fn send_ring(&self, entries: u32) -> io::Result<Producer<Descriptor>> {
        self.set(libc::XDP_TX_RING, &entries)?;
        Producer::new(self.0.as_fd(), libc::XDP_PGOFF_TX_RING as u64, self.offsets()?.send, entries)
    }

    pub(crate) fn fill_ring(&self, entries: u32) -> io::Result<Producer<u64>> {
        self.set(libc::XDP_UMEM_FILL_RING, &entries)?;
        Producer::new(self.0.as_fd(), libc::XDP_UMEM_PGOFF_FILL_RING, self.offsets()?.fill, entries)
    }

    pub(crate) fn completion_ring(&self, entries: u32) -> io::Result<Consumer<u64>> {
        self.set(libc::XDP_UMEM_COMPLETION_RING, &entries)?;
        Consumer::new(
            self.0.as_fd(),
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            self.offsets()?.completion,
            entries,
        )
    }

    /// Lets one kick send up to `frames` where data are copied; kernels before 6.17 know no such option and send 32.
    pub(crate) fn set_send_budget(&self, frames: u32) {
        /// `XDP_MAX_TX_SKB_BUDGET`.
        const SEND_BUDGET: i32 = 9;
        let _ = self.set(SEND_BUDGET, &frames);
    }

    /// Binds to a queue of a device, without copies where its driver can; `copy` forbids that.
    pub(crate) fn bind(&self, interface: u32, queue: u32, copy: bool) -> io::Result<()> {
        let copy = if copy { libc::XDP_COPY } else { 0 };
        self.bind_with(interface, queue, libc::XDP_USE_NEED_WAKEUP | copy, 0)
    }

    /// Binds to the queue of `owner`, which is bound, and shares its memory, fill and completion ring. The kernel takes the
    /// other flags from the owner, and refuses them here.
    pub(crate) fn bind_beside(&self, owner: &Socket, interface: u32, queue: u32) -> io::Result<()> {
        self.bind_with(interface, queue, libc::XDP_SHARED_UMEM, owner.0.as_raw_fd() as u32)
    }

    fn bind_with(&self, interface: u32, queue: u32, flags: u16, shared: u32) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: shared,
        };
        // SAFETY: pointer and length describe `address`, which the kernel only reads during the call.
        let result = unsafe {
            let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
            libc::bind(self.0.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether frames reach the memory without a copy.
    pub(crate) fn is_zero_copy(&self) -> io::Result<bool> {
        let flags: u32 = syscall::option(self.0.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS)?;
        Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    pub(crate) fn statistics(&self) -> Statistics {
        syscall::option(self.0.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS).unwrap_or_default()
    }

    /// Has the kernel look into the send ring.
    pub(crate) fn kick_send(&self) -> io::Result<Kick> {
        // SAFETY: no data and no address are passed.
        let result = unsafe {
            libc::sendto(self.0.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
        };
        judge(result)
    }

    /// Has the kernel look into the fill ring.
    pub(crate) fn kick_receive(&self) -> io::Result<Kick> {
        // SAFETY: no room for data or an address is passed.
        let result = unsafe {
            let nowhere = std::ptr::null_mut();
            libc::recvfrom(
                self.0.as_raw_fd(),
                nowhere,
                0,
                libc::MSG_DONTWAIT,
                nowhere.cast(),
                std::ptr::null_mut(),
            )
        };
        judge(result)
    }
}

fn judge(result: isize) -> io::Result<Kick> {
    if result >= 0 {
        return Ok(Kick::Done);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(Kick::Again),
        Some(libc::ENETDOWN) => Ok(Kick::Down),
        _ => Err(error),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
