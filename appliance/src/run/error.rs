//! Why the appliance did not start, or stopped.

use std::fmt;
use std::path::PathBuf;

use hedgerow_port::OpenError;

use super::share::ShareError;
use crate::assemble::AssembleError;
use crate::core::PortFault;
use crate::identity::SecretError;
use crate::rules::PolicyError;
use crate::sockets::BindError;

/// Why the appliance did not start, or stopped.
#[derive(Debug)]
pub enum RunError {
    /// A port could not be opened.
    Port(String, OpenError),
    /// A socket cannot listen.
    Listen(BindError),
    /// A port stopped working.
    Fault(String, PortFault),
    /// The fleet secret cannot be used.
    Secret(SecretError),
    /// Certificates or TLS cannot be set up.
    Assemble(AssembleError),
    /// The control socket cannot be opened.
    Socket(PathBuf, std::io::Error),
    /// The event file cannot be opened.
    Events(PathBuf, std::io::Error),
    /// The ban file cannot be read.
    Bans(PathBuf, std::io::Error),
    /// The file of changes to nodes cannot be read.
    Nodes(PathBuf, std::io::Error),
    /// The file of known peers cannot be read.
    Known(PathBuf, std::io::Error),
    /// The file of leases cannot be read.
    Leases(PathBuf, std::io::Error),
    /// The policy cannot be used.
    Policy(PolicyError),
    /// The core that the configuration names is not there.
    NoCore(usize, usize),
    /// An address cannot be shared with the kernel.
    Share(String, ShareError),
    /// A shard's thread ended without a word: a fault in the program.
    Shard(u16),
    /// The operating system refused something else.
    System(&'static str, std::io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Port(name, error) => write!(f, "port.{name}: {error}"),
            RunError::Listen(error) => error.fmt(f),
            RunError::Fault(name, fault) => write!(f, "port.{name} stopped working: {}", fault.error),
            RunError::Secret(error) => error.fmt(f),
            RunError::Assemble(error) => error.fmt(f),
            RunError::Socket(path, error) => write!(
                f,
                "the control socket {}: {error}; its directory must exist and be writable, see `management.socket`",
                path.display()
            ),
            RunError::Bans(path, error) => write!(
                f,
                "the ban file {}: {error}; its directory must exist and be writable, see `bans.file`",
                path.display()
            ),
            RunError::Nodes(path, error) => {
                write!(f, "the file of changes to nodes {}: {error}, see `management.nodes`", path.display())
            }
            RunError::Leases(path, error) => write!(f, "the file of leases {}: {error}", path.display()),
            RunError::Known(path, error) => {
                write!(f, "the file of known peers {}: {error}, see `management.known`", path.display())
            }
            RunError::Policy(error) => error.fmt(f),
            RunError::Events(path, error) => write!(
                f,
                "the event file {}: {error}; its directory must exist and be writable, see `management.events`",
                path.display()
            ),
            RunError::NoCore(core, count) => write!(
                f,
                "cores.dataplane: core {core} is not among the {count} that this machine lends us; write \"auto\" or a number below"
            ),
            RunError::Share(name, error) => write!(f, "port.{name}: {error}"),
            RunError::Shard(shard) => {
                write!(f, "shard {shard} ended by a fault in the program, which the log above tells more of")
            }
            RunError::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for RunError {}
