//! The command line: what can be asked for, and the exit status.
//!
//! 0: done. 1: refused, with the reason on standard error. 2: the command line itself is wrong.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hedgerow_policy::PeerId;
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;

use crate::config::units::NodeId;
use crate::config::{Config, LoadError};
use crate::identity::Secret;
use crate::management::{self, Request, Response};
use crate::node_config::{self, NodeFile};
use crate::node_setup::{self, Way};
use crate::rules::why::WhyArgs;
use crate::rules::{Policy, PolicyError};
use crate::{bans, check, doctor, egress, explain, nodes, rules, run};

#[derive(Parser)]
#[command(
    name = "hedgerow",
    version,
    about = "A firewall appliance for Chia full nodes",
    long_about = "A firewall appliance for Chia full nodes: its own TCP stack, TLS, WebSocket and every Chia message, \
                  before a node hears of it.",
    after_help = "Examples:\n  \
        hedgerow lab                                   see it at work, without privileges or network\n  \
        hedgerow identity new /etc/hedgerow/secret     once per fleet\n  \
        hedgerow check /etc/hedgerow/hedgerow.toml     before every change\n  \
        hedgerow run -c /etc/hedgerow/hedgerow.toml    the appliance\n  \
        hedgerow reload --dry-run                      what a changed policy would mean\n  \
        hedgerow status                                what it does and what it refuses"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the appliance until SIGTERM or SIGINT
    #[command(after_help = "Example:\n  hedgerow run -c /etc/hedgerow/hedgerow.toml --log-format json")]
    Run(RunArgs),
    /// Check configuration files and say what they would do
    #[command(
        after_help = "Examples:\n  hedgerow check /etc/hedgerow/hedgerow.toml\n  hedgerow check --node-config a=/mnt/a/config.yaml\n  hedgerow check --why full_node request_blocks\n  hedgerow check --why wallet rate_limited --from 192.0.2.7 --version 2.4.0 hedgerow.toml\n\nThe policy that a configuration names is checked with it. Exits with 1 if any file is wrong."
    )]
    Check {
        /// The files
        #[arg(default_value = "/etc/hedgerow/hedgerow.toml")]
        files: Vec<PathBuf>,
        /// A node's own config.yaml, to be held against the configuration; may be given for each node
        #[arg(long = "node-config", value_name = "NODE=FILE")]
        nodes: Vec<NodeFile>,
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Say what this machine allows, a line for each thing that matters, and what to do where it is wanting
    #[command(
        after_help = "Examples:\n  hedgerow doctor\n  hedgerow doctor /etc/hedgerow/hedgerow.toml      its devices, files and cores as well\n\nIt only looks. Exits with 1 where the appliance could not run."
    )]
    Doctor {
        /// A configuration whose demands are looked at, too
        file: Option<PathBuf>,
    },
    /// Print what a node's machine needs so that its sessions pass the appliance, and what undoes it
    #[command(
        after_help = "Examples:\n  hedgerow node-setup a\n  hedgerow node-setup a --way gateway\n\nNothing is carried out: read it, and paste it on the node as root."
    )]
    NodeSetup {
        /// The node's name, or its ADDRESS:PORT
        node: String,
        /// The configuration
        #[arg(short, long, value_name = "FILE", default_value = "/etc/hedgerow/hedgerow.toml")]
        config: PathBuf,
        /// How the answers of a node that sees the peers' own addresses come back
        #[arg(long, value_enum, default_value = "rule")]
        way: Way,
    },
    /// Read the policy of a running appliance anew: show what changes, put it in force, go back
    #[command(
        after_help = "Examples:\n  hedgerow reload --dry-run\n  hedgerow reload --confirm 60s && hedgerow reload confirm\n  hedgerow reload undo\n  hedgerow reload history\n\nA policy that is wrong changes nothing. Sessions that stand go on by the rules that they began with, unless --enforce-now says otherwise."
    )]
    Reload(rules::cli::ReloadArgs),
    /// Show what the policy decided and did not carry out as a refusal: in shadow, or by an action that passes a message
    #[command(after_help = "Example:\n  hedgerow report --json | jq '.lines[] | select(.shadow)'")]
    Report(ClientArgs),
    /// What editors need for policy.toml
    #[command(subcommand)]
    Policy(rules::cli::PolicyCommand),
    /// Show what a running appliance does: ports, flows, sessions, nodes, refusals, memory
    #[command(after_help = "Examples:\n  hedgerow status\n  hedgerow status --json | jq .refused")]
    Status(ClientArgs),
    /// Show the last session events of a running appliance: who was connected to which node, who was closed and why
    #[command(after_help = "Example:\n  hedgerow events --json | jq 'select(.event == \"closed\")'")]
    Events(ClientArgs),
    /// Show, add, remove and weigh the nodes of a running appliance
    #[command(
        after_help = "Examples:\n  hedgerow nodes\n  hedgerow nodes add d=10.0.1.14:8444\n  hedgerow nodes weigh a 3\n\nStates: up, degraded (slow, or it refuses our light peer), lagging (behind, or on a lighter fork), syncing, down, draining, maintenance."
    )]
    Nodes(nodes::cli::NodesArgs),
    /// Take a node out of service gently, or the whole appliance before a restart
    #[command(
        after_help = "Examples:\n  hedgerow drain a                 until `hedgerow undrain a`\n  hedgerow drain a --for 20m       back by itself\n  hedgerow drain self              ends the appliance once nobody is left\n\nNew sessions go elsewhere at once. Those that are there end one by one, idle ones first, with a code that makes peers come back."
    )]
    Drain(nodes::cli::DrainArgs),
    /// Put a node, or the appliance, back into service
    #[command(after_help = "Example:\n  hedgerow undrain a")]
    Undrain(nodes::cli::UndrainArgs),
    /// Show, open and close the way out of a running appliance's nodes
    #[command(
        after_help = "Examples:\n  hedgerow egress\n  hedgerow egress open b --for 1h\n  hedgerow egress close b\n\nWho may go out, and where to, is in the configuration, section [egress]."
    )]
    Egress(egress::cli::EgressArgs),
    /// Show, set and lift bans of a running appliance
    #[command(subcommand)]
    Bans(bans::cli::BansCommand),
    /// Explain the reasons for which frames, flows and sessions are refused
    #[command(after_help = "Examples:\n  hedgerow explain bad_cookie\n  hedgerow explain --all")]
    Explain {
        /// A reason, as counters and events name it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        reason: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// As a Markdown document
        #[arg(long, requires = "all", conflicts_with = "reason")]
        markdown: bool,
    },
    /// See everything in one process, without privileges: peers, attackers, a node, and Hedgerow between them
    #[cfg(feature = "lab")]
    #[command(
        after_help = "Examples:\n  hedgerow lab\n  hedgerow lab --seconds 30 --seed 7 --json\n  hedgerow lab --shards 4"
    )]
    Lab(LabArgs),
    /// Make and show the secret that a fleet's identities derive from
    #[command(subcommand)]
    Identity(Identity),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  hedgerow completions bash > /etc/bash_completion.d/hedgerow")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    log_format: LogFormat,
    /// Which log lines there are: a level, or levels per module
    #[arg(long, env = "HEDGEROW_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Human,
    /// JSON lines
    Json,
}

