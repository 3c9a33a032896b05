//! BPF maps, programs and links of the kernel: the few requests of `bpf(2)` that lanes need.
//!
//! Own code rather than a library, because it is the smaller of the two: no library at hand offers batched updates and test
//! runs, both of which are needed, and one that loads any program brings relocation against the kernel's types along,
//! which ours do without. Everything here ends with its descriptor, hence with the process.

mod call;
mod object;

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytemuck::{NoUninit, Pod};

pub(crate) use object::Object;

/// What a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any keys.
    Hash,
    /// Keys are numbers from 0.
    Array,
    /// Longest prefix match; keys begin with a length in bits.
    Trie,
    /// Sockets of AF_XDP, by number.
    Sockets,
}

impl Kind {
    fn number_and_flags(self) -> (u32, u32) {
        /// `BPF_F_NO_PREALLOC`, which tries demand.
        const ON_DEMAND: u32 = 1;
        match self {
            Kind::Hash => (1, 0),
            Kind::Array => (2, 0),
            Kind::Trie => (11, ON_DEMAND),
            Kind::Sockets => (17, 0),
        }
    }
}

/// A map from `K` to `V`.
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    kind: PhantomData<fn(K) -> V>,
}

impl<K: NoUninit, V: Pod> Map<K, V> {
    /// A new map with room for `entries`.
    pub(crate) fn new(kind: Kind, name: &str, entries: u32) -> io::Result<Self> {
        let (kind, flags) = kind.number_and_flags();
        let fd = call::create_map(kind, flags, name, size_of::<K>(), size_of::<V>(), entries)?;
        Ok(Map { fd, kind: PhantomData })
    }

    /// Sets one entry.
    pub(crate) fn set(&self, key: &K, value: &V) -> io::Result<()> {
        call::update(self.fd.as_fd(), bytemuck::bytes_of(key), bytemuck::bytes_of(value))
    }

    /// Sets as many entries as there are keys and values, in one call where the kernel can.
    pub(crate) fn set_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        let count = keys.len().min(values.len());
        let (keys, values) = (&keys[..count], &values[..count]);
        match call::update_batch(
            self.fd.as_fd(),
            bytemuck::cast_slice(keys),
            bytemuck::cast_slice(values),
            count,
        ) {
            Ok(()) => Ok(()),
            Err(_) => keys.iter().zip(values).try_for_each(|(key, value)| self.set(key, value)),
        }
    }

    /// Removes an entry; one that is not there is no error.
    pub(crate) fn remove(&self, key: &K) -> io::Result<()> {
        match call::delete(self.fd.as_fd(), bytemuck::bytes_of(key)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An array of numbers that each processor counts for itself.
pub(crate) struct Counts {
    fd: OwnedFd,
    entries: u32,
}

impl Counts {
    /// `entries` numbers, all zero.
    pub(crate) fn new(name: &str, entries: u32) -> io::Result<Self> {
        const PER_PROCESSOR_ARRAY: u32 = 6;
        let fd = call::create_map(PER_PROCESSOR_ARRAY, 0, name, size_of::<u32>(), size_of::<u64>(), entries)?;
        Ok(Counts { fd, entries })
    }

    /// The sum of one number over all processors; zero where there is no such number.
    pub(crate) fn sum(&self, index: u32) -> u64 {
        match index < self.entries {
            true => call::sum_over_processors(self.fd.as_fd(), index).unwrap_or(0),
            false => 0,
        }
    }
}

impl AsFd for Counts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Chooses frames for a socket.
    SocketFilter,
    /// Judges the frames of a device.
    Xdp,
}

/// A program that the kernel has verified.
pub(crate) struct Program(OwnedFd);

impl Program {
    /// Loads a section of an object, with the maps that it names.
    pub(crate) fn load(
        object: &Object<'_>,
        section: &str,
        purpose: Purpose,
        maps: &[(&str, BorrowedFd<'_>)],
    ) -> io::Result<Self> {
        let code = object.code(section, maps)?;
        let kind = if purpose == Purpose::Xdp { 6 } else { 1 };
        call::load(kind, &code).map(Program)
    }

    /// Attaches the program to a device, until the link is dropped. Fails with `EBUSY` or `EEXIST` where another program is
    /// attached.
    pub(crate) fn attach(&self, interface: u32, native: bool) -> io::Result<OwnedFd> {
        /// `XDP_FLAGS_SKB_MODE`.
        const GENERIC: u32 = 1 << 1;
        /// `XDP_FLAGS_DRV_MODE`.
        const NATIVE: u32 = 1 << 2;
        call::link_xdp(self.0.as_fd(), interface, if native { NATIVE } else { GENERIC })
    }

    /// Runs the program on `frame`, which it may change; the verdict, and the length of the frame in `space` afterwards.
    #[cfg(test)]
    pub(crate) fn run(&self, frame: &[u8], space: &mut [u8]) -> io::Result<(u32, usize)> {
        call::test_run(self.0.as_fd(), frame, space)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
