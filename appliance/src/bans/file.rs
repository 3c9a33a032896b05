//! The ban file: one JSON document, replaced as a whole, so that a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::Ban;
use super::score::Record;

/// The format that this program writes and reads.
const VERSION: u32 = 1;

/// What is kept across restarts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    /// The bans.
    pub bans: Vec<Ban>,
    /// Sources with points against them.
    pub offenders: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    bans: Vec<Ban>,
    offenders: Vec<Record>,
}

/// What a file held.
#[derive(Debug)]
pub enum Loaded {
    /// There is no file yet.
    Nothing,
    /// This.
    Kept(Kept),
    /// It cannot be understood and has another name now, for the operator to look at.
    SetAside {
        /// That name.
        to: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a file.
///
/// # Errors
/// If it cannot be read, or set aside.
pub fn load(path: &Path) -> io::Result<Loaded> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
        Err(error) => return Err(error),
    };
    let problem = match serde_json::from_slice::<Document>(&bytes) {
        Ok(Document { version: VERSION, bans, offenders }) => {
            return Ok(Loaded::Kept(Kept { bans, offenders }));
        }
        Ok(other) => format!("its version is {}, expected {VERSION}", other.version),
        Err(error) => error.to_string(),
    };
    let to = free_name(path);
    fs::rename(path, &to)?;
    Ok(Loaded::SetAside { to, problem })
}

/// `bans.json.bad`, or with a number behind it where that is taken.
fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { ".bad".to_owned() } else { format!(".bad.{number}") });
        PathBuf::from(name)
    };
    (0..u32::MAX).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(u32::MAX))
}

/// Replaces the ban file.
///
/// # Errors
/// If a step fails; the old file is still there then.
pub fn save(path: &Path, kept: &Kept) -> io::Result<()> {
    let document = Document { version: VERSION, bans: kept.bans.clone(), offenders: kept.offenders.clone() };
    replace(path, &serde_json::to_vec(&document)?)
}

/// Replaces a file: written beside it, on the disk before it takes the place.
///
/// # Errors
/// If a step fails; the old file is still there then.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The new name is on the disk once its directory is.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
