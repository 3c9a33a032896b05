//! The whole world: good peers, a node, and everything that a public address attracts, around the device.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::wire::Mac;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::mint::{self, Shape};
use hedgerow_policy::tls::{Clock, Credential, SetupError};

use crate::crypto;
use crate::floods::{AckFlood, Malformed, Schedule, Silent, SynFlood};
use crate::host::{Host, Place, socket};
use crate::line::{self, Common};
use crate::network::{Path, Side, World};
use crate::node::Node;
use crate::random::Random;
use crate::site::{self, Ground, UNIX};
use crate::story::{Mark, Story};
use crate::subject::{Factory, Subject};
use crate::summary::{Options, Summary};
use crate::visitor::{GoodPeer, Note, Rude, Rudeness};

/// Port of the service and of the node.
const PORT: u16 = 8444;
/// Time after the last planned event in which whoever is inside may finish.
const GRACE: Duration = Duration::from_secs(8);
/// Virtual time between two looks at the notes.
const SLICE: Duration = Duration::from_millis(50);
/// Slices between two lines of figures, where they are not rewritten in place.
const FIGURES_EVERY: u64 = 20;

/// Why a run could not take place.
#[derive(Debug)]
pub enum Error {
    /// Certificates could not be made.
    Setup(String),
    /// The device could not be made.
    Device(String),
    /// The story could not be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setup(why) => write!(f, "the lab's certificates: {why}"),
            Error::Device(why) => write!(f, "the device under test: {why}"),
            Error::Output(why) => write!(f, "writing the story: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        Error::Setup(error.to_string())
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Error::Setup(error.to_string())
    }
}

/// Runs the world around the device that `factory` makes, telling `out` about it. With [`Options::json`] only the summary is
/// written, as one JSON object in one line.
///
/// # Errors
/// If the device or the world cannot be made, or `out` cannot be written to.
pub fn run(options: &Options, factory: Factory<'_>, out: &mut dyn Write) -> Result<Summary, Error> {
    let summary = {
        let mut run = Run::new(*options, factory, Story::new(options, out))?;
        run.go()?;
        run.finish()?
    };
    if options.json {
        let text = serde_json::to_string(&summary).map_err(|error| Error::Output(error.into()))?;
        writeln!(out, "{text}").map_err(Error::Output)?;
    }
    Ok(summary)
}

/// Something that is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    Peer(u32),
    Rude(Rudeness),
    Tell(&'static str),
}

struct Run<'a> {
    options: Options,
    story: Story<'a>,
    world: World<Note>,
    device: Box<dyn Subject>,
    ground: Ground,
    common: Common,
    /// For peers whose hello is larger than a segment.
    quantum: Common,
    authority: Authority,
    network: String,
    random: Random,
    plan: Vec<(Instant, Planned)>,
    peers: BTreeMap<u32, IpAddr>,
    latencies: Vec<Duration>,
    summary: Summary,
    entered: u32,
    stranger_bytes: usize,
    unfinished_bytes: usize,
    began: std::time::Instant,
}

impl<'a> Run<'a> {
    fn new(options: Options, factory: Factory<'_>, story: Story<'a>) -> Result<Self, Error> {
        let mut random = Random::new(options.seed);
        let ground = Ground::v4(PORT);
        let common = Common { crypto: crypto::provider(random.next()), clock: Clock::at(UNIX) };
        let quantum = Common { crypto: crypto::quantum(&common.crypto), ..common.clone() };
        let (site, outside, inside) = site::lay_out(&ground, common.crypto.clone(), random.next());
        let (mac, network) = (site.public_link.mac, site.network.clone());
        let device = factory(site).map_err(Error::Device)?;
        let authority = Authority::chia()?;
        let mut world = World::new(outside, inside, mac, random.next());
        let node = mint::peer(&authority, NODE_KEY)?;
        let config = line::server_config(&common, node)?;
        let node = Node::new(PORT, &network, config, random.branch("node"));
        let near = Path::clean(Duration::from_micros(150));
        world.add(Side::Private, ground.node_host(random.next()), Box::new(node), near);
        let mut run = Run {
            options,
            story,
            world,
            device,
            ground,
            common,
            quantum,
            authority,
            network,
            random,
            plan: Vec::new(),
            peers: BTreeMap::new(),
            latencies: Vec::new(),
            summary: Summary { seconds: options.seconds, seed: options.seed, ..Summary::default() },
            entered: 0,
            stranger_bytes: 0,
            unfinished_bytes: 0,
            began: std::time::Instant::now(),
        };
        run.make_plan();
        Ok(run)
    }

