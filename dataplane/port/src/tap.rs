//! A port at the far end of a TAP device: the kernel's end is an ordinary interface, ours a file of frames.
//!
//! Each frame is one `read` or `write` with a virtio header before it, so that super-frames and partial checksums pass
//! both ways. Received 802.1Q tags stand in the bytes, as TAP delivers them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics};
use hedgerow_dataplane::wire::Mac;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{OpenError, Problem};
use crate::pool::HeapPool;
use crate::syscall;
use crate::vnet::{self, Header, TAG_OFFSET};

/// How to open a [`Tap`] port.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// The device: made if it does not exist, in the network namespace of the thread that opens it, and gone again with
    /// the port unless it is persistent.
    pub device: String,
    /// Our end's Ethernet address; without one, the kernel's with its last bit flipped.
    pub mac: Option<Mac>,
    /// Frames that can be held at once. Each can hold a super-frame; memory is taken as it is first used.
    pub frames: usize,
}

impl TapConfig {
    /// The defaults for `device`.
    pub fn new(device: &str) -> Self {
        TapConfig { device: device.into(), mac: None, frames: 512 }
    }
}

/// The far end of a TAP device. All its frames come in [`Lane::Stranger`].
pub struct Tap {
    abilities: Abilities,
    file: OwnedFd,
    pool: HeapPool,
    statistics: PortStatistics,
}

/// Why a device has no second queue.
const SINGLE_QUEUE: &str = "the device was made for one, or another process has it: remove it so that it is made anew, or make it with \
     `ip tuntap add mode tap multi_queue`";
/// Why a device has no further queue.
const TOO_MANY: &str = "the kernel gives a TAP device 256 at most";

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("abilities", &self.abilities).finish_non_exhaustive()
    }
}

impl Tap {
    /// Attaches to the device. Needs `CAP_NET_ADMIN` unless the device exists and belongs to this user.
    pub fn open(config: &TapConfig) -> Result<Self, OpenError> {
        match Self::attach(config, 0) {
            // It was made for several queues; one of them is enough.
            Err(OpenError { problem: Problem::Busy, .. }) => Self::attach(config, libc::IFF_MULTI_QUEUE),
            opened => opened,
        }
    }

    /// Attaches to the device with `count` queues, each a port of its own. The kernel keeps a flow on the queue that last
    /// sent a frame of it, and chooses by a hash over addresses and ports where none did.
    ///
    /// # Errors
    /// As [`Tap::open`]; [`Problem::Queues`] where the device was made for one queue, or takes no more.
    pub fn open_queues(config: &TapConfig, count: usize) -> Result<Vec<Self>, OpenError> {
        if count <= 1 {
            return Self::open(config).map(|tap| vec![tap]);
        }
        let queue = |index: usize| {
            Self::attach(config, libc::IFF_MULTI_QUEUE)
                .map_err(|error| match &error.problem {
                    Problem::Busy => Problem::Queues { asked: count, why: SINGLE_QUEUE }.of(&config.device),
                    Problem::System { source, .. } if source.raw_os_error() == Some(libc::E2BIG) => {
                        Problem::Queues { asked: count, why: TOO_MANY }.of(&config.device)
                    }
                    _ => error,
                })
                .map(|tap| tap.named(index, count))
        };
        (0..count).map(queue).collect()
    }

    fn named(mut self, index: usize, count: usize) -> Self {
        self.abilities.mode = format!("tap, queue {} of {count}", index + 1);
        self
    }

