//! The image as the appliance: a virtual machine under software emulation, whose two virtio devices end in TAP devices of
//! the namespace that it was started in. Nothing but its console tells how it does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::appliance::Scratch;
use crate::check::{Context, Outcome, wait_for};
use crate::rig::{Namespace, Process};

/// Everything is slow under emulation.
const BOOT: Duration = Duration::from_secs(150);
/// The status is printed once a second, of the machine's time.
const REPORT: Duration = Duration::from_secs(30);

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    console: PathBuf,
}

/// Where the image's parts are, if this run has them.
pub fn image() -> Option<PathBuf> {
    std::env::var_os("HEDGEROW_TEST_IMAGE").map(PathBuf::from)
}

impl Machine {
    /// Boots the image with these sections of a configuration. `taps` are the names of the devices' other ends, in the order
    /// of the machine's `eth0`, `eth1`.
    pub fn start(namespace: &Namespace, scratch: &Scratch, sections: &str, taps: [&str; 2]) -> Outcome<Self> {
        let image = image().context("HEDGEROW_TEST_IMAGE")?;
        let config = scratch.path().join("hedgerow.toml");
        fs::write(&config, format!("version = 1\nmode = \"enforce\"\n\n{sections}"))
            .context("writing the configuration")?;
        let initramfs = scratch.path().join("initramfs.gz");
        with_config(&image.join("initramfs.gz"), &config, &initramfs)?;
        let console = scratch.path().join("console");
        let mut command = namespace.command(Path::new("qemu-system-x86_64"));
        command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nic", "none"]);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-kernel"]);
        command.arg(image.join("vmlinuz")).arg("-initrd").arg(&initramfs);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-append", "console=ttyS0 panic=-1 quiet hedgerow.report=1"]);
        for (number, tap) in taps.iter().enumerate() {
            command.arg("-netdev").arg(format!("tap,id=n{number},ifname={tap},script=no,downscript=no"));
            let mac = format!("52:54:00:00:00:0{}", number + 1);
            command.arg("-device").arg(format!("virtio-net-pci,netdev=n{number},mac={mac}"));
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(scratch.path().join("qemu.log")).context("creating a log")?)
            .spawn()
            .context("starting QEMU")?;
        Ok(Machine { process: Process(process), console })
    }

    /// Waits until the appliance in it has said how it does.
    pub fn wait_until_up(&mut self) -> Outcome {
        wait_for("the machine serves", BOOT, || {
            self.alive()?;
            Ok(self.reports().last().is_some().then_some(()))
        })
    }

    /// The next status that it prints, with the one under way passed over.
    pub fn status(&self) -> Outcome<Value> {
        let before = self.reports().len();
        wait_for("the machine says how it does", REPORT, || {
            let mut reports = self.reports();
            Ok(reports.pop().filter(|_| reports.len() > before))
        })
    }

    fn reports(&self) -> Vec<Value> {
        self.text()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(Value::is_object)
            .collect()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Still running?
    pub fn alive(&mut self) -> Outcome {
        match self.process.0.try_wait().context("looking at the machine")? {
            None => Ok(()),
            Some(status) => Err(format!("the machine ended with {status}:\n{}", self.log())),
        }
    }

    /// QEMU's process.
    pub fn process(&self) -> u32 {
        self.process.0.id()
    }

    /// The last lines of the console, but for reports.
    pub fn log(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Packs a configuration behind the image's own files: the kernel unpacks both archives, one after the other.
fn with_config(image: &Path, config: &Path, out: &Path) -> Outcome {
    let script = "set -eu
        folder=$(mktemp -d); trap 'rm -r \"$folder\"' EXIT
        mkdir -p \"$folder/etc/hedgerow\"; cp \"$2\" \"$folder/etc/hedgerow/hedgerow.toml\"
        cp \"$1\" \"$3\"; cd \"$folder\"
        printf '%s\\n' etc etc/hedgerow etc/hedgerow/hedgerow.toml | cpio -o --quiet -H newc | gzip >> \"$3\"";
    let output = Command::new("sh").args(["-c", script, "sh"]).args([image, config, out]).output();
    let output = output.context("packing the configuration")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("packing the configuration: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
