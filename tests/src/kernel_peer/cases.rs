//! The cases: what two TCP implementations can do to each other, each through the appliance in the middle.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;

use super::wires::{PATIENCE, Wires, both, exchange, fill_up};
use crate::check::{Context, Outcome, ensure, wait_for};
use crate::pattern::{expect, expect_end, expect_range, expect_reset, send};

/// A case by name.
pub type Case = (&'static str, fn(&Wires) -> Outcome);

/// All cases.
pub const ALL: &[Case] = &[
    ("connect-and-close", connect_and_close),
    ("bulk-inward", bulk_inward),
    ("bulk-outward", bulk_outward),
    ("bulk-both-ways", bulk_both_ways),
    ("small-writes", small_writes),
    ("client-closes-half", client_closes_half),
    ("server-closes-half", server_closes_half),
    ("client-resets", client_resets),
    ("server-resets", server_resets),
    ("server-stalls", server_stalls),
    ("client-stalls", client_stalls),
    ("tiny-segments", tiny_segments),
    ("many-short", many_short),
    ("nobody-listens", nobody_listens),
    ("nothing-remains", nothing_remains),
    ("shards-share-the-work", shards_share_the_work),
    ("the-kernel-keeps-its-own", the_kernel_keeps_its_own),
    ("a-pause-is-no-fault", a_pause_is_no_fault),
];

const BULK: u64 = 24 << 20;

fn connect_and_close(wires: &Wires) -> Outcome {
    for client_first in [true, false] {
        let (client, server) = wires.pair()?;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.shutdown(Shutdown::Write).context("closing")?;
        expect_end(&mut second).context("the second side")?;
        drop(second);
        expect_end(&mut first).context("the first side")?;
    }
    Ok(())
}

/// Sends `count` bytes one way, then closes.
fn one_way(mut from: TcpStream, mut to: TcpStream, seed: u64, count: u64) -> Outcome {
    both(
        || {
            send(&mut from, seed, count)?;
            from.shutdown(Shutdown::Write).context("closing")?;
            expect_end(&mut from)
        },
        || {
            expect(&mut to, seed, count)?;
            expect_end(&mut to)?;
            to.shutdown(Shutdown::Write).context("closing")
        },
    )
    .map(drop)
}

fn bulk_inward(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    one_way(client, server, 1, BULK)
}

fn bulk_outward(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    one_way(server, client, 2, BULK)
}

fn bulk_both_ways(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    exchange(client, server, BULK)
}

/// Question and answer, each smaller than a segment, many times over one connection.
fn small_writes(wires: &Wires) -> Outcome {
    let (mut client, mut server) = wires.pair()?;
    const TURNS: u64 = 500;
    both(
        || {
            for turn in 0..TURNS {
                send(&mut client, turn, 1 + turn % 97)?;
                expect(&mut client, !turn, 1 + turn % 89)?;
            }
            Ok(())
        },
        || {
            for turn in 0..TURNS {
                expect(&mut server, turn, 1 + turn % 97)?;
                send(&mut server, !turn, 1 + turn % 89)?;
            }
            Ok(())
        },
    )
    .map(drop)
}

/// One side finishes at once and then receives much; the other learns of the end first and sends afterwards.
fn half_close(mut finished: TcpStream, mut sender: TcpStream) -> Outcome {
    send(&mut finished, 5, 1000)?;
    finished.shutdown(Shutdown::Write).context("closing one half")?;
    expect(&mut sender, 5, 1000)?;
    expect_end(&mut sender)?;
    both(
        || {
            send(&mut sender, 6, 2 << 20)?;
            sender.shutdown(Shutdown::Write).context("closing the other half")
        },
        || {
            expect(&mut finished, 6, 2 << 20)?;
            expect_end(&mut finished)
        },
    )
    .map(drop)
}

fn client_closes_half(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    half_close(client, server)
}

fn server_closes_half(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    half_close(server, client)
}

/// A reset after some data: the other side sees a reset, never an end in order. Where resets can be lost it also goes on
/// sending, since then nothing else could tell it.
fn reset(wires: &Wires, mut breaking: TcpStream, mut other: TcpStream) -> Outcome {
    send(&mut breaking, 7, 5000)?;
    expect(&mut other, 7, 5000)?;
    sockopt::set_socket_linger(&breaking, Some(Duration::ZERO)).context("preparing a reset")?;
    drop(breaking);
    if wires.loss == 0 {
        return expect_reset(&mut other);
    }
    wait_for("sending fails", PATIENCE, || match other.write(&[0; 100]) {
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok(Some(()))
        }
        Err(error) => Err(error.to_string()),
    })
}

