//! What an idle session's two TLS connections cost, measured as the growth of this process: it runs alone in its binary.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::connector::Showing;
use hedgerow_policy::tls::{Acceptor, Channel, Clock, Connector, Settings, mint};

/// DESIGN's budget for a whole idle session, both legs and all, is 20 KiB. TLS may use this much of it.
const PAIR_MAX: usize = 12 * 1024;
/// The budget of a connection that has sent nothing: its struct.
const SILENT_MAX: usize = 512;
const PAIRS: usize = 600;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn advance(channel: &mut Channel, heard: &mut [u8]) -> Vec<u8> {
    let mut at = 0;
    loop {
        let received = channel.receive(&mut heard[at..]).unwrap();
        at += received.taken;
        let quiet = received.taken == 0 && received.plain.is_empty();
        match channel.work() {
            Some(mut work) => {
                work.run();
                channel.complete(work).unwrap();
            }
            None if quiet => break,
            None => {}
        }
    }
    let mut space = vec![0; 8192];
    let said = channel.transmit(&mut space);
    space.truncate(said);
    space
}

#[test]
fn an_idle_pair_stays_within_its_budget() {
    let settings = Settings::new(Clock::at(Duration::from_secs(1_795_392_000)));
    let authority = Authority::chia().unwrap();
    let fleet = Fleet::new(&[7; 32], &authority).unwrap();
    let service = fleet.service(&authority, [192, 0, 2, 1].into(), 8444).unwrap();
    let acceptor = Acceptor::new(&settings, service).unwrap();
    let connector = Connector::new(&settings, None).unwrap();
    let peer = mint::peer(&authority, 1).unwrap().id().unwrap();
    assert!(size_of::<Channel>() <= SILENT_MAX, "{}", size_of::<Channel>());

    let pair = || {
        let mut client = connector.connect(Showing::Peer(Arc::clone(&fleet), peer));
        let mut server = acceptor.accept();
        let mut up = advance(&mut client, &mut []);
        let mut down = advance(&mut server, &mut up);
        let mut up = advance(&mut client, &mut down);
        advance(&mut server, &mut up);
        // A record in pieces must leave no buffer behind.
        let mut record = vec![0; 20_000];
        let sealed = client.seal(&[1; 16_000], &mut record).unwrap();
        record.truncate(sealed.written);
        for piece in record.chunks_mut(1_400) {
            advance(&mut server, piece);
        }
        assert!(client.is_established() && server.is_established());
        (client, server)
    };
    let mut pairs: Vec<_> = Vec::with_capacity(PAIRS);
    pairs.extend((0..50).map(|_| pair())); // warms the allocator up
    let before = resident();
    pairs.extend((50..PAIRS).map(|_| pair()));
    let each = resident().saturating_sub(before) / (PAIRS - 50);
    println!("an idle pair holds {each} bytes");
    assert!(each > 1000, "{each}: the measurement itself is broken");
    assert!(each <= PAIR_MAX, "{each}");
}
