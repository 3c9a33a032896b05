//! `hedgerow bans`: what the operator asks and says about bans.

use std::io::Read;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hedgerow_dataplane::wire::Prefix;

use super::book::Ban;
use super::{Origin, text};
use crate::cli::{ClientArgs, ask, json, print};
use crate::config::units::Period;
use crate::management::{Banned, Request, Response};

/// Bytes of a list that go into one request.
const PIECE: usize = 256 << 10;
/// Refused lines that are shown one by one.
const SHOWN: usize = 20;

#[derive(Subcommand)]
pub(crate) enum BansCommand {
    /// Show who is banned, why, by whom, and until when
    #[command(
        after_help = "Examples:\n  hedgerow bans list\n  hedgerow bans list 203.0.113.7\n  hedgerow bans list --json | jq '.[] | select(.origin == \"policy\")'"
    )]
    List {
        /// Only bans that concern this address or prefix
        prefix: Option<Prefix>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Ban addresses or prefixes
    #[command(
        after_help = "Examples:\n  hedgerow bans add 203.0.113.0/24 --for 12h --reason 'scans us'\n  hedgerow bans add 2001:db8::/32"
    )]
    Add {
        /// Addresses or prefixes
        #[arg(required = true)]
        prefixes: Vec<Prefix>,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        client: Socket,
    },
    /// Lift bans, by exactly the prefixes that `list` shows
    #[command(after_help = "Examples:\n  hedgerow bans lift 203.0.113.0/24\n  hedgerow bans lift --all")]
    Lift {
        /// Addresses or prefixes
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        prefixes: Vec<Prefix>,
        /// All bans
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        client: Socket,
    },
    /// Ban what a list names: a prefix per line, `# until TIME, reason` or `# for 12h, reason` behind it
    #[command(
        after_help = "Examples:\n  hedgerow bans import deny.txt --for 7d --reason 'list of the month'\n  curl https://lists.example/drop.txt | hedgerow bans import -"
    )]
    Import {
        /// The list; `-`: standard input
        file: PathBuf,
        /// Show what is wrong with the list and ban nobody
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        client: Socket,
    },
    /// Print bans as a list that `import` and other tools read
    #[command(
        after_help = "Examples:\n  hedgerow bans export > bans.txt\n  hedgerow bans export | cut -d' ' -f1 | while read p; do nft add element inet f banned \"{ $p }\"; done"
    )]
    Export {
        #[command(flatten)]
        client: Socket,
    },
}

#[derive(Args)]
pub(crate) struct Terms {
    /// How long; without it, until they are lifted
    #[arg(long = "for", value_name = "DURATION")]
    period: Option<Period>,
    /// Why
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Args)]
pub(crate) struct Socket {
    /// The appliance's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/hedgerow.sock")]
    socket: PathBuf,
}

pub(crate) fn run(command: &BansCommand) -> Result<(), String> {
    match command {
        BansCommand::List { prefix, client } => list(*prefix, client),
        BansCommand::Add { prefixes, terms, client } => add(prefixes, terms, client),
        BansCommand::Lift { prefixes, all: _, client } => lift(prefixes, client),
        BansCommand::Import { file, check, terms, client } => import(file, *check, terms, client),
        BansCommand::Export { client } => print(&text::write(bans(client)?.iter())),
    }
}

fn bans(client: &Socket) -> Result<Vec<Ban>, String> {
    match ask(&client.socket, &Request::Bans)? {
        Response::Bans(bans) => Ok(bans),
        _ => Err(other()),
    }
}

fn other() -> String {
    "the appliance gave another answer than was asked for".to_owned()
}

fn list(prefix: Option<Prefix>, client: &ClientArgs) -> Result<(), String> {
    let mut bans = bans(&Socket { socket: client.socket.clone() })?;
    bans.retain(|ban| prefix.is_none_or(|prefix| prefix.overlaps(ban.prefix)));
    match client.json {
        true => print(&json(&bans)?),
        false => print(&table(&bans, unix_now())),
    }
}