fn client_resets(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    reset(wires, client, server)
}

fn server_resets(wires: &Wires) -> Outcome {
    let (client, server) = wires.pair()?;
    reset(wires, server, client)
}

/// The reader stops until every window is shut, stays so beyond a few window probes, then reads on: nothing was lost,
/// and what was taken meanwhile is bounded.
fn stall(mut from: TcpStream, mut to: TcpStream) -> Outcome {
    let taken = fill_up(&mut from, 8, Duration::from_secs(4))?;
    ensure(taken < 64 << 20, || format!("{taken} bytes were taken from a sender whose reader stands still"))?;
    let total = taken + (1 << 20);
    both(
        || {
            let mut rest = vec![0; (total - taken) as usize];
            crate::pattern::fill(8, taken, &mut rest);
            from.write_all(&rest).context("sending the rest")?;
            from.shutdown(Shutdown::Write).context("closing")
        },
        || {
            for step in 0..20 {
                expect_range(&mut to, 8, step * 100, (step + 1) * 100)?;
                thread::sleep(Duration::from_millis(10));
            }
            expect_range(&mut to, 8, 2000, total)?;
            expect_end(&mut to)
        },
    )
    .map(drop)
}

fn server_stalls(wires: &Wires) -> Outcome {
    let (client, server) = wires.tight_pair(16 << 10)?;
    stall(client, server)
}

fn client_stalls(wires: &Wires) -> Outcome {
    let (client, server) = wires.tight_pair(16 << 10)?;
    stall(server, client)
}

/// Routes that admit only small segments, as over old tunnels.
fn tiny_segments(wires: &Wires) -> Outcome {
    let routes = |option: &str| -> Outcome {
        for (namespace, v4, v6, device) in [
            (&wires.outer, "10.1.0.0/24", "fd01::/64", "wan"),
            (&wires.inner, "10.2.0.0/24", "fd02::/64", "lan"),
        ] {
            namespace.shell(&format!("ip route replace {v4} dev {device} {option}"))?;
            namespace.shell(&format!("ip -6 route replace {v6} dev {device} {option}"))?;
        }
        Ok(())
    };
    for advertised in [536, 300] {
        routes(&format!("advmss {advertised}"))?;
        let outcome = wires
            .pair()
            .and_then(|(client, server)| one_way(client, server, 9, 300_000))
            .and_then(|()| wires.pair())
            .and_then(|(client, server)| one_way(server, client, 10, 300_000));
        routes("")?;
        outcome.context(format_args!("with a maximum segment size of {advertised}"))?;
    }
    Ok(())
}

const SHORT: usize = 300;
const AT_ONCE: usize = 30;

/// Many short connections, some at the same time: each says its number and gets its own answer.
fn many_short(wires: &Wires) -> Outcome {
    let one_client = |worker: usize| -> Outcome {
        for number in (worker..SHORT).step_by(AT_ONCE) {
            let mut client = wires.connect().context(format_args!("connection {number}"))?;
            client.write_all(&(number as u64).to_be_bytes()).context("asking")?;
            expect(&mut client, number as u64, 3000).context(format_args!("connection {number}"))?;
            expect_end(&mut client)?;
        }
        Ok(())
    };
    let serve = || -> Outcome {
        thread::scope(|scope| {
            let answers: Vec<_> = (0..SHORT)
                .map(|_| {
                    let mut server = wires.accept()?;
                    Ok(scope.spawn(move || -> Outcome {
                        let mut number = [0; 8];
                        server.read_exact(&mut number).context("the question")?;
                        send(&mut server, u64::from_be_bytes(number), 3000)
                    }))
                })
                .collect::<Outcome<_>>()?;
            answers
                .into_iter()
                .try_for_each(|answer| answer.join().map_err(|_| "a thread panicked".to_owned())?)
        })
    };
    let ask = || {
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..AT_ONCE).map(|worker| scope.spawn(move || one_client(worker))).collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().map_err(|_| "a thread panicked".to_owned())?)
        })
    };
    both(ask, serve).map(drop)
}

