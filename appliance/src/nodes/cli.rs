//! `hedgerow nodes`, `hedgerow drain` and `hedgerow undrain`: what the operator asks and says about nodes.

use clap::{Args, Subcommand};

use super::{Answer, Change};
use crate::cli::{ClientArgs, ask, json, print};
use crate::config::units::Period;
use crate::management::{Request, Response};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand)]
enum NodesCommand {
    /// Show how each node is, what it carries, and where its chain ends
    #[command(
        after_help = "Example:\n  hedgerow nodes list --json | jq '.[].nodes[] | select(.state != \"up\")'"
    )]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Add a node to a pool; it is dialled as soon as the light peer finds it in sync
    #[command(
        after_help = "Examples:\n  hedgerow nodes add d=10.0.1.14:8444\n  hedgerow nodes add 'e=10.0.1.15:8444 protected weight=2' --pool front"
    )]
    Add {
        /// NAME=ADDRESS:PORT, with `public`, `protected`, `hidden` or `weight=N` behind it
        #[arg(value_name = "NODE")]
        node: String,
        /// The pool, where there are several
        #[arg(long)]
        pool: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove a node that carries no session; drain it first
    #[command(after_help = "Example:\n  hedgerow drain d && hedgerow nodes remove d")]
    Remove {
        /// NODE, or POOL/NODE
        node: String,
        /// Cut off the sessions that it still carries
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Give a node another share of the sessions to come
    #[command(
        after_help = "Example:\n  hedgerow nodes weigh d 3        three times as many as a node with weight 1"
    )]
    Weigh {
        /// NODE, or POOL/NODE
        node: String,
        /// 1 to 100
        weight: u32,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Args)]
pub(crate) struct DrainArgs {
    /// NODE, or POOL/NODE; `self` for the appliance: it ends once it has no session left
    #[arg(value_name = "NODE")]
    node: String,
    /// Serve again after that time; for `self`: end after that time at the latest, 10m without it
    #[arg(long = "for", value_name = "TIME")]
    time: Option<Period>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub(crate) struct UndrainArgs {
    /// NODE, or POOL/NODE; `self` for the appliance
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// `hedgerow nodes`.
pub(crate) fn nodes(args: NodesArgs) -> Result<(), String> {
    match args.command {
        None => change(&args.client, Change::List),
        Some(NodesCommand::List { client }) => change(&client, Change::List),
        Some(NodesCommand::Add { node, pool, client }) => change(&client, Change::Add { node, pool }),
        Some(NodesCommand::Remove { node, force, client }) => change(&client, Change::Remove { node, force }),
        Some(NodesCommand::Weigh { node, weight, client }) => change(&client, Change::Weigh { node, weight }),
    }
}

/// `hedgerow drain`.
pub(crate) fn drain(args: DrainArgs) -> Result<(), String> {
    let seconds = args.time.map(|Period(time)| time.as_secs().max(1));
    change(&args.client, Change::Drain { node: args.node, seconds })
}

/// `hedgerow undrain`.
pub(crate) fn undrain(args: UndrainArgs) -> Result<(), String> {
    change(&args.client, Change::Undrain { node: args.node })
}

fn change(client: &ClientArgs, change: Change) -> Result<(), String> {
    match ask(&client.socket, &Request::Nodes(change))? {
        Response::Nodes(Answer { pools, .. }) if client.json => print(&json(&pools)?),
        Response::Nodes(answer) => print(&answer.to_string()),
        _ => Err("the appliance gave another answer than was asked for".to_owned()),
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.said.is_empty() {
            writeln!(f, "{}", self.said)?;
        }
        for listed in &self.pools {
            writeln!(f, "pool {}", listed.pool)?;
            listed.nodes.iter().try_for_each(|node| writeln!(f, "  {node}"))?;
        }
        Ok(())
    }
}
