//! Addresses by DHCP from a real server (dnsmasq), on a port that has no other: asked for, used, kept over a restart, taken
//! away, and given anew.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::wires::xdp_is_possible;
use crate::appliance::{Appliance, Scratch};
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::pattern::{expect, expect_end, expect_reset, send};
use crate::rig::{Namespace, Process};

/// How long any step may take; the address is probed, and the server pings it first.
const SOON: Duration = Duration::from_secs(40);
const BULK: u64 = 4 << 20;
const LISTENER: u16 = 5_000;
const SERVER: u16 = 5_001;
const FIRST: &str = "10.1.0.50";
const SECOND: &str = "10.1.0.70";

struct Round {
    name: &'static str,
    driver: &'static str,
    shards: usize,
    /// The server takes the address away in the end: half a lease is waited for, and no lease of dnsmasq's is shorter than
    /// two minutes.
    taken_away: bool,
}

const ROUNDS: [Round; 4] = [
    Round { name: "veth", driver: "af-packet", shards: 1, taken_away: false },
    Round { name: "shards", driver: "af-packet", shards: 2, taken_away: true },
    Round { name: "xdp", driver: "af-xdp", shards: 1, taken_away: true },
    Round { name: "xdp-shards", driver: "af-xdp", shards: 2, taken_away: false },
];

/// Runs the cases.
pub(super) fn run(report: &mut Report) {
    for round in ROUNDS {
        let name = format!("dhcp/{}", round.name);
        if !report.wants(&name) {
            continue;
        }
        if Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status().is_err() {
            report.skip(&name, "there is no dnsmasq (package dnsmasq-base)");
            continue;
        }
        if round.driver == "af-xdp" && !xdp_is_possible() {
            report.skip(&name, "this user may load no XDP program");
            continue;
        }
        report.case(&name, || lives_by_a_lease(&round));
    }
}

/// The server's machine, with peers, the appliance's, and a node's.
struct Rig {
    outer: Namespace,
    boxed: Namespace,
    _inner: Namespace,
    scratch: Scratch,
    listener: TcpListener,
}

fn lives_by_a_lease(round: &Round) -> Outcome {
    let rig = Rig::new(round)?;
    let server = rig.server(FIRST)?;
    let appliance = rig.appliance(round)?;
    let tell = |failure: String| {
        let status = appliance.ask(&["status"]).unwrap_or_else(|error| error);
        let said = std::fs::read_to_string(rig.scratch.path().join("dnsmasq.log")).unwrap_or_default();
        format!("{failure}\nstatus: {status}\nlog: {}\nserver: {said}", appliance.log())
    };
    rig.await_address(&appliance, FIRST).map_err(tell)?;
    let (client, held) = rig.pair(FIRST).map_err(tell)?;
    carry(client, held).map_err(tell)?;
    let status = appliance.status()?;
    let lease = &status["ports"][1]["lease"];
    ensure(
        lease["server"] == "10.1.0.2" && lease["gateway"] == "10.1.0.2" && lease["in_use"] == true,
        || status["ports"].to_string(),
    )?;
    wait_for("the address is kept", SOON, || {
        Ok(std::fs::read_to_string(rig.scratch.path().join("leases"))
            .ok()
            .filter(|text| text.contains(FIRST)))
    })?;
    drop(appliance);

    // After a restart the same address is asked for, and nothing else.
    let log = rig.scratch.path().join("dnsmasq.log");
    let discovers = |text: &str| text.matches("DHCPDISCOVER(").count();
    let before = discovers(&std::fs::read_to_string(&log).context("the server's log")?);
    let appliance = rig.appliance(round)?;
    let tell = |failure: String| {
        let status = appliance.ask(&["status"]).unwrap_or_else(|error| error);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        format!("{failure}\nstatus: {status}\nlog: {}\nserver: {said}", appliance.log())
    };
    rig.await_address(&appliance, FIRST).map_err(tell)?;
    let after = discovers(&std::fs::read_to_string(&log).context("the server's log")?);
    ensure(after == before, || tell(format!("{after} searches instead of {before}")))?;

    if !round.taken_away {
        return Ok(());
    }
    // The server forgets, and gives another: it says so when more time is asked for, half a lease later.
    let (mut client, mut held) = rig.pair(FIRST).map_err(tell)?;
    send(&mut client, 5, 1_000)?;
    expect(&mut held, 5, 1_000)?;
    drop(server);
    let _server = rig.server(SECOND)?;
    wait_for("the old address is lost", Duration::from_secs(100), || {
        let status = appliance.status()?;
        Ok((status["ports"][1]["addresses"] != serde_json::json!([format!("{FIRST}/24")])).then_some(()))
    })
    .map_err(tell)?;
    expect_reset(&mut client).map_err(tell)?;
    rig.await_address(&appliance, SECOND).map_err(tell)?;
    let (client, held) = rig.pair(SECOND).map_err(tell)?;
    carry(client, held).map_err(tell)?;
    let events = appliance.ask(&["events"])?;
    for words in ["bound", "lost", "the server took it away", SECOND] {
        ensure(events.contains(words), || format!("{words} in {events}"))?;
    }
    Ok(())
}