    /// A moment, as a share of the run in thousandths.
    fn at(&self, thousandths: u64) -> Instant {
        Instant::from_millis(self.options.seconds * thousandths)
    }

    fn make_plan(&mut self) {
        let mut at = Instant::from_millis(50);
        let mut number = 1;
        while at < self.at(900) {
            self.plan.push((at, Planned::Peer(number)));
            at += self.random.micros(120_000, 480_000);
            number += 1;
        }
        let mut random = self.random.branch("attacks");
        let floods = [
            (100, 950, 150, "Malformed frames: cut, bent, every flag at once", Flood::Malformed),
            (200, 600, 2_000, "A SYN flood from forged addresses", Flood::Syn),
            (300, 700, 1_000, "Data segments that guess cookies, from forged addresses", Flood::Ack),
            (
                400,
                800,
                40,
                "Strangers who connect and keep silent: these lock a bare node out",
                Flood::Silent,
            ),
            (450, 800, 40, "Strangers who begin a ClientHello and keep silent", Flood::Begins),
        ];
        for (from, until, per_second, text, flood) in floods {
            let schedule = Schedule { from: self.at(from), until: self.at(until), per_second };
            self.plan.push((schedule.from, Planned::Tell(text)));
            let count =
                schedule.until.since(schedule.from).as_millis() as u64 * u64::from(per_second) / 1_000;
            self.summary.attacks.insert(flood.name(), count);
            self.world.add_source(flood.source(&self.ground, schedule, random.branch(flood.name())));
        }
        self.plan.push((
            self.at(500),
            Planned::Tell("Rude visitors: garbage, bare HTTP, no certificate, a wrong network"),
        ));
        for turn in 0..(self.options.seconds / 5).clamp(1, 20) {
            for how in Rudeness::ALL {
                let at = self.at(500) + random.micros(0, self.options.seconds * 350_000);
                self.plan.push((at, Planned::Rude(how)));
                self.summary.attacks.insert(how.name(), turn + 1);
            }
        }
        self.plan.sort_by_key(|(at, _)| *at);
    }

    fn go(&mut self) -> Result<(), Error> {
        self.story.title(&self.options, self.ground.service);
        let end = self.at(1_000);
        let plan = std::mem::take(&mut self.plan);
        let mut plan = plan.into_iter().peekable();
        let mut slice = 0_u64;
        while self.world.now() < end || (self.summary.open() && self.world.now() < end + GRACE) {
            let until = self.world.now() + SLICE;
            while let Some((at, planned)) = plan.next_if(|(at, _)| *at <= until) {
                self.world.run_until(at, self.device.as_mut());
                self.begin(planned)?;
            }
            self.world.run_until(until, self.device.as_mut());
            self.look(slice);
            slice += 1;
            self.pace();
        }
        Ok(())
    }

