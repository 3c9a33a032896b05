//! Who runs in the box: Hedgerow, or what an operator would use instead. Each gets what its manual recommends against
//! floods, the same box core, and the same node behind it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hedgerow_tests::appliance::{Appliance, Scratch, binary};
use hedgerow_tests::rig::{Namespace, Process};
use hedgerow_tests::{Context, Outcome};

use base64ct::{Base64, Encoding};
use hedgerow_policy::tls::ca::Authority;

use super::needs::Tool;
use super::station;
use super::traffic::{Answer, Server};
use super::{box_core, pin};

/// TCP port of the service, and of the node for those who reach it at one port.
pub const SERVICE: u16 = 7000;
/// TCP port of Chia nodes.
pub const CHIA: u16 = 8444;
/// The node's other ports, one per node of Hedgerow's pool: its pace per node is for Chia nodes, and would be the measure
/// of all things here.
pub const NODES: std::ops::Range<u16> = 7001..7001 + 64;

/// Settings of Hedgerow's pool and limits where its own speed is the question.
const PACE_AND_QUOTAS: [&str; 2] = [
    "dials_per_second = 1000\nslots = 100000\n",
    "[limits]\nflows = 131072\nper_source = 100000\nper_24 = 100000\nper_16_percent = 100\n\
     handshakes_in_flight = 100000\nwork_queue = 65536\nevents = 0\n",
];

/// How Hedgerow reaches its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A packet socket on veth.
    AfPacket,
    /// AF_XDP on veth.
    AfXdp,
    /// TAP devices.
    Tap,
}

impl Driver {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Driver::AfPacket => "af-packet",
            Driver::AfXdp => "af-xdp",
            Driver::Tap => "tap",
        }
    }
}

/// Who runs in the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// This project, as a `tcp` listener.
    Hedgerow(Driver),
    /// The same over AF_PACKET, with a policy in its scratch directory.
    Governed,
    /// This project, as a `chia` listener over AF_PACKET, with its default limits.
    Chia,
    /// The same in front of many nodes and without quotas, so that nothing but its own speed holds it up.
    Pairs(Driver),
    /// This project, its listener for the application.
    Backend(Driver),
    /// This project with a way out for the node.
    WayOut(Driver),
    /// nftables' masquerade: a router with NAT44.
    Masquerade,
    /// Nobody: a router, the node is open to all.
    Forward,
    /// A listener of the kernel in the box itself, always with SYN cookies.
    Kernel,
    /// nftables' SYNPROXY in front of the node.
    SynProxy,
    /// HAProxy, one thread, mode tcp.
    Haproxy,
    /// nginx, one process, stream.
    Nginx,
    /// HAProxy, one thread, TLS 1.3 with certificates on both sides.
    HaproxyTls,
}