impl Rig {
    fn new(round: &Round) -> Outcome<Rig> {
        let [outer, boxed, inner] = ["outer", "box", "inner"].map(Namespace::new);
        let (outer, boxed, inner) = (outer?, boxed?, inner?);
        let queues = if round.driver == "af-xdp" { round.shards } else { 1 };
        outer.veth_queues("wan", &boxed, "veth-public", queues)?;
        inner.veth_queues("lan", &boxed, "veth-private", queues)?;
        outer.address("wan", &["10.1.0.2/24"])?;
        inner.address("lan", &["10.2.0.2/24"])?;
        let listener = inner.enter(|| TcpListener::bind(("0.0.0.0", SERVER)).context("listening"))?;
        listener.set_nonblocking(true).context("preparing the listener")?;
        Ok(Rig { outer, boxed, _inner: inner, scratch: Scratch::new("dhcp")?, listener })
    }

    /// A server that has this one address to give, for two minutes, and knows of no other.
    fn server(&self, address: &str) -> Outcome<Process> {
        let log = File::options().create(true).append(true).open(self.scratch.path().join("dnsmasq.log"));
        let log = log.context("the server's log")?;
        let mut command = self.outer.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--interface=wan",
        ]);
        command.args([
            "--log-dhcp",
            "--log-facility=-",
            "--leasefile-ro",
            "--dhcp-authoritative",
            "--pid-file=",
        ]);
        command.arg(format!("--dhcp-range={address},{address},255.255.255.0,2m"));
        command.arg("--dhcp-option=option:mtu,1400");
        let errors = log.try_clone().context("the server's log")?;
        let server = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        server.map(Process).context("starting dnsmasq")
    }

    fn appliance(&self, round: &Round) -> Outcome<Appliance> {
        let cores = match round.shards {
            1 => String::new(),
            shards => format!("[cores]\ndataplane = {:?}\n\n", (0..shards).collect::<Vec<_>>()),
        };
        let driver = round.driver;
        let leases = self.scratch.path().join("leases");
        // The table of management is open when the sections begin.
        let sections = format!(
            "leases = {leases:?}\n\n{cores}\
             [port.public]\ndevice = \"veth-public\"\ndriver = {driver:?}\naddress = [\"dhcp\"]\n\n\
             [port.private]\ndevice = \"veth-private\"\ndriver = {driver:?}\naddress = [\"10.2.0.1/24\"]\n\n\
             [[listener]]\nname = \"relay\"\nport = \"public\"\nlocal_port = {LISTENER}\nprotocol = \"tcp\"\npool = \"nodes\"\n\n\
             [pool.nodes]\nnodes = [\"n=10.2.0.2:{SERVER}\"]\n\n\
             [limits]\nper_source = 1000\nper_24 = 1000\nper_16_percent = 100\n"
        );
        Appliance::start(&self.boxed, &self.scratch, &sections)
    }

    fn await_address(&self, appliance: &Appliance, address: &str) -> Outcome {
        wait_for(format_args!("{address} is in use"), SOON, || {
            let status = appliance.status()?;
            let lease = &status["ports"][1]["lease"];
            let has = lease["address"] == format!("{address}/24") && lease["in_use"] == true;
            Ok(has.then_some(()))
        })
    }

    /// Both ends of a connection; the first may find the address not yet known everywhere.
    fn pair(&self, address: &str) -> Outcome<(TcpStream, TcpStream)> {
        let address: Ipv4Addr = address.parse().context("an address")?;
        let to = SocketAddr::new(IpAddr::V4(address), LISTENER);
        let client = wait_for("a connection", SOON, || {
            self.outer.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()))
        })?;
        let server = wait_for("the connection reaches the node", SOON, || Ok(self.listener.accept().ok()))?.0;
        server.set_nonblocking(false).context("preparing a connection")?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).context("a deadline")?;
            stream.set_write_timeout(Some(SOON)).context("a deadline")?;
        }
        Ok((client, server))
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream) -> Outcome {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            expect(&mut server, 3, BULK)?;
            expect_end(&mut server)
        });
        send(&mut client, 3, BULK)?;
        client.shutdown(Shutdown::Write).context("closing")?;
        reading.join().map_err(|_| "a thread panicked".to_owned())?
    })
}
