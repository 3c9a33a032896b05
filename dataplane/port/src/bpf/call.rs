//! `bpf(2)` itself. Each function is safe to call: the kernel gets pointers to slices that live through the call, with
//! their lengths or lengths that the map was made with.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytemuck::{Pod, Zeroable};

/// Requests of `bpf(2)`.
mod command {
    pub(super) const MAP_CREATE: i32 = 0;
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const MAP_DELETE: i32 = 3;
    pub(super) const PROG_LOAD: i32 = 5;
    #[cfg(test)]
    pub(super) const PROG_TEST_RUN: i32 = 10;
    pub(super) const MAP_UPDATE_BATCH: i32 = 26;
    pub(super) const LINK_CREATE: i32 = 28;
}

/// Makes a request.
///
/// # Safety
///
/// Pointers in `attributes` must be valid for what the request reads and writes there.
unsafe fn bpf<T: Pod>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: pointer and length describe `attributes`, of which any bytes are valid; what these point at is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, as all of BPF's), and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

/// At most 15 bytes of a name, for `bpftool`.
fn name16(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
}

pub(super) fn create_map(
    kind: u32,
    flags: u32,
    name: &str,
    key_bytes: usize,
    value_bytes: usize,
    entries: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind,
        key_bytes: key_bytes as u32,
        value_bytes: value_bytes as u32,
        entries: entries.max(1),
        flags,
        name: name16(name),
        ..Zeroable::zeroed()
    };
    // SAFETY: this request has no pointers.
    unsafe { bpf(command::MAP_CREATE, &mut attributes) }.map(own)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `key` and `value` must be of the sizes that the map was made with; [`super::Map`] sees to that by its types.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        key: address(key),
        value: address(value),
        ..Zeroable::zeroed()
    };
    // SAFETY: both slices have the map's sizes, and the kernel only reads them.
    unsafe { bpf(command::MAP_UPDATE, &mut attributes) }.map(drop)
}

pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attributes = Element { map: map.as_raw_fd() as u32, key: address(key), ..Zeroable::zeroed() };
    // SAFETY: the slice has the size of the map's keys, and the kernel only reads it.
    unsafe { bpf(command::MAP_DELETE, &mut attributes) }.map(drop)
}

/// The sum of entry `index` of an array of 64-bit numbers that each processor has for itself.
pub(super) fn sum_over_processors(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    /// No kernel is built for more (`NR_CPUS`).
    const PROCESSORS: usize = 8_192;
    let key = [index];
    let mut values = vec![0u64; PROCESSORS];
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        key: address(&key),
        value: values.as_mut_ptr() as u64,
        ..Zeroable::zeroed()
    };
    // SAFETY: the key has four bytes; the kernel writes eight for each processor that may exist, and there is room for the
    // largest number of those.
    unsafe { bpf(command::MAP_LOOKUP, &mut attributes) }?;
    Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Batch {
    input: u64,
    output: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// As [`update`] for `count` entries that lie behind each other.
pub(super) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
    let mut attributes = Batch {
        keys: address(keys),
        values: address(values),
        count: count as u32,
        map: map.as_raw_fd() as u32,
        ..Zeroable::zeroed()
    };
    // SAFETY: the slices hold `count` keys and values of the map's sizes, and the kernel only reads them.
    unsafe { bpf(command::MAP_UPDATE_BATCH, &mut attributes) }.map(drop)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a program. An error of the verifier ends with its last words.
pub(super) fn load(kind: u32, code: &[u8]) -> io::Result<OwnedFd> {
    /// Some helper functions of the kernel are for programs under its own licence only.
    const LICENSE: &[u8] = b"Dual MIT/GPL\0";
    let mut attributes = ProgramLoad {
        kind,
        instructions: (code.len() / 8) as u32,
        code: address(code),
        license: address(LICENSE),
        name: name16("hedgerow"),
        ..Zeroable::zeroed()
    };
    // SAFETY: code and licence live through the call, the former has the length that is given and the latter ends with
    // zero; there is no log.
    let source = match unsafe { bpf(command::PROG_LOAD, &mut attributes) } {
        Ok(fd) => return Ok(own(fd)),
        Err(source) => source,
    };
    if !matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EACCES | libc::E2BIG)) {
        return Err(source);
    }
    let mut log = vec![0u8; 1 << 20];
    attributes.log_level = 1;
    attributes.log_bytes = log.len() as u32;
    attributes.log = log.as_mut_ptr() as u64;
    // SAFETY: as above, and the log has the length that is given.
    let again = unsafe { bpf(command::PROG_LOAD, &mut attributes) };
    match again {
        Ok(fd) => Ok(own(fd)),
        Err(_) => Err(io::Error::new(source.kind(), format!("{source} ({})", last_words(&log)))),
    }
}

/// The end of a verifier's log, on one line.
fn last_words(log: &[u8]) -> String {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    let lines: Vec<&str> =
        text.lines().rev().filter(|line| !line.starts_with("processed ")).take(3).collect();
    if lines.is_empty() {
        "the verifier said nothing".into()
    } else {
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinkCreate {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

pub(super) fn link_xdp(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    /// `BPF_XDP`.
    const XDP: u32 = 37;
    let mut attributes =
        LinkCreate { program: program.as_raw_fd() as u32, target: interface, kind: XDP, flags };
    // SAFETY: this request has no pointers.
    unsafe { bpf(command::LINK_CREATE, &mut attributes) }.map(own)
}

#[cfg(test)]
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TestRun {
    program: u32,
    verdict: u32,
    input_bytes: u32,
    output_bytes: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a program once on `frame`; gives its verdict and the length of what it made of the frame, in `space`.
#[cfg(test)]
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8], space: &mut [u8]) -> io::Result<(u32, usize)> {
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        input_bytes: frame.len() as u32,
        output_bytes: space.len() as u32,
        input: address(frame),
        output: space.as_mut_ptr() as u64,
        repeat: 1,
        ..Zeroable::zeroed()
    };
    // SAFETY: the kernel reads `frame` and writes `space`, both of the lengths that are given.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attributes) }?;
    Ok((attributes.verdict, attributes.output_bytes as usize))
}
