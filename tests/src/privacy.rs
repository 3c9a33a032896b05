//! Nothing that reaches the outer side names an address of the inner one: neither messages as a peer decrypts them, nor
//! frames on its wire. The node behind knows inner addresses among others, and is asked for all that it knows.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::appliance::Appliance;
use crate::check::{Context, Outcome, ensure};
use crate::nodes::{Peer, Wire};
use crate::site::{CHIA_PORT, PRIVATE_V4, PRIVATE_V6, PUBLIC_V4, Site, counted};

/// Times that a peer asks; a node answers with a quarter of what it knows, drawn by lot. More answers would be paced.
const QUESTIONS: usize = 3;
/// Outer addresses that the node knows besides, of the ranges for documentation: they show that it was heard at all.
const OUTER: &[&str] = &["198.51.100.", "203.0.113."];
/// Of each range, and of the inner one.
const HOSTS: u8 = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// All addresses inside: the appliance's, the node's, and those of siblings that it knows.
fn inner() -> Vec<String> {
    let mut all = vec![PRIVATE_V4.to_owned(), PRIVATE_V6.to_owned(), "10.2.0.2".into(), "fd02::2".into()];
    all.extend((3..3 + HOSTS).map(|host| format!("10.2.0.{host}")));
    all
}

/// Asks the node for its peers, with somebody at the wire. `translates`: the node must not learn the peer's port either.
pub fn holds(site: &mut Site, appliance: &Appliance, translates: bool) -> Outcome {
    let inner = inner();
    let outer = OUTER.iter().flat_map(|range| (1..=HOSTS).map(move |host| format!("{range}{host}")));
    let hosts: Vec<String> = outer.chain(inner.iter().cloned()).collect();
    let known = site.node.learn(&hosts)?;
    ensure(known >= hosts.len() as u64 / 2, || format!("the node took only {known} of {hosts:?}"))?;
    let withheld = |status: &Value| counted(status, "addresses_withheld");
    let before = withheld(&appliance.status()?);

    // A name on the wire would be one within TLS gone wrong, or in a certificate.
    let texts = ["10.2.0.", "fd02::", "inner"];
    let wire = Wire::listen(&site.outer, "to-box", &texts)?;
    let target = format!("{PUBLIC_V4}:{CHIA_PORT}");
    let times = QUESTIONS.to_string();
    let asks = ["chia", "--from", "10.1.0.30", "--to", &target, "--ask-peers", &times];
    let answer = Peer::start(&site.outer, &asks)?.answer(PATIENCE)?;
    let heard = wire.end()?;
    ensure(answer.outcome == "accepted", || format!("the peer says: {} {}", answer.outcome, answer.detail))?;

    let names = |text: &str| answer.messages.iter().any(|message| holds_text(message, text.as_bytes()));
    ensure(OUTER.iter().any(|range| names(range)), || "no outer address was told: nothing was shown".into())?;
    let told = withheld(&appliance.status()?) - before;
    ensure(told > 0, || "the node named no inner address: nothing was shown".into())?;
    for address in &inner {
        let parsed: IpAddr = address.parse().context("an address")?;
        let (octets, seen) = (octets(parsed), heard.addresses.contains(address));
        let raw = answer.messages.iter().any(|message| holds_text(message, &octets));
        ensure(!names(address), || format!("a message names {address}"))?;
        ensure(!raw, || format!("a message holds the bytes of {address}"))?;
        ensure(!seen, || format!("a frame outside has {address} in its headers"))?;
    }
    ensure(heard.texts.is_empty(), || format!("frames outside hold {:?}", heard.texts))?;
    ensure(heard.frames > 0 && heard.addresses.iter().any(|address| address == PUBLIC_V4), || {
        format!("nobody was heard at the wire: {heard:?}")
    })?;
    port_towards_the_node(site, translates)
}

/// Where addresses are translated the node learns no port of the peer's: it would announce the appliance's inner address
/// with it.
fn port_towards_the_node(site: &mut Site, translates: bool) -> Outcome {
    let target = format!("{PUBLIC_V4}:{CHIA_PORT}");
    let peer = Peer::start(&site.outer, &["chia", "--from", "10.1.0.31", "--to", &target, "--hold"])?;
    let answer = peer.answer(PATIENCE)?;
    ensure(answer.outcome == "accepted", || format!("the peer says: {} {}", answer.outcome, answer.detail))?;
    let state = site.node.state()?;
    let seen = if translates { PRIVATE_V4 } else { "10.1.0.31" };
    let port = if translates { 0 } else { u64::from(CHIA_PORT) };
    let all = state["connections"].as_array().cloned().unwrap_or_default();
    let fits = |it: &Value| it["host"] == seen && it["type"] == "full_node" && it["server_port"] == port;
    ensure(all.iter().any(fits), || format!("no peer from {seen} with server port {port} among {all:?}"))?;
    peer.release()?;
    Ok(())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn holds_text(message: &[u8], text: &[u8]) -> bool {
    message.windows(text.len()).any(|window| window == text)
}
