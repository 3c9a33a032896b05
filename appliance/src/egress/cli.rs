//! `hedgerow egress`: how the nodes' way out is, and by hand for how long.

use std::fmt;

use clap::{Args, Subcommand};

use super::{Ask, EgressStatus, ExitStatus};
use crate::cli::{ClientArgs, ask, json, print};
use crate::config::egress::Access;
use crate::config::units::Period;
use crate::management::{Request, Response};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct EgressArgs {
    #[command(subcommand)]
    command: Option<EgressCommand>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand)]
enum EgressCommand {
    /// Show who may go out, and what it carries
    #[command(after_help = "Example:\n  hedgerow egress list --json | jq '.nodes[] | select(.open)'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let a node out for a time
    #[command(after_help = "Example:\n  hedgerow egress open b --for 1h")]
    Open {
        /// The node, or `all`
        node: String,
        /// For so long; 1h without it
        #[arg(long = "for", value_name = "TIME")]
        time: Option<Period>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let a node out no more, until it is opened again or, where it goes out in emergencies only, the next one begins
    #[command(after_help = "Example:\n  hedgerow egress close b")]
    Close {
        /// The node, or `all`
        node: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What is said to [`Request::Egress`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// What was done.
    pub said: String,
    /// How it is now.
    pub egress: EgressStatus,
}

/// `hedgerow egress`.
pub(crate) fn egress(args: EgressArgs) -> Result<(), String> {
    let (client, wish) = match args.command {
        None => (args.client, Ask::List),
        Some(EgressCommand::List { client }) => (client, Ask::List),
        Some(EgressCommand::Open { node, time, client }) => {
            let seconds = time.map(|Period(time)| time.as_secs().max(1));
            (client, Ask::Open { node, seconds })
        }
        Some(EgressCommand::Close { node, client }) => (client, Ask::Close { node }),
    };
    match ask(&client.socket, &Request::Egress(wish))? {
        Response::Egress(answer) if client.json => print(&json(&answer.egress)?),
        Response::Egress(Answer { said, egress }) if said.is_empty() => print(&egress.to_string()),
        Response::Egress(Answer { said, egress }) => print(&format!("{said}\n{egress}")),
        _ => Err("the appliance gave another answer than was asked for".to_owned()),
    }
}

impl fmt::Display for EgressStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions: usize = self.nodes.iter().map(|exit| exit.sessions).sum();
        let address = self.address.as_deref().unwrap_or("no IPv4 address");
        write!(f, "egress by port {} as {address}: {sessions} of {} sessions; ", self.port, self.limit)?;
        let left = self.seconds.map_or_else(String::new, |left| format!(", {left} s left"));
        match self.emergency.as_str() {
            "on" => writeln!(f, "EMERGENCY{left}")?,
            "threatening" => writeln!(f, "an emergency begins unless a public node comes back{left}")?,
            state => writeln!(f, "emergency: {state}{left}")?,
        }
        self.nodes.iter().try_for_each(|exit| writeln!(f, "  {exit}"))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExitStatus { node, address, sessions, packets_out, packets_in, refused, .. } = self;
        let state = match (self.open, self.access) {
            (true, Access::Open) => "open",
            (true, _) => "OPEN",
            (false, _) => "closed",
        };
        write!(f, "{node} {address} {state}")?;
        if let Some(left) = self.seconds {
            write!(f, " by hand, {left} s left")?;
        }
        if self.access == Access::Emergency && !self.open {
            write!(f, " but in an emergency")?;
        }
        if let Some(inspected) = self.inspected {
            write!(f, ": {inspected} inspected connections and {sessions} other sessions")?;
        } else {
            write!(f, ": {sessions} sessions")?;
        }
        write!(f, ", {packets_out} packets out, {packets_in} in, {refused} refused")
    }
}