    fn attach(config: &TapConfig, queues: i32) -> Result<Self, OpenError> {
        let name = config.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, "CAP_NET_ADMIN", source).of(name);
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Problem::NoTun.of(name),
            Errno::ACCESS => Problem::TunNotReadable.of(name),
            _ => fail("opening /dev/net/tun")(errno.into()),
        })?;
        let flags = libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
        let actual =
            syscall::attach_tap(file.as_fd(), name, flags).map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY | libc::EINVAL) => Problem::Busy.of(name),
                _ => fail("attaching to the TAP device")(source),
            })?;
        syscall::set_tap_header(file.as_fd(), Header::BYTES).map_err(fail("setting the virtio header"))?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        syscall::set_tap_offloads(file.as_fd(), offloads).map_err(fail("setting offloads"))?;

        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| fail("asking for the device")(errno.into()))?;
        let facts = syscall::interface(any.as_fd(), &actual).map_err(fail("asking for the device"))?;
        let mtu = u16::try_from(facts.mtu).unwrap_or(u16::MAX);
        let frame_bytes = crate::frame_bytes(mtu, crate::SEGMENTATION);
        let Mac([a, b, c, d, e, f]) = facts.mac;
        Ok(Tap {
            abilities: Abilities {
                mac: config.mac.unwrap_or(Mac([a, b, c, d, e, f ^ 1])),
                mtu,
                frame_bytes,
                frames: config.frames,
                checksum: true,
                segmentation: crate::SEGMENTATION,
                vlan: true,
                lanes: false,
                mode: "tap".into(),
            },
            file,
            pool: HeapPool::new(config.frames, frame_bytes, 0),
            statistics: PortStatistics::default(),
        })
    }

    /// Reads one frame; `None` where none waits.
    fn read(&mut self) -> Result<Option<(Frame, Meta)>, PortError> {
        while let Some(mut frame) = self.pool.allocate() {
            let mut header = Header::default();
            self.pool.resize(&mut frame, self.abilities.frame_bytes);
            let buffer = self.pool.bytes_mut(&frame);
            let mut pieces = [IoSliceMut::new(bytemuck::bytes_of_mut(&mut header)), IoSliceMut::new(buffer)];
            let read = match rustix::io::readv(&self.file, &mut pieces) {
                Ok(read) => read,
                Err(errno) => {
                    self.pool.release(frame);
                    return match errno {
                        Errno::INTR => continue,
                        Errno::AGAIN => Ok(None),
                        _ => {
                            Err(PortError { operation: "reading from the TAP device", source: errno.into() })
                        }
                    };
                }
            };
            let len = read.saturating_sub(Header::BYTES);
            match header.meta(len).filter(|_| self.pool.resize(&mut frame, len)) {
                Some(meta) => return Ok(Some((frame, meta))),
                None => {
                    self.statistics.malformed += 1;
                    self.pool.release(frame);
                }
            }
        }
        Ok(None)
    }

    /// Writes one frame; an error of the kernel as it came.
    fn write(&mut self, frame: &Frame, meta: &Meta) -> Result<(), Errno> {
        let bytes = self.pool.bytes(frame);
        let header = Header::outgoing(bytes, meta).ok_or(Errno::INVAL)?;
        let tag = vnet::tag(meta);
        let (addresses, rest) = bytes.split_at(TAG_OFFSET);
        let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
        let pieces = [bytemuck::bytes_of(&header), addresses, tag, rest].map(IoSlice::new);
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.file, &pieces)).map(drop)
    }
}

impl Pool for Tap {
    fn allocate(&mut self) -> Option<Frame> {
        self.pool.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.pool.release(frame);
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        self.pool.bytes(frame)
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.pool.bytes_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.pool.resize(frame, len)
    }

    fn prefetch(&self, frame: &Frame) {
        syscall::prefetch(self.bytes(frame));
    }
}

impl Port for Tap {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        let mut count = 0;
        while lane == Lane::Stranger && into.space() > 0 {
            let Some((frame, meta)) = self.read()? else { break };
            if let Err(frame) = into.push(frame, meta) {
                self.pool.release(frame);
            }
            count += 1;
        }
        self.statistics.received += count as u64;
        Ok(count)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let mut count = 0;
        let mut result = Ok(());
        for (frame, meta) in from.as_slice() {
            match self.write(frame, meta) {
                Ok(()) => self.statistics.transmitted += 1,
                Err(Errno::AGAIN | Errno::NOBUFS) => break,
                // The kernel's end is down.
                Err(Errno::IO) => self.statistics.lost_transmit += 1,
                Err(Errno::INVAL | Errno::MSGSIZE) => self.statistics.malformed += 1,
                Err(errno) => {
                    result = Err(PortError { operation: "writing to the TAP device", source: errno.into() });
                    break;
                }
            }
            count += 1;
        }
        for (frame, _) in from.drain(count) {
            self.pool.release(frame);
        }
        result.map(|()| count)
    }

    fn flush(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn statistics(&self) -> PortStatistics {
        self.statistics
    }
}
