//! After Finished: records in any pieces, key updates, close_notify, alerts, limits.

use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConnection};

use super::*;
use crate::tls::Sealed;
use crate::tls::record::{OVERHEAD, PLAIN_MAX, RECORD_MAX};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn data_arrives_in_order_whatever_the_chunks(
        writes in prop::collection::vec((any::<bool>(), 1usize..40_000), 1..8),
        chunks in prop::collection::vec(1usize..20_000, 1..8),
    ) {
        let (mut client, mut server) = pair();
        let mut chunks = chunks.into_iter().cycle();
        for (up, length) in writes {
            let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let data: Vec<u8> = (0..length).map(|i| (i % 253) as u8).collect();
            let sealed = seal(from, &data);
            let mut heard = Vec::new();
            for piece in pieces(&sealed, &mut || chunks.next().unwrap()) {
                heard.extend(feed(to, piece).unwrap());
            }
            prop_assert_eq!(heard, data);
        }
    }
}

#[test]
fn a_whole_record_is_decrypted_where_it_lies() {
    let (mut client, mut server) = pair();
    let mut record = seal(&mut client, b"in place");
    let lies = record.as_ptr_range();
    let received = server.receive(&mut record).unwrap();
    assert_eq!(received.plain, b"in place");
    assert!(lies.contains(&received.plain.as_ptr()));
}

#[test]
fn sealing_fills_what_space_there_is_and_no_more() {
    let (mut client, mut server) = pair();
    assert_eq!(client.seal(b"x", &mut [0; OVERHEAD]).unwrap(), Sealed::default());
    let sealed = client.seal(b"xyz", &mut [0; OVERHEAD + 2]).unwrap();
    assert_eq!(sealed.taken, 2);
    let mut space = vec![0; 3 * RECORD_MAX];
    let sealed = server.seal(&vec![1; 2 * PLAIN_MAX], &mut space).unwrap();
    assert_eq!(sealed.taken, PLAIN_MAX);
    assert!(sealed.written <= PLAIN_MAX + OVERHEAD);
    assert_eq!(server.seal(b"", &mut space).unwrap(), Sealed::default());
}

#[test]
fn an_end_is_announced_once_and_both_ways() {
    let (mut client, mut server) = pair();
    let mut last = seal(&mut client, b"last words");
    client.close();
    client.close();
    last.extend(said(&mut client));
    assert!(!client.wants_transmit());
    assert_eq!(client.seal(b"more", &mut [0; 99]).unwrap(), Sealed::default());
    last.extend_from_slice(b"noise behind the end");
    assert_eq!(feed(&mut server, &last).unwrap(), b"last words");
    assert!(server.peer_closed() && server.failure().is_none());
    // Half closed: the other direction still works.
    assert_eq!(feed(&mut client, &seal(&mut server, b"answer")).unwrap(), b"answer");
    server.close();
    feed(&mut client, &said(&mut server)).unwrap();
    assert!(client.peer_closed());
}

#[test]
fn a_record_that_was_touched_ends_the_connection_with_an_alert() {
    for position in [3, 4, 5, 12, 30] {
        let (mut client, mut server) = pair();
        let mut record = seal(&mut client, b"some application data");
        record[position] ^= 0x40;
        record.resize(RECORD_MAX + 100, 0);
        let failure = feed(&mut server, &record).unwrap_err();
        assert!(matches!(failure, Failure::Protocol | Failure::TooLarge), "{position}: {failure:?}");
        assert_eq!(server.seal(b"x", &mut [0; 99]), Err(failure));
        assert_eq!(feed(&mut client, &said(&mut server)), Err(Failure::Alert));
        assert!(said(&mut client).is_empty(), "an alert is not answered");
    }
}

#[test]
fn a_replayed_record_is_refused() {
    let (mut client, mut server) = pair();
    let record = seal(&mut client, b"once");
    feed(&mut server, &record).unwrap();
    assert_eq!(feed(&mut server, &record), Err(Failure::Protocol));
}

#[test]
fn headers_are_judged_before_bodies_arrive() {
    let (_, mut server) = pair();
    assert_eq!(feed(&mut server, &[23, 3, 3, 0xff, 0xff]), Err(Failure::TooLarge));
    let (_, mut server) = pair();
    assert_eq!(feed(&mut server, &[23, 2]), Err(Failure::Protocol));
}

fn established() -> (ClientConnection, Channel) {
    let mut server = acceptor().accept();
    let mut client = foreign_client(&settings(), Some(peer(2)), &[&TLS13]);
    converse(&mut client, &mut server).unwrap();
    (client, server)
}

#[test]
fn key_updates_are_followed_and_answered() {
    let (mut client, mut server) = established();
    for round in 0..10u8 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(&[round; 100]).unwrap();
        assert_eq!(converse(&mut client, &mut server).unwrap(), [round; 100]);
        listen(&mut client, &seal(&mut server, &[round; 50]));
        let mut heard = [0; 50];
        client.reader().read_exact(&mut heard).unwrap();
        assert_eq!(heard, [round; 50]);
    }
}

#[test]
fn many_requests_for_a_key_update_get_one_answer() {
    let (mut client, mut server) = established();
    let mut updates = Vec::new();
    for _ in 0..5 {
        client.refresh_traffic_keys().unwrap();
        client.write_tls(&mut updates).unwrap();
    }
    feed(&mut server, &updates).unwrap();
    assert!(server.wants_transmit());
    let answer = said(&mut server);
    assert_eq!(answer.len(), 5 + 5 + 1 + 16);
    listen(&mut client, &answer);
    listen(&mut client, &seal(&mut server, b"still there"));
    let mut heard = [0; 11];
    client.reader().read_exact(&mut heard).unwrap();
}

/// What [`feed`] does with one call at a time, as strictly as the contract allows: it stops at the first call that neither
/// takes nor yields anything.
#[test]
fn key_updates_right_behind_finished_do_not_hide_the_data_behind_them() {
    let mut server = acceptor().accept();
    let mut client = foreign_client(&settings(), Some(peer(2)), &[&TLS13]);
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    feed(&mut server, &hello).unwrap();
    listen(&mut client, &said(&mut server));
    client.refresh_traffic_keys().unwrap();
    client.writer().write_all(b"data").unwrap();
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    assert_eq!(server.receive(&mut flight).unwrap().taken, flight.len());
    work(&mut server).unwrap();
    assert_eq!(server.receive(&mut []).unwrap().plain, b"data");
    assert_eq!(server.receive(&mut []).unwrap().plain, b"");
}

#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let (mut client, mut server) = established();
    let refused = (1..100).find(|_| {
        client.refresh_traffic_keys().unwrap();
        let mut update = Vec::new();
        client.write_tls(&mut update).unwrap();
        feed(&mut server, &update).is_err()
    });
    assert_eq!(refused, Some(17));
    assert_eq!(server.failure(), Some(Failure::KeyUpdates));
    listen(&mut client, &said(&mut server));
    let heard = client.process_new_packets().unwrap_err();
    assert_eq!(heard, Error::AlertReceived(AlertDescription::UnexpectedMessage));
}
