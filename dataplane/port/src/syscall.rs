//! System calls that the safe libraries do not offer: packet sockets, their options, interface and TUN requests.
//!
//! Each function is safe to call: it takes slices and plain values, and vouches for what the kernel does with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use bytemuck::{NoUninit, Pod, Zeroable};
use hedgerow_dataplane::wire::Mac;
use rustix::event::epoll;

/// Sets a socket option.
pub(crate) fn set_option<T: NoUninit>(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which has no uninitialised bytes; the kernel only reads it, and only
    // during the call.
    let result = unsafe {
        let length = size_of::<T>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    check(result as isize).map(drop)
}

/// Reads a socket option; what the kernel leaves unwritten stays zero.
pub(crate) fn option<T: Pod>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    let mut value = T::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, of which any bytes are valid; the kernel writes at most `length` bytes
    // and only during the call.
    let result = unsafe {
        let into = std::ptr::from_mut(&mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, into, &mut length)
    };
    check(result as isize).map(|_| value)
}

/// Binds a packet socket to an interface and makes it receive a protocol (`ETH_P_...`); 0 is none.
pub(crate) fn bind_packet(socket: BorrowedFd<'_>, interface: u32, protocol: i32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` consists of integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = interface as i32;
    // SAFETY: pointer and length describe `address`, which the kernel only reads during the call.
    let result = unsafe {
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)
    };
    check(result as isize).map(drop)
}

/// Makes a bound packet socket a member of a fanout group that distributes by hash: of `group`, or of a new one. Returns the
/// group, for further members.
pub(crate) fn join_fanout(socket: BorrowedFd<'_>, group: Option<u32>) -> io::Result<u32> {
    /// `PACKET_FANOUT` of `linux/if_packet.h`; the upper half of its value is a mode with flags.
    const PACKET_FANOUT: i32 = 18;
    /// `PACKET_FANOUT_HASH`.
    const HASH: u32 = 0;
    /// `PACKET_FANOUT_FLAG_UNIQUEID`: the kernel finds a free number for the group.
    const UNIQUE_ID: u32 = 0x2000;
    /// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING`: the group does not take over `PACKET_IGNORE_OUTGOING` from its members.
    const IGNORE_OUTGOING: u32 = 0x4000;
    let new = (HASH | UNIQUE_ID | IGNORE_OUTGOING) << 16;
    set_option(socket, libc::SOL_PACKET, PACKET_FANOUT, &group.unwrap_or(new))?;
    option(socket, libc::SOL_PACKET, PACKET_FANOUT)
}

/// An instruction of a classic BPF filter (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
pub(crate) struct Filter {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

impl Filter {
    const fn new(code: u32, value: u32, if_true: u8, if_false: u8) -> Self {
        Filter { code: code as u16, if_true, if_false, value }
    }

    pub(crate) const fn load_half(at: u32) -> Self {
        Filter::new(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at, 0, 0)
    }

    pub(crate) const fn load_byte(at: u32) -> Self {
        Filter::new(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at, 0, 0)
    }

    /// Skips `if_true` or `if_false` instructions, as for all jumps.
    pub(crate) const fn jump_if_equal(value: u32, if_true: u8, if_false: u8) -> Self {
        Filter::new(libc::BPF_JMP | libc::BPF_JEQ, value, if_true, if_false)
    }

    pub(crate) const fn jump_if_at_least(value: u32, if_true: u8, if_false: u8) -> Self {
        Filter::new(libc::BPF_JMP | libc::BPF_JGE, value, if_true, if_false)
    }

    pub(crate) const fn jump_if_above(value: u32, if_true: u8, if_false: u8) -> Self {
        Filter::new(libc::BPF_JMP | libc::BPF_JGT, value, if_true, if_false)
    }

    /// Keeps so many bytes of the frame; zero: drops it.
    pub(crate) const fn give(bytes: u32) -> Self {
        Filter::new(libc::BPF_RET, bytes, 0, 0)
    }
}

/// Puts a filter on a socket.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, filter: &[Filter]) -> io::Result<()> {
    // `Filter` has the layout of `sock_filter`; the kernel only reads.
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: pointer and length describe `program`, which points at as many instructions as it says; the kernel reads both
    // during the call.
    let result = unsafe {
        let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
        let value = std::ptr::from_ref(&program).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, length)
    };
    check(result as isize).map(drop)
}

/// Puts a loaded BPF program on a socket as its filter.
pub(crate) fn attach_program(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd())
}

