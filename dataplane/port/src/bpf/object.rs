//! Reads compiled programs: a section of instructions, in which each reference to a map becomes its descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

/// An object file of clang's BPF target.
pub(crate) struct Object<'a>(ElfFile<'a, FileHeader64<Endianness>>);

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
/// The first half of an instruction that loads 64 bits.
const LOAD_64: u8 = 0x18;
/// Says, as its source register, that the 64 bits are a map's descriptor.
const BY_DESCRIPTOR: u8 = 1 << 4;

impl<'a> Object<'a> {
    /// `bytes` as an object file.
    pub(crate) fn parse(bytes: &'a [u8]) -> io::Result<Self> {
        ElfFile::parse(bytes).map(Object).map_err(io::Error::other)
    }

    /// The instructions of a section. `maps` names every map that they refer to.
    pub(crate) fn code(&self, section: &str, maps: &[(&str, BorrowedFd<'_>)]) -> io::Result<Vec<u8>> {
        let found = self.0.section_by_name(section).ok_or_else(|| bad(section, "is missing"))?;
        let mut code = found.data().map_err(io::Error::other)?.to_vec();
        for (offset, relocation) in found.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                return Err(bad(section, "refers to something without a name"));
            };
            let symbol = self.0.symbol_by_index(index).map_err(io::Error::other)?;
            let name = symbol.name().map_err(io::Error::other)?;
            let (_, map) = maps
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| bad(section, &format!("refers to {name:?}, which is no map")))?;
            patch(&mut code, offset, map.as_raw_fd())
                .ok_or_else(|| bad(section, "has a strange reference"))?;
        }
        Ok(code)
    }
}

fn patch(code: &mut [u8], offset: u64, fd: i32) -> Option<()> {
    let at = usize::try_from(offset).ok()?;
    let [opcode, registers, _, _, value @ ..] = code.get_mut(at..)?.first_chunk_mut::<INSTRUCTION>()?;
    if *opcode != LOAD_64 {
        return None;
    }
    *registers |= BY_DESCRIPTOR;
    *value = fd.to_ne_bytes();
    Some(())
}

fn bad(section: &str, what: &str) -> io::Error {
    io::Error::other(format!("section {section:?} of the BPF object {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn references_to_maps_become_descriptors() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        let object = Object::parse(crate::af_xdp::PROGRAM).expect("an object");
        let names = crate::lanes::MAPS.iter().chain(&["sockets", "plans", "caps", "listeners"]);
        let maps: Vec<_> = names.map(|name| (*name, file.as_fd())).collect();
        let code = object.code("xdp", &maps).expect("code");
        let fd = file.as_raw_fd().to_ne_bytes();
        let references = code
            .chunks(8)
            .filter(|i| i[0] == LOAD_64 && i[1] & 0xf0 == BY_DESCRIPTOR && i[4..8] == fd)
            .count();
        assert!(references > 5, "{references}");
        let error = object.code("xdp", &[]).expect_err("no maps");
        assert!(error.to_string().contains("\"settings\", which is no map"), "{error}");
        assert!(object.code("xdq", &maps).is_err());
        assert!(Object::parse(b"no object").is_err());
    }
}
