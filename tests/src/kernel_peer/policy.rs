//! The policy of a running appliance, by command and by signal, and a tap that only looks on.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::appliance::{Appliance, PortSetup, Scratch};
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::rig::Namespace;

/// Where the appliance listens, and the kernel where it only looks on.
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)), 5000);
/// How long anything may take.
const SOON: Duration = Duration::from_secs(20);

/// A case by name.
type Case = (&'static str, fn() -> Outcome);

/// Runs the cases, each with a rig of its own.
pub(super) fn run(report: &mut Report) {
    let cases: [Case; 2] = [
        ("policy/changes-while-it-runs", changes_while_it_runs),
        ("policy/tap-only-looks-on", tap_only_looks_on),
    ];
    for (name, case) in cases {
        if report.wants(name) {
            report.case(name, case);
        }
    }
}

/// A client, the appliance's machine and a server, joined by veth.
struct Row {
    outer: Namespace,
    boxed: Namespace,
    inner: Namespace,
    scratch: Scratch,
}

impl Row {
    fn new() -> Outcome<Row> {
        let [outer, boxed, inner] = ["outer", "box", "inner"].map(Namespace::new);
        let (outer, boxed, inner) = (outer?, boxed?, inner?);
        outer.veth("wan", &boxed, "pub")?;
        inner.veth("lan", &boxed, "prv")?;
        outer.address("wan", &["10.1.0.2/24"])?;
        inner.address("lan", &["10.2.0.2/24"])?;
        Ok(Row { outer, boxed, inner, scratch: Scratch::new("policy")? })
    }

    /// Starts the appliance in a mode, with a section on its policy.
    fn appliance(&self, mode: &str, policy: &str) -> Outcome<Appliance> {
        let port = |name, device: &str, address: &str| PortSetup {
            name,
            device: device.into(),
            driver: "af-packet",
            addresses: vec![address.into()],
        };
        let text = policy.to_owned()
            + &port("public", "pub", "10.1.0.1/24").section()
            + &port("private", "prv", "10.2.0.1/24").section()
            + "[[listener]]\nname = \"service\"\nport = \"public\"\nlocal_port = 5000\nprotocol = \"tcp\"\npool = \"nodes\"\n\
               [pool.nodes]\nnodes = [\"n=10.2.0.2:6000\"]\n";
        Appliance::start_in_mode(&self.boxed, &self.scratch, mode, &text)
    }

    fn write(&self, name: &str, text: &str) -> Outcome {
        fs::write(self.scratch.path().join(name), text).context(name)
    }

    fn connect(&self) -> Outcome<Option<TcpStream>> {
        let attempt = || TcpStream::connect_timeout(&SERVICE, Duration::from_millis(700));
        let stream = self.outer.enter(|| Ok(attempt()))?.ok();
        if let Some(stream) = &stream {
            stream.set_read_timeout(Some(SOON)).context("a deadline")?;
        }
        Ok(stream)
    }
}

/// A word there and back.
fn echo(stream: &mut TcpStream) -> Outcome {
    stream.write_all(b"hedge").context("sending")?;
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).context("receiving")?;
    ensure(&heard == b"hedge", || format!("{heard:?}"))
}

/// Echoes on each connection until its end.
fn serve(namespace: &Namespace, at: SocketAddr) -> Outcome {
    let listener = namespace.enter(|| TcpListener::bind(at).context("listening"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = &stream;
                std::io::copy(&mut reader, &mut &stream)
            });
        }
    });
    Ok(())
}

fn version(appliance: &Appliance) -> Outcome<u64> {
    appliance.status()?["policy"]["version"].as_u64().context("a version")
}

fn changes_while_it_runs() -> Outcome {
    let row = Row::new()?;
    serve(&row.inner, "10.2.0.2:6000".parse().context("an address")?)?;
    let denying = "version = 1\n[lists]\ndeny = \"deny.txt\"\n";
    row.write("policy.toml", "version = 1\n")?;
    row.write("deny.txt", "10.1.0.2 # the client\n")?;
    let appliance = row.appliance("enforce", "[policy]\nfile = \"policy.toml\"\n\n")?;
    let mut before = wait_for("a connection is accepted", SOON, || row.connect())?;
    echo(&mut before).context("the first session")?;

    // By command: newcomers are refused, who was there goes on.
    row.write("policy.toml", denying)?;
    let said = appliance.ask(&["reload", "--confirm", "60s"])?;
    ensure(said.contains("is in force on all shards") && said.contains("undone in"), || said.clone())?;
    ensure(row.connect()?.is_none(), || "a denied source connected".into())?;
    echo(&mut before).context("a session that stood")?;
    appliance.ask(&["reload", "confirm"])?;

    // A bad file changes nothing, and says where it is wrong.
    row.write("policy.toml", "version = 1\nin_flihgt = 3\n")?;
    let refused = appliance.ask(&["reload"]).err().context("a bad file was taken")?;
    ensure(refused.contains("policy.toml:2:1"), || refused.clone())?;
    ensure(row.connect()?.is_none(), || "a bad file opened the door".into())?;

    // By signal.
    row.write("policy.toml", "version = 1\nin_flight = 3\n")?;
    let now = version(&appliance)?;
    row.boxed.shell(&format!("kill -HUP {}", appliance.process()))?;
    wait_for("the signal is heard", SOON, || Ok((version(&appliance)? > now).then_some(())))?;
    let mut after = wait_for("a connection is accepted again", SOON, || row.connect())?;
    echo(&mut after).context("a session after the signal")?;

    // At once, for those who stand too.
    row.write("policy.toml", denying)?;
    appliance.ask(&["reload", "--enforce-now"])?;
    let ended = |stream: &mut TcpStream| !matches!(stream.read(&mut [0; 1]), Ok(1));
    ensure(ended(&mut before) && ended(&mut after), || "sessions of a denied source go on".into())?;
    appliance.ask(&["reload", "undo"])?;
    wait_for("a connection is accepted after the undo", SOON, || row.connect()).map(drop)
}

fn tap_only_looks_on() -> Outcome {
    let row = Row::new()?;
    // The kernel of the box has the address, and serves.
    row.boxed.address("pub", &["10.1.0.1/24"])?;
    row.boxed.address("prv", &["10.2.0.1/24"])?;
    serve(&row.boxed, SERVICE)?;
    let appliance = row.appliance("tap", "")?;
    for _ in 0..20 {
        let mut stream = row.connect()?.context("the kernel does not answer")?;
        echo(&mut stream)?;
    }
    let frames = |status: &serde_json::Value, key: &str| -> Option<u64> {
        status["ports"].as_array()?.iter().map(|port| port[key].as_u64()).sum()
    };
    let status = wait_for("frames are seen", SOON, || {
        let status = appliance.status()?;
        Ok((status["frames"]["cookies"].as_u64() >= Some(20)).then_some(status))
    })?;
    ensure(frames(&status, "received") >= Some(100), || format!("{}", status["ports"]))?;
    ensure(frames(&status, "transmitted") == Some(0), || format!("it sent: {}", status["ports"]))?;
    ensure(status["sessions"]["opened"] == 0, || format!("{}", status["sessions"]))
}
