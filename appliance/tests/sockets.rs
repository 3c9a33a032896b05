//! `driver = "sockets"` as a whole: the program, run as whoever runs the tests, between clients and servers of the kernel.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net;

const BINARY: &str = env!("CARGO_BIN_EXE_hedgerow");
/// Where clients are.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const SOON: Duration = Duration::from_secs(20);

/// Starts a server that gives back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    at
}

/// The program, with a plain listener and one that speaks Chia.
struct Appliance {
    child: Child,
    folder: tempfile::TempDir,
    plain: SocketAddr,
    chia: SocketAddr,
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(args: &[&str], socket: &Path) -> Output {
    Command::new(BINARY).args(args).arg("--socket").arg(socket).output().unwrap()
}

impl Appliance {
    fn start(node: SocketAddr) -> Appliance {
        // Another program may take a port that was free a moment ago: then with others.
        (0..5).find_map(|_| Appliance::try_start(node)).expect("an appliance that comes up")
    }

    fn try_start(node: SocketAddr) -> Option<Appliance> {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        assert!(
            Command::new(BINARY)
                .args(["identity", "new"])
                .arg(file("secret"))
                .output()
                .unwrap()
                .status
                .success()
        );
        let (plain, chia) = (free_port(), free_port());
        // A pool each: light peers visit the nodes of the one that speaks Chia.
        let listener = |name: &str, port: u16, rest: &str| {
            format!(
                "[[listener]]\nname = \"{name}\"\nport = \"public\"\nlocal_port = {port}\npool = \"{name}\"\n{rest}\n\
                 [pool.{name}]\nnodes = [\"n={node}\"]\n"
            )
        };
        let text = format!(
            "version = 1\n[management]\nsocket = {:?}\n\
             [port.public]\ndriver = \"sockets\"\naddress = [\"127.0.0.1/8\"]\n\
             [port.private]\ndriver = \"sockets\"\naddress = [\"127.0.0.9/8\"]\n\
             {}{}[identity]\nsecret = {:?}\n",
            file("hedgerow.sock"),
            listener("plain", plain, "protocol = \"tcp\""),
            listener("peers", chia, "protocol = \"chia\"\nnetwork = \"mainnet\""),
            file("secret"),
        );
        fs::write(file("hedgerow.toml"), text).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let child = Command::new(BINARY)
            .args(["run", "-c"])
            .arg(file("hedgerow.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut appliance = Appliance { child, folder, plain: at(plain), chia: at(chia) };
        let began = Instant::now();
        while !appliance.ask(&["status"]).status.success() {
            if appliance.child.try_wait().unwrap().is_some() {
                let log = appliance.log();
                assert!(log.contains("in use"), "{log}");
                return None;
            }
            assert!(began.elapsed() < SOON, "{}", appliance.log());
            thread::yield_now();
        }
        Some(appliance)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("hedgerow.sock")
    }

    fn ask(&self, args: &[&str]) -> Output {
        command(args, &self.socket())
    }

    fn status(&self) -> serde_json::Value {
        let output = self.ask(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client of another address than those of the appliance, which nobody can ban.
    fn connect(&self, to: SocketAddr) -> TcpStream {
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::from((CLIENT, 0))).unwrap();
        net::connect(&socket, &to).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// What is counted about the node of a pool.
    fn node(&self, pool: &str, what: &str) -> u64 {
        let status = self.status();
        let pools = status["pools"].as_array().unwrap();
        let pool = pools.iter().find(|one| one["name"] == pool).unwrap();
        pool["nodes"][0][what].as_u64().unwrap()
    }

    /// Waits until it is so.
    #[track_caller]
    fn until(&self, so: impl Fn(&Appliance) -> bool) {
        let began = Instant::now();
        while !so(self) {
            assert!(began.elapsed() < SOON, "{:#}", self.status());
        }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `bytes`, says that this is all, and reads until the end.
fn there_and_back(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let mut back = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut back).unwrap();
    });
    back
}

#[test]
fn streams_arrive_whole_both_ways_and_each_side_ends_by_itself() {
    let appliance = Appliance::start(echo());
    // More than all buffers on the way hold, so that both directions have to wait for each other.
    let bytes: Vec<u8> = (0u32..3_000_000).flat_map(u32::to_le_bytes).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(there_and_back(appliance.connect(appliance.plain), &bytes) == bytes));
        }
    });
    assert_eq!(appliance.node("plain", "connected"), 4);
    appliance.until(|appliance| appliance.node("plain", "sessions") == 0);
    let text = String::from_utf8(appliance.ask(&["status"]).stdout).unwrap();
    assert!(text.contains("port public: 127.0.0.1/8; ordinary sockets: floods below TLS"), "{text}");
    assert!(appliance.log().contains("ordinary sockets: floods below TLS"), "{}", appliance.log());
}

#[test]
fn what_is_no_client_hello_and_who_is_banned_never_reaches_the_node() {
    let appliance = Appliance::start(echo());
    let mut rude = appliance.connect(appliance.chia);
    rude.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // An alert or a reset; never a byte of the node's.
    let _ = rude.read_to_end(&mut said);
    assert!(said.is_empty() || said[0] == 21, "{said:?}");
    assert_eq!(appliance.node("peers", "connected"), 0);

    let mut there = appliance.connect(appliance.plain);
    there.write_all(b"a").unwrap();
    there.read_exact(&mut [0]).unwrap();
    let added = appliance.ask(&["bans", "add", "127.0.0.5", "--for", "1h", "--reason", "test"]);
    assert!(added.status.success(), "{added:?}");
    // Who was there is ended, who comes is reset.
    assert_eq!(there.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let late = appliance.connect(appliance.plain);
    assert_eq!((&late).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(appliance.node("plain", "connected"), 1);
    assert!(appliance.ask(&["bans", "lift", "127.0.0.5"]).status.success());
    assert_eq!(there_and_back(appliance.connect(appliance.plain), b"again"), b"again");
}

#[test]
fn a_node_that_is_not_there_costs_its_caller_only() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let appliance = Appliance::start(nobody);
    let mut caller = appliance.connect(appliance.plain);
    let _ = caller.write_all(b"hello");
    let mut said = Vec::new();
    let _ = caller.read_to_end(&mut said);
    assert!(said.is_empty(), "{said:?}");
    appliance.until(|appliance| appliance.node("plain", "failed") == 1);
}

#[test]
fn asked_to_stop_it_ends_in_order_and_frees_its_ports() {
    let mut appliance = Appliance::start(echo());
    let mut there = appliance.connect(appliance.plain);
    there.write_all(b"a").unwrap();
    there.read_exact(&mut [0]).unwrap();
    let process = rustix::process::Pid::from_child(&appliance.child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(appliance.child.wait().unwrap().success(), "{}", appliance.log());
    let _ = there.read_to_end(&mut Vec::new());
    let refused = TcpStream::connect(appliance.plain).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