impl Contestant {
    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            Contestant::Hedgerow(driver) => format!("Hedgerow, {}", driver.name()),
            Contestant::Governed => "Hedgerow, policy".into(),
            Contestant::Chia => "Hedgerow, chia".into(),
            Contestant::Pairs(driver) => format!("Hedgerow, chia, {}", driver.name()),
            Contestant::HaproxyTls => "HAProxy TLS both ways".into(),
            Contestant::Backend(driver) | Contestant::WayOut(driver) => {
                format!("Hedgerow, {}", driver.name())
            }
            Contestant::Masquerade => "nftables masquerade".into(),
            Contestant::Forward => "plain forwarding".into(),
            Contestant::Kernel => "kernel, tcp_syncookies=2".into(),
            Contestant::SynProxy => "nftables SYNPROXY".into(),
            Contestant::Haproxy => "HAProxy TCP".into(),
            Contestant::Nginx => "nginx stream".into(),
        }
    }

    /// Programs that it needs, with their packages.
    pub fn tools(self) -> &'static [Tool] {
        match self {
            Contestant::Haproxy | Contestant::HaproxyTls => &[("haproxy", "haproxy")],
            Contestant::Nginx => &[("nginx", "nginx, libnginx-mod-stream")],
            _ => &[],
        }
    }

    /// Why this build of Hedgerow cannot be it, if it cannot.
    pub fn unsupported(self) -> Outcome<Option<String>> {
        let Contestant::Hedgerow(driver) = self else { return Ok(None) };
        let scratch = Scratch::new("check")?;
        let path = scratch.path().join("hedgerow.toml");
        // Devices are looked at as warnings only: they do not exist yet.
        fs::write(&path, format!("version = 1\n\n{}", sections(driver, "lo", "lo0")))
            .context("a configuration")?;
        let output = Command::new(binary()?).arg("check").arg(&path).output().context("hedgerow check")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let unknown =
            !output.status.success() && said.contains(driver.name()) && said.contains("unknown value");
        Ok(unknown.then(|| format!("this build has no driver {:?}", driver.name())))
    }

    /// Whether the kernel of the box owns its addresses.
    pub fn on_kernel(self) -> bool {
        use Contestant::{Backend, Chia, Governed, Hedgerow, Pairs, WayOut};
        !matches!(self, Governed | Chia | Pairs(_) | Hedgerow(_) | Backend(_) | WayOut(_))
    }
}