    fn begin(&mut self, planned: Planned) -> Result<(), Error> {
        let now = self.world.now();
        match planned {
            Planned::Tell(text) => self.story.event(now, Mark::Attack, text),
            Planned::Peer(number) => {
                let stay = self.random.micros(1_000_000, 4_000_000);
                let credential = mint::peer(&self.authority, u64::from(number))?;
                let random = self.random.branch("peer");
                let common = if number % 3 == 0 { &self.quantum } else { &self.common };
                let peer = GoodPeer::new(number, common, credential, &self.network, now, stay, random)?;
                let address =
                    Ipv4Addr::new(PEERS[0], PEERS[1], (number / 253) as u8, (number % 253 + 1) as u8);
                let delay = self.random.micros(4_000, 60_000);
                let loss = if self.random.chance(250_000) { 10_000 } else { 0 };
                let path = Path { loss, jitter: delay / 20, ..Path::clean(delay) };
                self.peers.insert(number, address.into());
                self.summary.begun += 1;
                self.enter(address, Box::new(peer), path);
            }
            Planned::Rude(how) => {
                let credential = self.rude_credential(how)?;
                let random = self.random.branch("rude");
                let visitor = Rude::new(how, &self.common, credential, &self.network, now, random)?;
                let [c, d] = [self.random.below(256) as u8, self.random.between(1, 254) as u8];
                let address = Ipv4Addr::new(RUDE[0], RUDE[1], c, d);
                let path = Path::clean(self.random.micros(10_000, 40_000));
                self.enter(address, Box::new(visitor), path);
            }
        }
        Ok(())
    }

    fn rude_credential(&mut self, how: Rudeness) -> Result<Option<Credential>, Error> {
        let seed = self.random.next() | 1 << 40;
        Ok(match how {
            Rudeness::NoCertificate => None,
            Rudeness::ExpiredCertificate => {
                let key = mint::p256_key(seed)?;
                let shape = Shape { until: (2022, 1, 1), ..Shape::default() };
                Some(mint::certificate(&self.authority, &key, seed, &shape)?)
            }
            _ => Some(mint::peer(&self.authority, seed)?),
        })
    }

    /// Puts a visitor with one connection into the world.
    fn enter(&mut self, address: Ipv4Addr, app: Box<dyn crate::host::App<Note>>, path: Path) {
        self.entered += 1;
        let [a, b, c, d] = self.entered.to_be_bytes();
        let octets = address.octets();
        let gateway = Ipv4Addr::new(octets[0], octets[1], octets[2], 254);
        let place = Place {
            mac: Mac([2, 0x70, a, b, c, d]),
            address: address.into(),
            prefix: 24,
            gateway: gateway.into(),
            mtu: 1_500,
            seed: self.random.next(),
        };
        let mut host = Host::new(place, self.world.now());
        let timestamps = self.random.chance(700_000);
        let port = self.random.between(1_024, 65_536) as u16;
        let service = (self.ground.service.ip(), self.ground.service.port());
        if host.connect(socket(1 << 16, 1 << 16, timestamps), service, port) {
            self.world.add(Side::Public, host, app, path);
        }
    }

    /// Takes in what happened and tells it.
    fn look(&mut self, slice: u64) {
        let now = self.world.now();
        for note in std::mem::take(&mut self.world.notes) {
            self.note(now, note);
        }
        let sample = self.device.sample();
        let unproved = sample.strangers.iter().filter(|(address, _)| !has_proved(*address));
        let held: usize = unproved.map(|(_, bytes)| bytes + FLOW_BYTES).sum();
        self.stranger_bytes = self.stranger_bytes.max(held);
        self.unfinished_bytes = self.unfinished_bytes.max(sample.dataplane.stranger_bytes);
        if self.options.terminal || slice % FIGURES_EVERY == FIGURES_EVERY - 1 {
            self.story.figures(now, &sample, held);
        }
    }