/// One descriptor that is readable when any of `sockets` is.
pub(crate) fn any_of<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<OwnedFd> {
    let waker = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, socket) in (0..).zip(sockets) {
        epoll::add(&waker, socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
    }
    Ok(waker)
}

/// `struct ifreq`: a name, and a union of which the largest member has 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: [u8; 24],
}

impl InterfaceRequest {
    /// Fails for a name that no interface can have.
    fn new(name: &str) -> io::Result<Self> {
        let mut request = InterfaceRequest::zeroed();
        // One byte remains for the terminating zero.
        if name.is_empty()
            || name.len() >= request.name.len()
            || name.bytes().any(|byte| byte == 0 || byte == b'/')
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn call(&mut self, fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: only requests that read and write one `struct ifreq` are passed in (see the callers below), and those that
        // follow a pointer in it to memory that `ethtool` or `Listing` has made large enough; `self` has its size, any bytes are valid in it, and the kernel uses it only during the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(self)) };
        check(result as isize).map(drop)
    }
}

/// What the kernel says about an interface.
pub(crate) struct Interface {
    pub(crate) mac: Mac,
    /// ARP's number for the kind of link; 1 is Ethernet.
    pub(crate) kind: u16,
    pub(crate) mtu: u32,
}

/// Asks for an interface of the calling thread's network namespace, through any socket.
pub(crate) fn interface(socket: BorrowedFd<'_>, name: &str) -> io::Result<Interface> {
    let mut request = InterfaceRequest::new(name)?;
    request.call(socket, libc::SIOCGIFHWADDR as _)?;
    // A `struct sockaddr`: family, then the address.
    let [k0, k1, a, b, c, d, e, f, ..] = request.data;
    let mut sized = InterfaceRequest::new(name)?;
    sized.call(socket, libc::SIOCGIFMTU as _)?;
    let [m0, m1, m2, m3, ..] = sized.data;
    Ok(Interface {
        mac: Mac([a, b, c, d, e, f]),
        kind: u16::from_ne_bytes([k0, k1]),
        mtu: u32::from_ne_bytes([m0, m1, m2, m3]),
    })
}

/// Asks a device's driver something (`ethtool_ioctl`); `question` begins with the number of a request whose structure is
/// of fixed length, and becomes the answer.
pub(crate) fn ethtool<T: Pod>(socket: BorrowedFd<'_>, name: &str, question: &mut T) -> io::Result<()> {
    /// `SIOCETHTOOL`.
    const ETHTOOL: libc::c_ulong = 0x8946;
    // More than any structure of fixed length has, so that the kernel stays within whatever `T` is.
    let mut space = [0u64; 128];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut space);
    bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(question));
    let mut request = InterfaceRequest::new(name)?;
    request.data[..8].copy_from_slice(&(bytes.as_mut_ptr() as u64).to_ne_bytes());
    request.call(socket, ETHTOOL)?;
    bytemuck::bytes_of_mut(question).copy_from_slice(&bytes[..size_of::<T>()]);
    Ok(())
}

/// As [`ethtool`] for the requests whose answer grows with the device: names and values of its statistics. `question` has
/// room for more of them than any device has.
pub(crate) fn ethtool_list(socket: BorrowedFd<'_>, name: &str, question: &mut Listing) -> io::Result<()> {
    /// `SIOCETHTOOL`.
    const ETHTOOL: libc::c_ulong = 0x8946;
    let mut request = InterfaceRequest::new(name)?;
    request.data[..8].copy_from_slice(&(question.0.as_mut_ptr() as u64).to_ne_bytes());
    request.call(socket, ETHTOOL)
}

/// Room for the names of statistics, 32 bytes each: more than the kernel's drivers have of them.
pub(crate) struct Listing(Vec<u64>);

impl Listing {
    const WORDS: usize = 4 * 32_768;