/// What keeps a contestant alive.
#[derive(Debug)]
pub enum Running {
    /// Hedgerow.
    Appliance(Appliance),
    /// Another program.
    Program(#[allow(dead_code, reason = "ends when dropped")] Process),
    /// An echo server on the kernel's own stack.
    Listener(#[allow(dead_code, reason = "ends when dropped")] Server),
    /// Rules in the kernel.
    Rules,
}

/// Starts a contestant in the box. `public` and `private` are its devices.
pub fn start(
    contestant: Contestant,
    boxed: &Namespace,
    scratch: &Scratch,
    public: &str,
    private: &str,
) -> Outcome<Running> {
    match contestant {
        Contestant::Hedgerow(driver) => {
            let text = sections(driver, public, private);
            Appliance::start_tethered(boxed, scratch, &text).map(Running::Appliance)
        }
        Contestant::Backend(driver) => {
            let text = sections(driver, public, private);
            let text = text.replace("protocol = \"tcp\"\n", "protocol = \"tcp\"\nbackend = true\n");
            Appliance::start_tethered(boxed, scratch, &text).map(Running::Appliance)
        }
        Contestant::WayOut(driver) => {
            let text = sections(driver, public, private)
                + "[egress]\nport = \"public\"\nports = \"16384-32767\"\nports_per_node = 2048\nallow = [\"any\"]\n";
            Appliance::start_tethered(boxed, scratch, &text).map(Running::Appliance)
        }
        Contestant::Masquerade => masquerade(boxed, public).map(|()| Running::Rules),
        Contestant::Governed => {
            let lists = "version = 1\n[lists]\ndeny = \"deny.txt\"\n";
            for (name, text) in [("policy.toml", lists), ("deny.txt", "")] {
                fs::write(scratch.path().join(name), text).context("writing a policy")?;
            }
            let text = sections(Driver::AfPacket, public, private) + "[policy]\nfile = \"policy.toml\"\n";
            Appliance::start_tethered(boxed, scratch, &text).map(Running::Appliance)
        }
        Contestant::Chia | Contestant::Pairs(_) => {
            let secret = scratch.path().join("secret");
            fs::write(&secret, "7d".repeat(32)).context("writing a secret")?;
            fs::set_permissions(&secret, Permissions::from_mode(0o600)).context("protecting a secret")?;
            let (driver, nodes, limits) = match contestant {
                Contestant::Pairs(driver) => (driver, NODES, PACE_AND_QUOTAS),
                _ => (Driver::AfPacket, CHIA..CHIA + 1, ["", ""]),
            };
            let text = chia_sections([public, private], driver, &secret, nodes, limits);
            Appliance::start_tethered(boxed, scratch, &text).map(Running::Appliance)
        }
        Contestant::Forward => boxed.shell("sysctl -qw net.ipv4.ip_forward=1").map(|_| Running::Rules),
        Contestant::Kernel => {
            let server = Server::start(boxed, SERVICE..SERVICE + 1, Answer::Echo, box_core())?;
            Ok(Running::Listener(server))
        }
        Contestant::SynProxy => syn_proxy(boxed, public).map(|()| Running::Rules),
        Contestant::Haproxy => haproxy(boxed, scratch.path()).map(Running::Program),
        Contestant::Nginx => nginx(boxed, scratch.path()).map(Running::Program),
        Contestant::HaproxyTls => haproxy_tls(boxed, scratch.path()).map(Running::Program),
    }
}

/// Hedgerow's configuration behind the general sections. Quotas per source are out of the way, since all load comes from
/// a handful of addresses.
pub fn sections(driver: Driver, public: &str, private: &str) -> String {
    let nodes: Vec<String> = NODES.map(|port| format!("\"n{port}=10.2.0.2:{port}\"")).collect();
    format!(
        "[cores]\ndataplane = {core}\n\n\
         [port.public]\ndevice = \"{public}\"\ndriver = \"{driver}\"\naddress = [\"10.1.0.1/16\"]\ngateway = [\"10.1.0.2\"]\n\n\
         [port.private]\ndevice = \"{private}\"\ndriver = \"{driver}\"\naddress = [\"10.2.0.1/24\"]\n\n\
         [[listener]]\nname = \"service\"\nport = \"public\"\nlocal_port = {SERVICE}\nprotocol = \"tcp\"\npool = \"nodes\"\n\n\
         [pool.nodes]\nnodes = [{nodes}]\ndials_per_second = 1000\nslots = 100000\n\n\
         [limits]\nflows = 131072\nper_source = 100000\nper_24 = 100000\nper_16_percent = 100\n\
         handshakes_in_flight = 100000\nevents = 0\n",
        core = box_core(),
        driver = driver.name(),
        nodes = nodes.join(", "),
    )
}

/// Hedgerow's configuration in front of a Chia node: defaults wherever there are some.
fn chia_sections(
    [public, private]: [&str; 2],
    driver: Driver,
    secret: &Path,
    nodes: std::ops::Range<u16>,
    [pace, quotas]: [&str; 2],
) -> String {
    let nodes: Vec<String> = nodes.map(|port| format!("\"n{port}=10.2.0.2:{port}\"")).collect();
    format!(
        "[cores]\ndataplane = {core}\n\n\
         [port.public]\ndevice = \"{public}\"\ndriver = \"{driver}\"\naddress = [\"10.1.0.1/16\"]\ngateway = [\"10.1.0.2\"]\n\n\
         [port.private]\ndevice = \"{private}\"\ndriver = \"{driver}\"\naddress = [\"10.2.0.1/24\"]\n\n\
         [[listener]]\nname = \"peers\"\nport = \"public\"\nlocal_port = {CHIA}\nprotocol = \"chia\"\n\
         network = \"testnet0\"\ntypes = [\"full_node\"]\npool = \"front\"\n\n\
         [pool.front]\nnodes = [{nodes}]\n{pace}\n\
         [identity]\nsecret = {secret:?}\n\n{quotas}",
        core = box_core(),
        driver = driver.name(),
        nodes = nodes.join(", "),
    )
}

fn syn_proxy(boxed: &Namespace, public: &str) -> Outcome {
    boxed.shell("sysctl -qw net.ipv4.ip_forward=1")?;
    boxed.nftables(&format!(
        "table ip proxy {{\n\
         chain early {{ type filter hook prerouting priority raw; iifname {public} tcp dport {SERVICE} tcp flags syn notrack\n }}\n\
         chain forward {{ type filter hook forward priority 0;\n\
         iifname {public} tcp dport {SERVICE} ct state {{ invalid, untracked }} synproxy mss 1460 wscale 7 timestamp sack-perm\n\
         ct state invalid drop\n }}\n }}"
    ))?;
    boxed.shell("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0").map(drop)
}

fn masquerade(boxed: &Namespace, public: &str) -> Outcome {
    boxed.shell("sysctl -qw net.ipv4.ip_forward=1")?;
    boxed.nftables(&format!(
        "table ip nat {{ chain out {{ type nat hook postrouting priority srcnat; oifname {public} masquerade\n }}\n }}"
    ))
}

/// Starts a server program in the box and pins it. It finds its files in its working directory.
fn program(boxed: &Namespace, folder: &Path, command: &str) -> Outcome<Process> {
    let log = fs::File::create(folder.join("log")).context("creating a log")?;
    let errors = log.try_clone().context("sharing a log")?;
    let child = boxed
        .tethered("sh")
        .args(["-c", &format!("ulimit -n $(ulimit -Hn); PATH=$PATH:/usr/sbin exec {command}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .context(format_args!("starting {command}"))?;
    pin(Some(child.id() as i32), box_core())?;
    Ok(Process(child))
}

fn haproxy(boxed: &Namespace, folder: &Path) -> Outcome<Process> {
    let text = format!(
        "global\n maxconn 9000\n nbthread 1\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         listen service\n bind 10.1.0.1:{SERVICE} backlog 65535\n server node 10.2.0.2:{SERVICE}\n"
    );
    fs::write(folder.join("haproxy.cfg"), text).context("writing HAProxy's configuration")?;
    program(boxed, folder, "haproxy -db -q -f haproxy.cfg")
}

/// TLS as Hedgerow does it: 1.3, AES-128-GCM first, certificates demanded and shown on both sides, nothing resumed.
fn haproxy_tls(boxed: &Namespace, folder: &Path) -> Outcome<Process> {
    let credential = station::credential(3)?;
    let leaf = credential.chain.first().context("a certificate")?;
    let both = pem("CERTIFICATE", leaf) + &pem("PRIVATE KEY", credential.key.secret_der());
    let authority = Authority::chia_certificate().context("the Chia CA")?;
    fs::write(folder.join("box.pem"), both).context("writing a certificate")?;
    fs::write(folder.join("ca.pem"), pem("CERTIFICATE", &authority)).context("writing a certificate")?;
    let suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
    let text = format!(
        "global\n maxconn 4000\n nbthread 1\n ssl-default-bind-ciphersuites {suites}\n ssl-default-server-ciphersuites {suites}\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         listen service\n\
         bind 10.1.0.1:{CHIA} backlog 65535 ssl crt box.pem ca-file ca.pem verify required ssl-min-ver TLSv1.3 no-tls-tickets\n\
         server node 10.2.0.2:{CHIA} ssl crt box.pem ca-file ca.pem verify required ssl-min-ver TLSv1.3 no-ssl-reuse\n"
    );
    fs::write(folder.join("haproxy.cfg"), text).context("writing HAProxy's configuration")?;
    program(boxed, folder, "haproxy -db -q -f haproxy.cfg")
}

/// DER as PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn nginx(boxed: &Namespace, folder: &Path) -> Outcome<Process> {
    let text = format!(
        "daemon off;\nmaster_process off;\nerror_log stderr crit;\npid nginx.pid;\n\
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         events {{ worker_connections 19000; }}\n\
         stream {{ server {{ listen 10.1.0.1:{SERVICE} backlog=65535; proxy_pass 10.2.0.2:{SERVICE}; proxy_timeout 1h; }} }}\n"
    );
    fs::write(folder.join("nginx.conf"), text).context("writing nginx's configuration")?;
    program(boxed, folder, "nginx -p . -c nginx.conf")
}
