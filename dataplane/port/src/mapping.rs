//! Memory from `mmap`: shared with the kernel, or of our own in whole pages.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping with one owner, unmapped when dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is process-wide memory with one owner; nothing about it belongs to the thread that made it.
unsafe impl Send for Mapping {}

const ACCESS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Mapping {
    /// `len` bytes that the kernel offers at `offset` of a socket.
    pub(crate) fn of(socket: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ACCESS, MapFlags::SHARED, socket, offset)? };
        Mapping::owned(start, len)
    }

    /// `len` zero bytes of our own, taken from the kernel at once.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: as in `of`.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ACCESS, flags)? };
        Mapping::owned(start, len)
    }

    fn owned(start: *mut std::ffi::c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    /// The first byte. Good for [`Mapping::len`] bytes as long as this lives.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `mmap` returned, it is unmapped once, and whatever points into it was borrowed
        // from the owner of this mapping. Failure would only leave it mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
