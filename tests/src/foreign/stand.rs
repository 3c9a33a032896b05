//! What foreign clients run against: the appliance with ordinary sockets on loopback, a stub of a node behind it, certificates of
//! all kinds, the clients, and one good session beside them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::quantum;
use crate::appliance::{Appliance, Scratch};
use crate::check::{Context, Outcome, ensure, wait_for};
use crate::nodes::{Dialogue, file, python};

/// Where the appliance listens.
const PUBLIC: &str = "127.0.0.1";
/// From where it dials the node.
const PRIVATE: &str = "127.0.0.9";
/// Where the good session comes from.
const COMPANION: &str = "127.0.0.77";
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything, running.
#[derive(Debug)]
pub(super) struct Stand {
    /// Runs cases.
    pub(super) clients: Dialogue,
    /// What it can run.
    pub(super) catalogue: Value,
    pub(super) appliance: Appliance,
    companion: Dialogue,
    to: String,
    /// Whose peers came, a line each.
    _node: Dialogue,
    scratch: Scratch,
}

impl Stand {
    /// Makes certificates and starts everything.
    pub(super) fn new() -> Outcome<Stand> {
        let scratch = Scratch::new("tls")?;
        let folder = scratch.path().join("certificates");
        fs::create_dir(&folder).context("making a folder")?;
        let asset = |name: &str| file(&format!("../policy/assets/{name}"));
        let mut mint = script("authority.py")?;
        mint.args([asset("chia_ca.crt")?, asset("chia_ca.key")?, asset("chia_ca_old.crt")?]).arg(&folder);
        let minted = mint.output().context("making certificates")?;
        ensure(minted.status.success(), || String::from_utf8_lossy(&minted.stderr).into_owned())?;

        let mut stub = script("stub.py")?;
        stub.arg(asset("chia_ca.crt")?).args(["node.pem", "node.key"].map(|name| folder.join(name)));
        let node = Dialogue::start(&mut stub)?;
        let port = node.hear(PATIENCE).context("the stub of a node")?["port"].as_u64().context("its port")?;
        let (appliance, listener) = appliance(&scratch, port)?;
        let to = format!("{PUBLIC}:{listener}");

        let mut clients = script("run.py")?;
        clients.args(["--to", &to, "--folder"]).arg(&folder);
        let tools = std::env::var("HEDGEROW_TEST_TOOLS").unwrap_or_default();
        clients.args(tools.split_whitespace().flat_map(|tool| ["--tool", tool]));
        let clients = Dialogue::start(&mut clients)?;
        let catalogue = clients.hear(PATIENCE).context("the catalogue of cases")?;
        let companion = Dialogue::start(script("companion.py")?.args([&to, COMPANION]).arg(&folder))?;
        companion.hear(PATIENCE).context("the good session")?;
        Ok(Stand { clients, catalogue, appliance, companion, to, _node: node, scratch })
    }

    /// The manual explains a reason.
    pub(super) fn explain(&self, reason: &str) -> Outcome {
        let binary = crate::appliance::binary()?;
        let output =
            Command::new(binary).args(["explain", reason]).output().context("asking for a reason")?;
        ensure(output.status.success(), || format!("{reason} is not explained"))
    }

    /// A session of rustls from an address, its first flight in pieces of at most so many bytes.
    pub(super) fn rustls(&self, source: &str, most: usize) -> Outcome {
        let to = self.to.parse().context(&self.to)?;
        let source = SocketAddr::new(source.parse().context(source)?, 0);
        let pem = self.scratch.path().join("certificates/rsa2048.pem");
        quantum::visits(to, source, &pem, most)
    }

    /// Lets the good session end; it had an answer to each of its questions.
    pub(super) fn companion_is_well(&mut self) -> Outcome {
        self.companion.questions = None;
        let said = self.companion.hear(PATIENCE).context("the good session")?;
        ensure(said["failure"].is_null() && said["answers"].as_u64() >= Some(1), || said.to_string())
    }
}

fn script(name: &str) -> Outcome<Command> {
    let mut command = Command::new(python()?);
    command.arg(file(&format!("foreign/{name}"))?).stdin(Stdio::null());
    Ok(command)
}

/// The program between all addresses of loopback and the node, and the TCP port where it listens.
fn appliance(scratch: &Scratch, node: u64) -> Outcome<(Appliance, u16)> {
    let secret = scratch.path().join("secret");
    fs::write(&secret, "5e".repeat(32)).context("writing a secret")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).context("protecting a secret")?;
    let free = TcpListener::bind((PUBLIC, 0)).and_then(|free| free.local_addr()).context("a free port")?;
    let listener = free.port();
    let sections = format!(
        "[port.public]\ndriver = \"sockets\"\naddress = [\"{PUBLIC}/8\"]\n\n\
         [port.private]\ndriver = \"sockets\"\naddress = [\"{PRIVATE}/8\"]\n\n\
         [[listener]]\nname = \"peers\"\nport = \"public\"\nlocal_port = {listener}\nprotocol = \"chia\"\n\
         network = \"testnet0\"\ntypes = [\"full_node\"]\npool = \"nodes\"\n\n\
         [pool.nodes]\nnodes = [\"stub=127.0.0.1:{node}\"]\n\n\
         [identity]\nsecret = {secret:?}\n\n\
         # What is tested here is what sessions do, not how many may begin.\n\
         [limits]\nhandshake_timeout = \"6s\"\nsessions_per_second = 0\nper_16_percent = 100\nper_listener_percent = 100\n"
    );
    let appliance = Appliance::start_here(scratch, &sections)?;
    wait_for("the light peer finds the node up", PATIENCE, || {
        let status = appliance.status()?;
        Ok((status["pools"][0]["nodes"][0]["state"] == "up").then_some(()))
    })
    .map_err(|failure| format!("{failure}\n{}", appliance.log()))?;
    Ok((appliance, listener))
}
