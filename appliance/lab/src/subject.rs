//! The device under test, as a world sees it: two memory ports, a clock that is not its own, and a sample of its
//! counters.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::link::LinkConfig;
use hedgerow_dataplane::shard::Statistics;
use hedgerow_port::Memory;
use rustls::crypto::CryptoProvider;

/// A device between the outside and the nodes.
pub trait Subject {
    /// Takes what waits at its ports, does everything that is to be done by `now`, and sends. Called whenever frames
    /// wait and whenever [`Subject::deadline`] has come; work that a real device would give to other threads is done
    /// here.
    fn step(&mut self, now: Instant);

    /// When it wants to be called next even if no frame arrives.
    fn deadline(&self) -> Option<Instant>;

    /// Its counters.
    fn sample(&self) -> Sample;
}

/// Makes the device for a [`Site`]; an error in words ends the run.
pub type Factory<'a> = &'a mut dyn FnMut(Site) -> Result<Box<dyn Subject>, String>;

/// Where a device is put: everything that it has to be configured with.
pub struct Site {
    /// Towards the Internet.
    pub public: Memory,
    /// Towards the nodes.
    pub private: Memory,
    /// Address, gateway, MAC and MTU on the public side; addresses are in use at once.
    pub public_link: LinkConfig,
    /// The same on the private side.
    pub private_link: LinkConfig,
    /// Where peers connect to: one listener.
    pub service: SocketAddr,
    /// The nodes of its pool.
    pub nodes: Vec<SocketAddr>,
    /// The Chia network that nodes and good peers belong to.
    pub network: String,
    /// TLS whose randomness follows from the seed.
    pub crypto: Arc<CryptoProvider>,
    /// The time of day when the virtual clock says zero, since 1970-01-01 UTC.
    pub unix: Duration,
    /// The device's own randomness.
    pub seed: u64,
}

/// A device's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Those of its dataplane.
    pub dataplane: Statistics,
    /// The flows of peers who have proved nothing but their address: whose, and how much buffer memory each holds.
    pub strangers: Vec<(IpAddr, usize)>,
    /// Sessions refused or ended after proof, by the name of the reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// Sessions that are open.
    pub sessions: usize,
    /// Messages that passed, both ways.
    pub messages_forwarded: u64,
}
