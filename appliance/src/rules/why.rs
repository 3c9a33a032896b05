//! `check --why`: the rule that holds for a kind of peer and a message or a reason, and where each value of it came from.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use hedgerow_policy::chia::{NodeType, Tables, Version};
use hedgerow_policy::rules::{Source, Value, Who, fitting};
use hedgerow_policy::{PeerId, Reason};

use super::Policy;
use crate::config::units::NodeId;
use crate::config::{Config, nearest};

/// Whom it is asked for.
#[derive(Args, Debug, Default)]
pub(crate) struct WhyArgs {
    /// Explain the rule that holds for a kind of peer and a message or a reason, such as `full_node request_blocks`
    #[arg(long, num_args = 2, value_names = ["PEER_TYPE", "MESSAGE"])]
    pub(crate) why: Option<Vec<String>>,
    /// With --why: a peer from this address
    #[arg(long, value_name = "ADDRESS", requires = "why")]
    from: Option<IpAddr>,
    /// With --why: a peer of this listener, by its name
    #[arg(long, value_name = "NAME", requires = "why")]
    listener: Option<String>,
    /// With --why: a peer with this version of the software
    #[arg(long, value_name = "VERSION", requires = "why")]
    version: Option<String>,
    /// With --why: a peer with this identity
    #[arg(long, value_name = "NODE_ID", requires = "why")]
    id: Option<NodeId>,
}

/// The rule in words.
pub(crate) fn explain(config: &Config, policy: &Policy, args: &WhyArgs) -> Result<String, String> {
    let [kind, what] = args.why.as_deref().unwrap_or_default() else { return Ok(String::new()) };
    let who = who(config, kind, args)?;
    let rules = &policy.rules;
    let mut text = String::new();
    let facts = rules.schema().messages().iter().find(|facts| *facts.name == **what);
    let reason = Reason::ALL.iter().find(|reason| reason.name() == what);
    match (facts, reason) {
        (Some(facts), _) => {
            let known = Tables { second: true, third: false };
            let why = rules.explain(&who, facts, known);
            let _ = writeln!(text, "{what} from a {kind}, as the second table of the node limits it:");
            scopes(&mut text, policy, &why.scopes, why.friend);
            values(&mut text, policy, "from the peer", &why.from_peer);
            values(&mut text, policy, "to the peer, paced", &why.to_peer);
            let _ = writeln!(text, "  window: a minute of the clock, as a node counts");
            let third = Tables { second: true, third: true };
            if known.limit(facts).is_some() && third.limit(facts).is_none() {
                let _ = writeln!(
                    text,
                    "  where both sides know the third table, the node limits what is in the works instead"
                );
            }
            values(&mut text, policy, "beyond it", &why.response);
            values(&mut text, policy, "all messages", &why.others);
            if !facts.may_come_from(who.kind.unwrap_or(NodeType::FullNode)) {
                let refused = rules.explain_reason(&who, Reason::NotForThisSender);
                values(
                    &mut text,
                    policy,
                    "a full node takes it from no such peer: not_for_this_sender",
                    &refused,
                );
            }
        }
        (None, Some(&reason)) => {
            let _ = writeln!(text, "{reason} of a {kind}:");
            values(&mut text, policy, "what is done", &rules.explain_reason(&who, reason));
            let _ = writeln!(text, "  it can be: {}", fitting(reason).join(", "));
        }
        (None, None) => {
            let names = rules.schema().messages().iter().map(|facts| &*facts.name);
            let near = nearest(what, names.chain(Reason::ALL.iter().map(|reason| reason.name())));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(format!("`{what}` is neither a message nor a reason{near}"));
        }
    }
    Ok(text)
}

fn who(config: &Config, kind: &str, args: &WhyArgs) -> Result<Who, String> {
    let known = NodeType::from_name(kind).ok_or_else(|| {
        let near = nearest(kind, NodeType::ALL.iter().map(|kind| kind.name()));
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("`{kind}` is no kind of peer{near}")
    })?;
    let names = || config.listeners.iter().map(|listener| listener.name.as_str());
    let listener = match &args.listener {
        None => 0,
        Some(name) => names().position(|known| known == name).ok_or_else(|| {
            format!("there is no listener `{name}`; there is {}", names().collect::<Vec<_>>().join(", "))
        })?,
    };
    let version = match &args.version {
        None => None,
        Some(text) => {
            Some(Version::parse(text).ok_or_else(|| format!("`{text}` is no version such as 2.7.5"))?)
        }
    };
    Ok(Who {
        listener: listener as u16,
        source: args.from.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        id: args.id.map(|id| PeerId(id.0)),
        kind: Some(known),
        version,
    })
}

fn scopes(text: &mut String, policy: &Policy, scopes: &[(String, u32)], friend: bool) {
    let names: Vec<String> =
        scopes.iter().map(|(name, line)| format!("{name} ({})", place(policy, *line))).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let _ = writeln!(text, "  scopes: {names}{}", if friend { "; a friend" } else { "" });
}

fn place(policy: &Policy, line: u32) -> String {
    match &policy.path {
        Some(path) => format!("{}:{line}", path.display()),
        None => format!("line {line}"),
    }
}

fn values(text: &mut String, policy: &Policy, title: &str, values: &[Value]) {
    let _ = writeln!(text, "  {title}:");
    for Value { name, value, source } in values {
        let source = match source {
            Source::Line(line) => place(policy, *line),
            other => other.to_string(),
        };
        let _ = writeln!(text, "    {name:<18} {:<12} {source}", value.as_deref().unwrap_or("no limit"));
    }
}
