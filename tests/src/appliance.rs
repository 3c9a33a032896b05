//! The binary under test: started in a namespace with a configuration, asked for its status, stopped with the test.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::check::{Context, Outcome, wait_for};
use crate::rig::{Namespace, Process};

/// A directory of its own for one test, removed at its end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory. Its name is taken by nobody else: in a namespace of its own every run has the same process
    /// numbers.
    pub fn new(name: &str) -> Outcome<Self> {
        for number in 0..1_000 {
            let path = std::env::temp_dir().join(format!("hedgerow-{name}-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    return made.context(format_args!("creating {}", path.display())).map(|()| Scratch(path));
                }
            }
        }
        Err(format!("{} is full of scratch folders named hedgerow-{name}", std::env::temp_dir().display()))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One port of the configuration.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// Name in the configuration.
    pub name: &'static str,
    /// The device.
    pub device: String,
    /// `af-packet`, `af-xdp`, `tap` or `sockets`.
    pub driver: &'static str,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
}

impl PortSetup {
    /// Its section in the configuration.
    pub fn section(&self) -> String {
        // Ordinary sockets have no device.
        let device = match self.driver {
            "sockets" => String::new(),
            _ => format!("device = {:?}\n", self.device),
        };
        format!(
            "[port.{}]\n{device}driver = {:?}\naddress = {:?}\n\n",
            self.name, self.driver, self.addresses
        )
    }
}