    /// Room behind the words of a request.
    pub(crate) fn new(request: &[u32]) -> Self {
        let mut words = vec![0u64; Self::WORDS];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        bytes[..request.len() * 4].copy_from_slice(bytemuck::cast_slice(request));
        Listing(words)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Milliseconds of the monotonic clock, which is the one that BPF programs read too.
pub(crate) fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` at the pointer. (The safe one of `rustix` does not survive valgrind.)
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// Whether an interface is administratively up.
pub(crate) fn interface_is_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut request = InterfaceRequest::new(name)?;
    request.call(socket, libc::SIOCGIFFLAGS as _)?;
    let [low, high, ..] = request.data;
    Ok(i32::from(u16::from_ne_bytes([low, high])) & libc::IFF_UP != 0)
}

/// Attaches an open `/dev/net/tun` to the TAP device `name`, creating it if need be, with `flags` beside `IFF_TAP`.
/// Returns the name that the kernel gave.
pub(crate) fn attach_tap(tun: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<String> {
    let mut request = InterfaceRequest::new(name)?;
    request.data[..2].copy_from_slice(&((libc::IFF_TAP | flags) as u16).to_ne_bytes());
    request.call(tun, libc::TUNSETIFF as _)?;
    let end = request.name.iter().position(|&byte| byte == 0).unwrap_or(request.name.len());
    Ok(String::from_utf8_lossy(&request.name[..end]).into_owned())
}

/// Sets the size of the virtio header on a TAP device.
pub(crate) fn set_tap_header(tun: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let size = bytes as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one `int` at the pointer, during the call.
    let result =
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, std::ptr::from_ref(&size)) };
    check(result as isize).map(drop)
}

/// Says which offloads the reader of a TAP device understands.
pub(crate) fn set_tap_offloads(tun: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result =
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)) };
    check(result as isize).map(drop)
}

/// A message that was read with its auxiliary data.
pub(crate) struct Received {
    /// Bytes of the message, those that did not fit included.
    pub(crate) len: usize,
    /// Status bits and 802.1Q tag, where the kernel gave them.
    pub(crate) auxiliary: Auxiliary,
}

/// `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Auxiliary {
    pub(crate) status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    pub(crate) vlan_tci: u16,
    pub(crate) vlan_tpid: u16,
}

/// Room for one control message with an [`Auxiliary`], aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Reads one message from a packet socket without waiting.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
    let mut control = Control([0; 64]);
    // SAFETY: `msghdr` consists of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    // `IoSliceMut` is guaranteed to have the layout of `iovec`.
    message.msg_iov = into.as_mut_ptr().cast();
    message.msg_iovlen = into.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points at `into` and `control` with their lengths; both are borrowed mutably here and the
    // kernel uses them only during the call.
    let result =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
    let len = check(result)?;
    Ok(Received { len, auxiliary: auxiliary(&message) })
}

/// Finds the auxiliary data of a message that `recvmsg` has filled in.
fn auxiliary(message: &libc::msghdr) -> Auxiliary {
    // SAFETY: the kernel has set `msg_controllen` to what it wrote at `msg_control`; the macros stay within that. The
    // data are copied out unaligned and only where the header says that all of them are there.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(message);
        while !next.is_null() {
            let wanted = libc::CMSG_LEN(size_of::<Auxiliary>() as u32) as usize;
            let is_auxiliary =
                (*next).cmsg_level == libc::SOL_PACKET && (*next).cmsg_type == libc::PACKET_AUXDATA;
            if is_auxiliary && (*next).cmsg_len as usize >= wanted {
                return libc::CMSG_DATA(next).cast::<Auxiliary>().read_unaligned();
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
    Auxiliary::default()
}

/// Pieces of one message: virtio header, Ethernet addresses, tag, the rest.
pub(crate) const PIECES: usize = 4;

/// Messages for one `sendmmsg`, reused from call to call.
pub(crate) struct Messages {
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: between calls `headers` is empty (`send` clears it on each way out), so no pointer in it is ever followed on
// another thread.
unsafe impl Send for Messages {}

impl Messages {
    pub(crate) fn new(capacity: usize) -> Self {
        Messages { headers: Vec::with_capacity(capacity) }
    }

    /// Sends a prefix of `messages` without waiting; says how many were taken. An error is that of the first.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: &[[IoSlice<'_>; PIECES]],
    ) -> io::Result<usize> {
        self.headers.extend(messages.iter().map(|pieces| {
            // SAFETY: `mmsghdr` consists of integers and pointers, for which zero is a value.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            // `IoSlice` is guaranteed to have the layout of `iovec`; sending does not write through the pointer.
            header.msg_hdr.msg_iov = pieces.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_iovlen = PIECES as _;
            header
        }));
        // SAFETY: each header points at pieces, and these at bytes, that `messages` keeps borrowed until the call is
        // over; `headers` holds as many as are passed.
        let result = unsafe {
            let count = self.headers.len() as u32;
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT)
        };
        self.headers.clear();
        check(result as isize)
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Hints the processor that the first bytes of `bytes` will be read soon.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch does not access memory in the sense of the language and faults on no address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
