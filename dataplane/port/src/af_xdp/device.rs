//! What the queues of one device share: its program, the maps, and the link that ends with them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hedgerow_dataplane::frame::Lane;

use super::answers::Answers;
use super::{AfXdpConfig, Attach, PROGRAM};
use crate::bpf::{Kind, Map, Object, Program, Purpose};
use crate::error::{OpenError, Problem};
use crate::ethtool::{self, Facts};
use crate::lanes::Lanes;
use crate::syscall::Interface;

/// Where programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// In the driver, before the kernel takes memory for a frame.
    Driver,
    /// Behind the driver: any device, at a higher price.
    Generic,
}

/// A device with our program on it.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) interface: u32,
    pub(crate) facts: Facts,
    pub(crate) hook: Hook,
    pub(crate) lanes: Lanes,
    pub(super) answers: Answers,
    sockets: Map<u32, u32>,
    /// A socket to ask the driver through.
    asking: OwnedFd,
    /// What the device had lost before.
    lost_at_start: u64,
    /// Holds the program on the device; the kernel takes it off when this is closed, however that happens.
    _link: OwnedFd,
}

const VETH: &str = "veth";

pub(crate) const CAPABILITIES: &str = "CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF";

impl Device {
    /// Loads the program and attaches it to the device. Frames that are ours are dropped until sockets are there.
    pub(crate) fn open(
        config: &AfXdpConfig,
        asking: OwnedFd,
        facts: Facts,
        interface: &Interface,
    ) -> Result<Self, OpenError> {
        let name = config.device.as_str();
        let fail =
            |operation| move |source: io::Error| Problem::system(operation, CAPABILITIES, source).of(name);
        let index = rustix::net::netdevice::name_to_index(&asking, name)
            .map_err(|errno| fail("asking for the device")(errno.into()))?;
        let lanes = Lanes::new(interface.mac, config.vlan, &config.ours, config.limits, facts.queues)
            .map_err(fail("the maps of the XDP program"))?;
        let sockets =
            Map::new(Kind::Sockets, "sockets", facts.queues * 2).map_err(fail("the map of sockets"))?;
        let object = Object::parse(PROGRAM).map_err(fail("reading the XDP program"))?;
        let answers = Answers::new(facts.queues, facts.driver == VETH && config.attach != Attach::Generic)
            .map_err(fail("the maps of the XDP program"))?;
        let maps: Vec<_> =
            (lanes.maps().into_iter()).chain(answers.maps()).chain([("sockets", sockets.as_fd())]).collect();
        let program =
            Program::load(&object, "xdp", Purpose::Xdp, &maps).map_err(fail("loading the XDP program"))?;
        let lost_at_start = ethtool::lost(name);
        let (hook, link) =
            attach(&program, index, config.attach).map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Problem::ProgramAttached.of(name),
                _ => fail("attaching the XDP program")(source),
            })?;
        Ok(Device {
            name: name.into(),
            interface: index,
            facts,
            hook,
            lanes,
            answers,
            sockets,
            asking,
            lost_at_start,
            _link: link,
        })
    }

    /// Sends the frames of a lane of a queue to a socket.
    pub(crate) fn connect(&self, queue: u32, lane: Lane, socket: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let lane = if lane == Lane::Known { 0 } else { 1 };
        self.sockets.set(&(queue * 2 + lane), &(socket.as_raw_fd() as u32))
    }

    /// Whether answers of the program go to the far end of a veth, which takes them only if it is ready for frames from XDP.
    pub(super) fn is_veth(&self) -> bool {
        self.hook == Hook::Driver && self.facts.driver == VETH
    }

    /// Answers that the far end of a veth took.
    pub(super) fn taken_by_far_end(&self) -> u64 {
        ethtool::taken_by_far_end(self.asking.as_fd(), &self.name).unwrap_or(0)
    }

    /// Frames that the device lost since the program is there, before or at the hook.
    pub(crate) fn lost(&self) -> u64 {
        ethtool::lost(&self.name).saturating_sub(self.lost_at_start)
    }
}

/// Attaches to the driver where it can, unless told otherwise.
fn attach(program: &Program, interface: u32, wanted: Attach) -> io::Result<(Hook, OwnedFd)> {
    let driver = || program.attach(interface, true).map(|link| (Hook::Driver, link));
    let generic = || program.attach(interface, false).map(|link| (Hook::Generic, link));
    match wanted {
        Attach::Driver => driver(),
        Attach::Generic => generic(),
        Attach::Auto => driver().or_else(|error| match error.raw_os_error() {
            // Another program is there; behind the driver it would be in the way as well.
            Some(libc::EBUSY | libc::EEXIST | libc::EPERM) => Err(error),
            _ => generic(),
        }),
    }
}