/// Bans for people.
fn table(bans: &[Ban], now: u64) -> String {
    let rows: Vec<[String; 6]> = bans
        .iter()
        .map(|ban| {
            let ends = ban.until.map_or_else(
                || "when lifted".to_owned(),
                |until| format!("in {}", text::span(until.saturating_sub(now))),
            );
            let age = format!("{} ago", text::span(now.saturating_sub(ban.since)));
            [
                ban.prefix.to_string(),
                ban.origin.to_string(),
                age,
                ends,
                ban.hits.to_string(),
                ban.reason.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "nobody is banned\n".to_owned();
    }
    let heading = ["prefix", "by", "since", "ends", "frames", "reason"].map(str::to_owned);
    let all: Vec<&[String; 6]> = std::iter::once(&heading).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut table = String::new();
    for row in all {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

fn add(prefixes: &[Prefix], terms: &Terms, client: &Socket) -> Result<(), String> {
    let list: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
    let banned = send(list, terms, Origin::Operator, client)?;
    print(&format!("{} banned\n", banned.set))?;
    match banned.refused.is_empty() {
        true => Ok(()),
        false => {
            let named = |(line, why): &(usize, String)| {
                let prefix =
                    prefixes.get(line.saturating_sub(1)).map(ToString::to_string).unwrap_or_default();
                format!("{prefix}: {why}")
            };
            Err(banned.refused.iter().map(named).collect::<Vec<_>>().join("\n  "))
        }
    }
}

fn lift(prefixes: &[Prefix], client: &Socket) -> Result<(), String> {
    let request = Request::Lift { prefixes: prefixes.iter().map(ToString::to_string).collect() };
    let Response::Bans(lifted) = ask(&client.socket, &request)? else { return Err(other()) };
    print(&format!("{} lifted\n", lifted.len()))?;
    let missing: Vec<String> = prefixes
        .iter()
        .filter(|prefix| lifted.iter().all(|ban| ban.prefix != **prefix))
        .map(|prefix| format!("{prefix} is not banned; `hedgerow bans list {prefix}` shows what concerns it"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\n  ")) }
}

fn import(file: &PathBuf, check: bool, terms: &Terms, client: &Socket) -> Result<(), String> {
    let name = file.display();
    let mut list = String::new();
    match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut list).map(drop),
        false => std::fs::read_to_string(file).map(|text| list = text),
    }
    .map_err(|error| format!("{name}: {error}"))?;
    let (lines, bad) = text::read(&list, unix_now());
    if check || !bad.is_empty() {
        let bad: Vec<(usize, String)> = bad.into_iter().map(|bad| (bad.number, bad.problem)).collect();
        print(&format!("{name}: {} prefixes\n", lines.len()))?;
        let end =
            if check { "" } else { "\n  nobody was banned: correct the list, or leave these lines out" };
        return if bad.is_empty() {
            Ok(())
        } else {
            Err(format!("{}{end}", refused(&name.to_string(), &bad)))
        };
    }
    let mut total = Banned::default();
    for (piece, lines_before) in pieces(&list) {
        let banned = send(piece, terms, Origin::Import, client)?;
        total.set += banned.set;
        total.refused.extend(banned.refused.into_iter().map(|(line, why)| (line + lines_before, why)));
    }
    print(&format!("{name}: {} banned\n", total.set))?;
    if total.refused.is_empty() { Ok(()) } else { Err(refused(&name.to_string(), &total.refused)) }
}

/// A list in pieces that fit a request, with how many lines come before each.
fn pieces(list: &str) -> Vec<(String, usize)> {
    let mut pieces: Vec<(String, usize)> = vec![(String::new(), 0)];
    for (number, line) in list.lines().enumerate() {
        if pieces.last().is_none_or(|(piece, _)| piece.len() + line.len() > PIECE) {
            pieces.push((String::new(), number));
        }
        if let Some((piece, _)) = pieces.last_mut() {
            piece.push_str(line);
            piece.push('\n');
        }
    }
    pieces
}

fn refused(name: &str, lines: &[(usize, String)]) -> String {
    let mut said: Vec<String> =
        lines.iter().take(SHOWN).map(|(line, why)| format!("{name}:{line}: {why}")).collect();
    if lines.len() > SHOWN {
        said.push(format!("and {} more lines", lines.len() - SHOWN));
    }
    format!("{} lines were refused\n  {}", lines.len(), said.join("\n  "))
}

fn send(list: String, terms: &Terms, origin: Origin, client: &Socket) -> Result<Banned, String> {
    let seconds = terms.period.map(|Period(period)| period.as_secs());
    let request = Request::Ban { list, reason: terms.reason.clone(), seconds, origin };
    match ask(&client.socket, &request)? {
        Response::Banned(banned) => Ok(banned),
        _ => Err(other()),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, until: Option<u64>, hits: u64, reason: &str) -> Ban {
        let prefix = prefix.parse().unwrap();
        Ban { prefix, reason: reason.into(), origin: Origin::Operator, since: 1_000, until, hits }
    }

    #[test]
    fn the_table_lines_up() {
        let bans = [ban("203.0.113.0/24", Some(5_000), 12, "scans us"), ban("2001:db8::/32", None, 0, "")];
        assert_eq!(
            table(&bans, 1_400),
            "prefix          by        since       ends         frames  reason\n\
             203.0.113.0/24  operator  6m 40s ago  in 1h        12      scans us\n\
             2001:db8::/32   operator  6m 40s ago  when lifted  0\n"
        );
        assert_eq!(table(&[], 0), "nobody is banned\n");
    }

    #[test]
    fn a_long_list_keeps_its_line_numbers() {
        let list: String = (0..30_000).map(|n| format!("10.{}.{}.0/24\n", n / 256, n % 256)).collect();
        let pieces = pieces(&list);
        assert!(pieces.len() > 1 && pieces.iter().all(|(piece, _)| piece.len() <= PIECE + 64));
        let again: String = pieces.iter().map(|(piece, _)| piece.as_str()).collect();
        assert_eq!(again, list);
        for (piece, before) in &pieces {
            assert_eq!(list.lines().nth(*before), piece.lines().next());
        }
    }
}