    fn note(&mut self, now: Instant, note: Note) {
        let story = &mut self.story;
        match note {
            Note::Ready(peer, after) => {
                self.latencies.push(after);
                let from = self.peers.get(&peer).copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                story.ready(now, peer, from, after);
            }
            Note::Left(..) => self.summary.sessions_ok += 1,
            Note::Failed(peer, why) => {
                self.summary.sessions_failed += 1;
                story.event(now, Mark::Bad, &format!("peer {peer} was let down: {why}"));
            }
            Note::Refused(how) => {
                story.event(now, Mark::Refused, &format!("turned away: {}", how.name().replace('_', " ")));
            }
            Note::Served(how) => {
                *self.summary.served.entry(how.name()).or_default() += 1;
                story.event(now, Mark::Bad, &format!("NOT turned away: {}", how.name()));
            }
            Note::NodeReached(_) => {}
            Note::NodeUnproven(what) => {
                self.summary.node_unproven += 1;
                story.event(now, Mark::Bad, &format!("reached the node unproven: {what}"));
            }
        }
    }

    /// Waits where virtual time has overtaken the wall's.
    fn pace(&mut self) {
        if self.options.paced && !self.options.json {
            let ahead = Duration::from_micros(self.world.now().micros()).saturating_sub(self.began.elapsed());
            std::thread::sleep(ahead);
        }
    }

    fn finish(mut self) -> Result<Summary, Error> {
        let sample = self.device.sample();
        let summary = &mut self.summary;
        summary.sessions_failed = summary.begun - summary.sessions_ok;
        self.latencies.sort();
        let ms = |latency: Option<&Duration>| latency.map_or(0.0, |latency| latency.as_micros() as f64 / 1e3);
        summary.session_ms_median = ms(self.latencies.get(self.latencies.len() / 2));
        summary.session_ms_worst = ms(self.latencies.last());
        summary.messages_forwarded = sample.messages_forwarded;
        summary.frames_in = sample.dataplane.frames_in;
        summary.frames_out = sample.dataplane.frames_out;
        summary.frames_handed_over = sample.dataplane.handed_over;
        summary.frames_refused =
            sample.dataplane.reasons.iter().map(|(reason, count)| (reason.name(), count)).collect();
        summary.sessions_ended = sample.ended;
        summary.flows_peak = sample.dataplane.flows_peak;
        summary.stranger_bytes = self.stranger_bytes;
        summary.unfinished_bytes = self.unfinished_bytes;
        summary.buffer_bytes_peak = sample.dataplane.buffer_bytes_peak;
        summary.fingerprint = self.world.fingerprint();
        self.story.balance(summary);
        let summary = self.summary;
        self.story.finish().map_err(Error::Output)?;
        Ok(summary)
    }
}

/// Networks of those who come with a stack, and of those who begin a ClientHello: the only ones that send what a cookie
/// demands, so the only ones that a device may remember.
const PEERS: [u8; 2] = [81, 2];
const RUDE: [u8; 2] = [185, 3];
const STALLED: [u8; 2] = [91, 65];
/// Strangers who never send data.
const SILENT: [u8; 2] = [91, 64];
/// What a flow costs though no buffer belongs to it.
const FLOW_BYTES: usize = 512;

fn has_proved(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if [PEERS, RUDE, STALLED].contains(&[v4.octets()[0], v4.octets()[1]]))
}

/// Seed of the node's certificate.
const NODE_KEY: u64 = 0x6e6f_6465;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Malformed,
    Syn,
    Ack,
    Silent,
    Begins,
}

impl Flood {
    const fn name(self) -> &'static str {
        match self {
            Flood::Malformed => "malformed_frames",
            Flood::Syn => "syn_flood",
            Flood::Ack => "cookie_guesses",
            Flood::Silent => "silent_connections",
            Flood::Begins => "stalled_hellos",
        }
    }

    fn source(self, ground: &Ground, schedule: Schedule, random: Random) -> Box<dyn crate::network::Source> {
        let service = ground.service;
        match self {
            Flood::Malformed => Box::new(Malformed::new(service, schedule, random)),
            Flood::Syn => Box::new(SynFlood::new(service, schedule, random)),
            Flood::Ack => Box::new(AckFlood::new(service, schedule, random)),
            Flood::Silent => Box::new(Silent::new(service, schedule, SILENT, false, random)),
            Flood::Begins => Box::new(Silent::new(service, schedule, STALLED, true, random)),
        }
    }
}