#[derive(Args)]
pub(crate) struct ClientArgs {
    /// The appliance's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/hedgerow.sock")]
    pub(crate) socket: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "lab")]
#[derive(Args)]
struct LabArgs {
    /// Virtual seconds to run for
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where all chance comes from: the same seed tells the same story
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Shards of the appliance, each with a queue of its simulated network cards
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Print one JSON object at the end instead of the story
    #[arg(long)]
    json: bool,
    /// No colours, no lines rewritten in place
    #[arg(long)]
    no_color: bool,
}

#[derive(Subcommand)]
enum Identity {
    /// Draw a new fleet secret into a file that must not exist yet (mode 0600)
    #[command(
        after_help = "Example:\n  hedgerow identity new /etc/hedgerow/secret\n\nCopy the file to every appliance of the fleet."
    )]
    New {
        /// The file
        file: PathBuf,
    },
    /// Show what derives from a fleet secret; never the secret itself
    #[command(
        after_help = "Example:\n  hedgerow identity show /etc/hedgerow/secret --service 203.0.113.7:8444\n  hedgerow identity show /etc/hedgerow/secret --service 10.0.1.1:8444 --pem   for a wallet's trusted_peers"
    )]
    Show {
        /// The file
        file: PathBuf,
        /// The node id that peers see at this service address
        #[arg(long, value_name = "ADDRESS:PORT")]
        service: Vec<SocketAddr>,
        /// The id under which nodes see the peer with this id
        #[arg(long, value_name = "NODE_ID")]
        peer: Vec<NodeId>,
        /// Their certificates too, in PEM form: for `trusted_peers`; never a key
        #[arg(long)]
        pem: bool,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run_appliance(&args),
        Command::Check { files, nodes, why } => check_files(&files, &nodes, &why),
        Command::Doctor { file } => diagnose(file.as_deref()),
        Command::NodeSetup { node, config, way } => {
            load(&config).and_then(|config| print(&node_setup::lines(&config, &node, way)?))
        }
        Command::Reload(args) => rules::cli::reload(&args),
        Command::Report(args) => rules::cli::report(&args),
        Command::Policy(command) => rules::cli::policy(&command),
        Command::Status(args) => status(&args),
        Command::Events(args) => events(&args),
        Command::Nodes(args) => nodes::cli::nodes(args),
        Command::Drain(args) => nodes::cli::drain(args),
        Command::Undrain(args) => nodes::cli::undrain(args),
        Command::Egress(args) => egress::cli::egress(args),
        Command::Bans(command) => bans::cli::run(&command),
        Command::Explain { reason, all: _, markdown } => explain_reason(reason.as_deref(), markdown),
        #[cfg(feature = "lab")]
        Command::Lab(args) => lab(&args),
        Command::Identity(Identity::New { file }) => identity_new(&file),
        Command::Identity(Identity::Show { file, service, peer, pem }) => {
            identity_show(&file, &service, &peer, pem)
        }
        Command::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            if !message.is_empty() {
                eprintln!("hedgerow: {message}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Loads a configuration; its warnings and errors go to standard error.
fn load(path: &Path) -> Result<Config, String> {
    let colour = std::io::stderr().is_terminal();
    match Config::load(path) {
        Ok((config, report)) => {
            eprint!("{}", report.render(colour));
            Ok(config)
        }
        Err(LoadError::Wrong(report)) => {
            eprint!("{}", report.render(colour));
            let count = report.diagnostics.iter().filter(|d| d.fatal).count();
            let errors = if count == 1 { "error" } else { "errors" };
            Err(format!("{}: {count} {errors}", path.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn run_appliance(args: &RunArgs) -> Result<(), String> {
    let config = load(&args.config)?;
    let filter =
        tracing_subscriber::EnvFilter::try_new(&args.log).map_err(|e| format!("--log {}: {e}", args.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Human => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    run::run(config).map_err(|error| error.to_string())
}

/// The policy that a configuration names; its warnings and errors go to standard error.
fn load_policy(config: &Config) -> Result<Policy, String> {
    let colour = std::io::stderr().is_terminal();
    match Policy::load(config) {
        Ok((policy, report)) => {
            eprint!("{}", report.map(|report| report.render(colour)).unwrap_or_default());
            Ok(policy)
        }
        Err(PolicyError::Wrong(report)) => {
            eprint!("{}", report.render(colour));
            Err(format!("{}: the policy is wrong", report.path))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn check_files(files: &[PathBuf], nodes: &[NodeFile], why: &WhyArgs) -> Result<(), String> {
    let mut wrong = Vec::new();
    for path in files {
        match load(path).and_then(|config| load_policy(&config).map(|policy| (config, policy))) {
            Ok((config, policy)) if why.why.is_some() => {
                print(&rules::why::explain(&config, &policy, why)?)?;
            }
            Ok((config, policy)) => {
                print(&format!("{}: valid\n{}", path.display(), indent(&check::summary(&config))))?;
                print(&indent(&check::policy(&policy)))?;
                let mut problems = check::machine(&config);
                for node in nodes {
                    problems.extend(node_config::compare(&config, node)?);
                }
                for (fatal, problem) in problems {
                    if fatal {
                        wrong.push(problem);
                    } else {
                        eprintln!("warning: {problem}");
                    }
                }
            }
            Err(message) => wrong.push(message),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\nhedgerow: ")) }
}

fn diagnose(file: Option<&Path>) -> Result<(), String> {
    let config = file.map(load).transpose()?;
    let findings = doctor::findings(config.as_ref(), doctor::Roots::here());
    let text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    print(&text)?;
    match findings.iter().filter(|finding| finding.level == doctor::Level::Bad).count() {
        0 => Ok(()),
        count => Err(format!("{count} of these must be mended before the appliance can run")),
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Asks a running appliance, and says what to do where there is none.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Response, String> {
    let answer = management::ask(socket, request);
    let socket = socket.display();
    match answer {
        Ok(Response::Error(error)) => Err(error),
        Ok(response) => Ok(response),
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                format!(
                    "no appliance answers at {socket}: is it running, and is this its `management.socket`?"
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("{socket} belongs to another user: ask as that user or as root")
            }
            _ => format!("{socket}: {error}"),
        }),
    }
}

fn status(args: &ClientArgs) -> Result<(), String> {
    match ask(&args.socket, &Request::Status)? {
        Response::Status(status) if args.json => print(&json(&status)?),
        Response::Status(status) => print(&status.to_string()),
        _ => Err("the appliance gave another answer than was asked for".to_owned()),
    }
}

fn events(args: &ClientArgs) -> Result<(), String> {
    let Response::Events(events) = ask(&args.socket, &Request::Events)? else {
        return Err("the appliance gave another answer than was asked for".to_owned());
    };
    for event in events {
        let line = match args.json {
            true => serde_json::to_string(&event).map_err(|error| error.to_string())?,
            false => event.to_string(),
        };
        print(&(line + "\n"))?;
    }
    Ok(())
}

fn explain_reason(reason: Option<&str>, markdown: bool) -> Result<(), String> {
    if markdown {
        return print(&explain::markdown());
    }
    let entries = match reason {
        Some(reason) => explain::find(reason)?,
        None => explain::entries(),
    };
    for entry in entries {
        let decider = match entry.decider {
            explain::Decider::Dataplane => "frames and flows",
            explain::Decider::Policy => "sessions",
        };
        print(&format!("{} ({decider})\n    {}\n", entry.name, entry.manual))?;
    }
    Ok(())
}

#[cfg(feature = "lab")]
fn lab(args: &LabArgs) -> Result<(), String> {
    let terminal = std::io::stdout().is_terminal() && !args.no_color;
    let options = hedgerow_lab::Options {
        seconds: args.seconds,
        seed: args.seed,
        json: args.json,
        paced: !args.json && std::io::stdout().is_terminal(),
        terminal,
    };
    crate::lab::run(&options, args.shards)
}

fn identity_new(file: &Path) -> Result<(), String> {
    Secret::create(file).map_err(|error| error.to_string())?;
    print(&format!("{}: a new fleet secret; keep it secret, keep a copy\n", file.display()))
}

fn identity_show(file: &Path, services: &[SocketAddr], peers: &[NodeId], pem: bool) -> Result<(), String> {
    let secret = Secret::load(file).map_err(|error| error.to_string())?;
    let authority = Authority::chia().map_err(|error| error.to_string())?;
    let fleet = Fleet::new(secret.bytes(), &authority).map_err(|error| error.to_string())?;
    let fingerprint: String =
        secret.derive("fingerprint")[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!("fleet {fingerprint} (equal on appliances that share the secret)\n"))?;
    for service in services {
        let credential =
            fleet.service(&authority, service.ip(), service.port()).map_err(|e| e.to_string())?;
        let pem = if pem { credential.certificate_pem() } else { String::new() };
        print(&format!("service {service}: {}\n{pem}", id(credential.id())))?;
    }
    for peer in peers {
        let credential = fleet.identity(PeerId(peer.0)).map_err(|error| error.to_string())?;
        let pem = if pem { credential.certificate_pem() } else { String::new() };
        print(&format!("peer {}: nodes see {}\n{pem}", PeerId(peer.0), id(credential.id())))?;
    }
    Ok(())
}

fn id(id: Option<PeerId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

fn completions(shell: Shell) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hedgerow", &mut script);
    print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn explain_wants_a_reason_or_all() {
        for (args, good) in [
            (vec!["explain"], false),
            (vec!["explain", "--all"], true),
            (vec!["explain", "martian"], true),
            (vec!["explain", "martian", "--all"], false),
            (vec!["explain", "martian", "--markdown"], false),
            (vec!["explain", "--all", "--markdown"], true),
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("hedgerow").chain(args.iter().copied()));
            assert_eq!(parsed.is_ok(), good, "{args:?}");
        }
    }
}