/// A port without a listener refuses at once instead of leaving the caller to wait.
fn nobody_listens(wires: &Wires) -> Outcome {
    let mut elsewhere = wires.through;
    elsewhere.set_port(wires.through.port() + 1);
    match wires.outer.enter(|| Ok(TcpStream::connect_timeout(&elsewhere, PATIENCE)))? {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("a port without a listener: {other:?}")),
    }
}

/// Connections that were closed leave no flow behind.
fn nothing_remains(wires: &Wires) -> Outcome {
    ensure(wires.quiet(), || "a connection reached the server that no case made".to_owned())?;
    wait_for("all flows are gone", PATIENCE, || Ok((wires.flows()? == 0).then_some(())))
}

/// With several shards each had its part, and answers that came to the wrong one found their connection.
fn shards_share_the_work(wires: &Wires) -> Outcome {
    let status = wires.status()?;
    let shards = status["shards"].as_array().context("shards")?;
    ensure(shards.len() == wires.shards, || format!("{} shards", shards.len()))?;
    let count = |shard: &serde_json::Value, key: &str| shard[key].as_u64().unwrap_or(0);
    for shard in shards {
        // Ordinary sockets have no frames.
        let worked = count(shard, "received") > 1_000 || count(shard, "accepted") > 10;
        ensure(worked, || format!("a shard was idle: {status}"))?;
    }
    let (over, into) =
        ["handed_over", "handed_in"].map(|key| shards.iter().map(|s| count(s, key)).sum::<u64>()).into();
    ensure(wires.shards == 1 || into >= over, || format!("{over} frames handed over, {into} taken in"))
}

/// Where the kernel has the address too, its other ports answer as ever, and the rules are out of others' reach.
fn the_kernel_keeps_its_own(wires: &Wires) -> Outcome {
    if !wires.shared {
        return Ok(());
    }
    let listener = wires.boxed.enter(|| std::net::TcpListener::bind(("::", 0)).context("listening"))?;
    let mut own = wires.through;
    own.set_port(listener.local_addr().context("bound")?.port());
    let mut client =
        wires.outer.enter(|| TcpStream::connect_timeout(&own, PATIENCE).context("the kernel's port"))?;
    let (mut server, _) = listener.accept().context("accepting")?;
    both(|| send(&mut client, 11, 100_000), || expect(&mut server, 11, 100_000))?;
    // A flush of all rules leaves those of the appliance, which still keep the kernel from answering.
    wires.boxed.shell("nft flush ruleset")?;
    let rules = wires.boxed.shell("nft list ruleset")?;
    ensure(rules.contains("tcp dport 5000"), || format!("rules after a flush: {rules}"))?;
    let (client, server) = wires.pair()?;
    one_way(client, server, 12, 300_000)
}

/// A process that was stopped for longer than the watchdog waits, as a suspended machine would stop it, goes on.
fn a_pause_is_no_fault(wires: &Wires) -> Outcome {
    if wires.shards == 1 {
        return Ok(());
    }
    let process = wires.process();
    let (client, server) = wires.pair()?;
    wires.boxed.shell(&format!("kill -STOP {process}"))?;
    thread::sleep(Duration::from_secs(5));
    wires.boxed.shell(&format!("kill -CONT {process}"))?;
    one_way(client, server, 13, 100_000)?;
    // Long enough for a watchdog that counted the pause.
    thread::sleep(Duration::from_secs(3));
    let (client, server) = wires.pair()?;
    one_way(server, client, 14, 100_000)
}
