//! Attackers at real addresses who want places and not damage: they finish every handshake, say a byte, hold what they get,
//! and come back when they are sent away. No stack of theirs has to be simulated: they answer what a segment asks for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use smoltcp::wire::{TcpControl, TcpRepr};

use crate::floods::{bare, segment};
use crate::network::Source;
use crate::random::Random;
use crate::router;

/// Where a crowd lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// One IPv4 /16.
    Net16([u8; 2]),
    /// One IPv6 /32.
    Net32([u8; 4]),
    /// An IPv4 /16 for each member, from this first byte on.
    Apart(u8),
}

impl Home {
    fn address(self, member: u32, random: &mut Random) -> IpAddr {
        match self {
            Home::Net16([a, b]) => {
                let [c, d] = (random.next() as u16).to_be_bytes();
                Ipv4Addr::new(a, b, c, d.clamp(1, 254)).into()
            }
            Home::Net32(net) => {
                let mut bytes = [0; 16];
                random.fill(&mut bytes);
                bytes[..4].copy_from_slice(&net);
                Ipv6Addr::from(bytes).into()
            }
            Home::Apart(first) => Ipv4Addr::new(first + (member >> 8) as u8, member as u8, 77, 7).into(),
        }
    }

    fn covers(self, address: IpAddr) -> bool {
        match (self, address) {
            (Home::Net16(net), IpAddr::V4(v4)) => v4.octets()[..2] == net,
            (Home::Net32(net), IpAddr::V6(v6)) => v6.octets()[..4] == net,
            (Home::Apart(first), IpAddr::V4(v4)) => v4.octets()[0] >= first && v4.octets()[2..] == [77, 7],
            _ => false,
        }
    }
}

/// A crowd. Each member keeps one connection.
pub struct Crowd {
    service: SocketAddr,
    home: Home,
    /// How long after being sent away, or after having had no answer, a member comes again.
    rest: Duration,
    /// By when each member comes next.
    plan: BTreeMap<(Instant, u32), ()>,
    /// Members by the address and port that they came from last.
    members: BTreeMap<SocketAddr, u32>,
    random: Random,
}

impl Crowd {
    /// `size` members who come one after the other within `within`, for ever.
    pub fn new(
        service: SocketAddr,
        home: Home,
        size: u32,
        within: Duration,
        rest: Duration,
        random: Random,
    ) -> Self {
        let at = |member| (Instant::ZERO + within * member / size.max(1), member);
        let plan = (0..size).map(|member| (at(member), ())).collect();
        Crowd { service, home, rest, plan, members: BTreeMap::new(), random }
    }
}

impl Source for Crowd {
    fn next(&self) -> Option<Instant> {
        self.plan.keys().next().map(|(at, _)| *at)
    }

    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>) {
        while let Some((&(at, member), ())) = self.plan.iter().next()
            && at <= now
        {
            self.plan.remove(&(at, member));
            let address = self.home.address(member, &mut self.random);
            let from = SocketAddr::new(address, self.random.between(1_024, 65_536) as u16);
            self.members.retain(|_, other| *other != member);
            self.members.insert(from, member);
            // Where nobody answers it tries again; an answer takes this back.
            self.plan.insert((now + self.rest, member), ());
            let seq = self.random.next() as u32;
            let mut syn = bare(from.port(), self.service.port(), TcpControl::Syn, seq, None);
            syn.max_seg_size = Some(1_220);
            send.push(segment(from, self.service, &syn));
        }
    }

    fn covers(&self, address: IpAddr) -> bool {
        self.home.covers(address)
    }

    fn hear(&mut self, now: Instant, frame: &[u8], send: &mut Vec<Vec<u8>>) {
        let Some((_, own, heard)) = router::tcp(frame) else { return };
        let from = SocketAddr::new(own, heard.dst_port);
        let Some(&member) = self.members.get(&from) else { return };
        let Some(ack) = heard.ack_number else { return };
        match heard.control {
            TcpControl::Rst | TcpControl::Fin => {
                self.plan.retain(|(_, other), ()| *other != member);
                self.plan.insert((now + self.rest, member), ());
            }
            TcpControl::Syn => {
                self.plan.retain(|(_, other), ()| *other != member);
                let next = (heard.seq_number + 1).0 as u32;
                let answer =
                    bare(from.port(), self.service.port(), TcpControl::None, ack.0 as u32, Some(next));
                let data = TcpRepr { control: TcpControl::Psh, payload: &[0], ..answer };
                send.push(segment(from, self.service, &data));
            }
            _ if !heard.payload.is_empty() => {
                let next = (heard.seq_number + heard.payload.len()).0 as u32;
                let answer =
                    bare(from.port(), self.service.port(), TcpControl::None, ack.0 as u32, Some(next));
                send.push(segment(from, self.service, &answer));
            }
            _ => {}
        }
    }
}