/// A running `hedgerow run`.
#[derive(Debug)]
pub struct Appliance {
    process: Process,
    binary: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Appliance {
    /// Starts it inside `namespace` with the given sections after the general ones, and waits until it answers.
    pub fn start(namespace: &Namespace, scratch: &Scratch, sections: &str) -> Outcome<Self> {
        Appliance::start_in_mode(namespace, scratch, "enforce", sections)
    }

    /// Starts it where this process is.
    pub fn start_here(scratch: &Scratch, sections: &str) -> Outcome<Self> {
        let binary = binary()?;
        Appliance::launch(Command::new(&binary), binary, scratch, "enforce", sections)
    }

    /// As [`Appliance::start`], in this mode.
    pub fn start_in_mode(
        namespace: &Namespace,
        scratch: &Scratch,
        mode: &str,
        sections: &str,
    ) -> Outcome<Self> {
        let binary = binary()?;
        let command = namespace.command(&binary);
        Appliance::launch(command, binary, scratch, mode, sections)
    }

    /// As [`Appliance::start`], but it ends with the thread that started it.
    pub fn start_tethered(namespace: &Namespace, scratch: &Scratch, sections: &str) -> Outcome<Self> {
        let binary = binary()?;
        let command = namespace.tethered(&binary);
        Appliance::launch(command, binary, scratch, "enforce", sections)
    }

    /// Starts it as an operator does: the files of `folder` lie in /etc/hedgerow, the given one is its configuration, and a
    /// secret was made for it. `/etc`, `/run`, `/var/lib` and `/var/log` are its own, and lie in `place`.
    pub fn install(namespace: &Namespace, place: &Path, folder: &Path, config: &str) -> Outcome<Self> {
        const SCRIPT: &str = "exec 3<\"$1\"
            for part in etc run var/lib var/log; do mount --bind \"$2/$part\" \"/$part\"; done
            exec /proc/self/fd/3 run -c \"/etc/hedgerow/$3\"";
        let binary = binary()?;
        let etc = place.join("etc/hedgerow");
        for part in
            [&etc, &place.join("run"), &place.join("var/lib/hedgerow"), &place.join("var/log/hedgerow")]
        {
            fs::create_dir_all(part).context(part.display())?;
        }
        for file in fs::read_dir(folder).context(folder.display())? {
            let file = file.context(folder.display())?;
            fs::copy(file.path(), etc.join(file.file_name())).context(file.path().display())?;
        }
        let secret = etc.join("secret");
        if !secret.exists() {
            let made = Command::new(&binary).args(["identity", "new"]).arg(&secret).output();
            let made = made.context("making a secret")?;
            if !made.status.success() {
                return Err(format!("making a secret: {}", String::from_utf8_lossy(&made.stderr).trim()));
            }
        }
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--", "sh", "-ec", SCRIPT, "sh"]).arg(&binary).arg(place).arg(config);
        let (socket, log) = (place.join("run/hedgerow.sock"), place.join("hedgerow.log"));
        Appliance::spawn(command, binary, socket, log)
    }

    /// The events that it has written, where its configuration has the usual file for them.
    pub fn events(place: &Path) -> Outcome<Vec<Value>> {
        let path = place.join("var/log/hedgerow/events.json");
        let text = fs::read_to_string(&path).context(path.display())?;
        text.lines().map(|line| serde_json::from_str(line).context(line)).collect()
    }

    fn launch(
        mut command: Command,
        binary: PathBuf,
        scratch: &Scratch,
        mode: &str,
        sections: &str,
    ) -> Outcome<Self> {
        let file = |name: &str| scratch.path().join(name);
        let (config, socket, log) = (file("hedgerow.toml"), file("hedgerow.sock"), file("hedgerow.log"));
        let mut text = format!("version = 1\nmode = {mode:?}\n\n");
        let _ = writeln!(text, "[management]\nsocket = {:?}\nevents = {:?}\n", socket, file("events.json"));
        text += sections;
        fs::write(&config, text).context("writing the configuration")?;
        command.arg("run").arg("-c").arg(&config);
        Appliance::spawn(command, binary, socket, log)
    }

    fn spawn(mut command: Command, binary: PathBuf, socket: PathBuf, log: PathBuf) -> Outcome<Self> {
        let output = fs::File::create(&log).context("creating a log")?;
        let errors = output.try_clone().context("sharing a log")?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("starting the appliance")?;
        let mut appliance = Appliance { process: Process(process), binary, socket, log };
        appliance.wait_until_up()?;
        Ok(appliance)
    }

    /// Waits until it answers.
    pub fn wait_until_up(&mut self) -> Outcome {
        wait_for("the appliance answers", Duration::from_secs(20), || {
            if let Some(status) = self.process.0.try_wait().context("looking at the appliance")? {
                return Err(format!("it ended with {status}:\n{}", self.log()));
            }
            Ok(self.status().ok())
        })
        .map(drop)
    }

    /// What `hedgerow status --json` says.
    pub fn status(&self) -> Outcome<Value> {
        let output = Command::new(&self.binary)
            .args(["status", "--json", "--socket"])
            .arg(&self.socket)
            .output()
            .context("asking for the status")?;
        if !output.status.success() {
            return Err(format!("status: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        serde_json::from_slice(&output.stdout).context("reading the status")
    }

    /// What a command of the program says that asks this appliance, such as `reload`.
    pub fn ask(&self, command: &[&str]) -> Outcome<String> {
        let output = Command::new(&self.binary).args(command).arg("--socket").arg(&self.socket).output();
        let output = output.context(format_args!("asking for {command:?}"))?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.process.0.id()
    }

    /// Memory that the kernel has given it, in KiB.
    pub fn memory(&self) -> Outcome<u64> {
        let path = format!("/proc/{}/status", self.process());
        let text = fs::read_to_string(&path).context(&path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory")?;
        line.trim().trim_end_matches(" kB").parse().context("resident memory")
    }

    /// Still running?
    pub fn alive(&mut self) -> Outcome {
        match self.process.0.try_wait().context("looking at the appliance")? {
            None => Ok(()),
            Some(status) => Err(format!("the appliance ended with {status}:\n{}", self.log())),
        }
    }

    /// The last lines of what it printed.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The binary beside this one, or the one that `HEDGEROW_BINARY` names.
pub fn binary() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("HEDGEROW_BINARY") {
        return Ok(path.into());
    }
    let path = std::env::current_exe().context("finding this binary")?.with_file_name("hedgerow");
    if path.exists() { Ok(path) } else { Err(format!("{} has not been built", path.display())) }
}
