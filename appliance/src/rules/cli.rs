//! `hedgerow reload`, `hedgerow report`, `hedgerow policy`: what the operator asks and says about the policy.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hedgerow_policy::chia::Schema;

use super::history::Version;
use super::keeper::{CONFIRM_MAX, Outcome, Wish};
use super::schema;
use crate::bans::text::{span, time};
use crate::cli::{ClientArgs, ask, json, print};
use crate::config::units::Period;
use crate::management::{Request, Response};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ReloadArgs {
    #[command(subcommand)]
    command: Option<ReloadCommand>,
    /// Show what would change and what it would have meant for the last minutes; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go back by itself unless `hedgerow reload confirm` is said within this time
    #[arg(long, value_name = "DURATION")]
    confirm: Option<Period>,
    /// Judge sessions that stand by the new policy too, and end connections of newly denied sources
    #[arg(long)]
    enforce_now: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand)]
enum ReloadCommand {
    /// Keep the policy that waits for it
    Confirm(ClientArgs),
    /// Put the version before this one back; the file is left as it is
    Undo(ClientArgs),
    /// Show which versions there were
    #[command(after_help = "Example:\n  hedgerow reload history --show 7 > policy.toml")]
    History {
        /// Print the text of this version
        #[arg(long, value_name = "VERSION")]
        show: Option<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print the JSON Schema of policy.toml, for editors
    #[command(
        after_help = "Example:\n  hedgerow policy schema > policy.schema.json\n\nand in the first line of policy.toml, for editors with Taplo:\n  #:schema ./policy.schema.json"
    )]
    Schema {
        /// A protocol schema in place of the built-in one
        #[arg(long, value_name = "FILE")]
        protocol: Option<PathBuf>,
    },
}

pub(crate) fn policy(command: &PolicyCommand) -> Result<(), String> {
    let PolicyCommand::Schema { protocol } = command;
    let protocol = match protocol {
        None => Schema::embedded(),
        Some(path) => {
            let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
            Schema::parse(&text).map_err(|error| told(&error))?.into()
        }
    };
    print(&json(&schema::json(&protocol))?)
}

pub(crate) fn reload(args: &ReloadArgs) -> Result<(), String> {
    match &args.command {
        Some(ReloadCommand::Confirm(client)) => match ask(&client.socket, &Request::ReloadConfirm)? {
            Response::Confirmed(version) => print(&format!("version {version} stays\n")),
            _ => Err(other()),
        },
        Some(ReloadCommand::Undo(client)) => {
            outcome(&ask(&client.socket, &Request::ReloadUndo)?, client.json)
        }
        Some(ReloadCommand::History { show, client }) => history(*show, client),
        None => {
            let confirm = args.confirm.map(|Period(time)| time);
            if let Some(time) = confirm.filter(|time| time.as_secs() == 0 || *time > CONFIRM_MAX) {
                return Err(format!("--confirm {}s: expected 1s to 24h", time.as_secs()));
            }
            let confirm = confirm.map(|time| time.as_secs());
            let wish = Wish { dry_run: args.dry_run, confirm, enforce_now: args.enforce_now };
            outcome(&ask(&args.client.socket, &Request::Reload(wish))?, args.client.json)
        }
    }
}

fn outcome(response: &Response, as_json: bool) -> Result<(), String> {
    let Response::Reloaded(outcome) = response else { return Err(other()) };
    eprint!("{}", outcome.warnings);
    print(&if as_json { json(&outcome)? } else { outcome.to_string() })
}

fn history(show: Option<u64>, client: &ClientArgs) -> Result<(), String> {
    let Response::Policies(versions) = ask(&client.socket, &Request::ReloadHistory)? else {
        return Err(other());
    };
    if let Some(number) = show {
        let version = versions.iter().find(|version| version.number == number);
        return print(&version.ok_or_else(|| format!("version {number} is not kept"))?.text);
    }
    if client.json {
        return print(&json(&versions)?);
    }
    versions.iter().try_for_each(|version| print(&line(version)))
}

fn line(version: &Version) -> String {
    let Version { number, since, by, confirmed, changes, .. } = version;
    let waits = if *confirmed { "" } else { ", not confirmed" };
    let mut text = format!("version {number} since {} by {}{waits}\n", time(*since), by.told());
    changes.iter().for_each(|change| text += &format!("  {change}\n"));
    text
}

pub(crate) fn report(client: &ClientArgs) -> Result<(), String> {
    match ask(&client.socket, &Request::Report)? {
        Response::Report(report) if client.json => print(&json(&report)?),
        Response::Report(report) => print(&report.to_string()),
        _ => Err(other()),
    }
}

fn other() -> String {
    "the appliance gave another answer than was asked for".to_owned()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.changes.is_empty() {
            writeln!(f, "nothing is stated otherwise than before")?;
        }
        self.changes.iter().try_for_each(|change| writeln!(f, "  {change}"))?;
        if self.trial != Default::default() {
            write!(f, "{}", self.trial)?;
        }
        match self.changed {
            false => writeln!(f, "version {} stays in force", self.version)?,
            true if self.taken => writeln!(f, "version {} is in force on all shards", self.version)?,
            true => {
                writeln!(f, "version {} is in force, but not all shards have taken it yet", self.version)?
            }
        }
        match self.confirm {
            Some(seconds) => {
                writeln!(f, "undone in {} unless you say `hedgerow reload confirm`", span(seconds))
            }
            None => Ok(()),
        }
    }
}
