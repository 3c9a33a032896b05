//! The fleet secret: one file of 64 hexadecimal digits, readable by its owner alone, that all appliances of a fleet share.
//!
//! Everything that has to be equal on all of them derives from it: cookies, the certificates of service addresses, and
//! the identity that a node sees for each peer.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::units::hex32;

/// A fleet secret. Its value is never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

/// Why a secret file cannot be used or made.
#[derive(Debug)]
pub struct SecretError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Missing,
    Exists,
    /// The bits of its mode.
    Open(u32),
    Malformed,
    Io(io::Error),
}

impl Secret {
    /// Reads a secret file. Refuses one that others can read.
    pub fn load(path: &Path) -> Result<Secret, SecretError> {
        let fail = |problem| SecretError { path: path.to_owned(), problem };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => fail(Problem::Missing),
            _ => fail(Problem::Io(source)),
        };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(fail(Problem::Open(mode)));
        }
        let mut text = String::new();
        // One digit more than there may be tells a longer file apart.
        file.take(66).read_to_string(&mut text).map_err(io)?;
        hex32(text.trim_end()).map(Secret).ok_or_else(|| fail(Problem::Malformed))
    }

    /// Draws a new secret and writes it to a file that must not exist yet, with mode 0600.
    pub fn create(path: &Path) -> Result<Secret, SecretError> {
        let fail = |problem| SecretError { path: path.to_owned(), problem };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => fail(Problem::Exists),
            _ => fail(Problem::Io(source)),
        };
        let secret = Secret(random().map_err(io)?);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        let digits: String = secret.0.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{digits}").and_then(|()| file.sync_all()).map_err(io)?;
        Ok(secret)
    }

    /// A secret that nobody shares: for an appliance whose listeners need no identities.
    pub fn ephemeral() -> io::Result<Secret> {
        random().map(Secret)
    }

    /// The secret itself.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for one purpose (HKDF with SHA-256, RFC 5869).
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        let hkdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(b"hedgerow appliance 1"), &self.0);
        // An output of one block is always possible (RFC 5869, section 2.3).
        if hkdf.expand(purpose.as_bytes(), &mut key).is_err() {
            unreachable!("32 bytes are one block of SHA-256");
        }
        key
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Missing => write!(
                f,
                "the fleet secret {path} does not exist: make one with `hedgerow identity new {path}`, or copy the \
                 fleet's from another appliance"
            ),
            Problem::Exists => write!(
                f,
                "{path} exists already; a new secret would change every identity, so remove the file yourself if that \
                 is what you want"
            ),
            Problem::Open(mode) => write!(
                f,
                "the fleet secret {path} can be read by others (mode {mode:04o}): `chmod 600 {path}`, and consider it \
                 known if others use this machine"
            ),
            Problem::Malformed => {
                write!(f, "the fleet secret {path} is damaged: expected 64 hexadecimal digits")
            }
            Problem::Io(source) => write!(f, "the fleet secret {path}: {source}"),
        }
    }
}

impl std::error::Error for SecretError {}

/// A key that follows from a number: for simulations, where nothing is secret.
pub fn expand(seed: u64, purpose: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Secret(bytes).derive(purpose)
}

/// Bytes from the operating system's generator.
pub fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_survives_its_file_and_keys_differ_by_purpose() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let made = Secret::create(&path).unwrap();
        let read = Secret::load(&path).unwrap();
        assert_eq!(made.bytes(), read.bytes());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(read.derive("cookies"), read.derive("identities"));
        assert_eq!(made.derive("cookies"), read.derive("cookies"));
    }

    #[test]
    fn files_that_must_not_be_used_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let error = |path: &Path| Secret::load(path).unwrap_err().to_string();
        assert!(error(&path).contains("identity new"), "{}", error(&path));
        Secret::create(&path).unwrap();
        assert!(Secret::create(&path).unwrap_err().to_string().contains("exists already"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(error(&path).contains("chmod 600"), "{}", error(&path));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        for text in ["", "abc", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            std::fs::write(&path, text).unwrap();
            assert!(error(&path).contains("64 hexadecimal digits"), "{text:?}: {}", error(&path));
        }
    }
}
