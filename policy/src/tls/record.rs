//! Record protection after the handshake: one pass over each record, in the memory where it lies, no allocation.
//!
//! rustls stays in charge of secrets; it hands them over as it does for a kernel's TLS. Its own record layer (0.23) copies
//! every record into a vector of its own in both directions, keeps the handshake's buffers for as long as the connection
//! lives, and cannot say how many key updates it saw. AES-GCM and ChaCha20-Poly1305 are aws-lc's. Limits: a record's
//! plaintext (RFC 8446 section 5.1), messages of the handshake protocol after Finished, empty records in a row, and the
//! number of records under one key (section 5.5).

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};

use super::Failure;

/// Bytes of a record's header.
pub const HEADER: usize = 5;
/// Most bytes that protection adds to a plaintext: header, explicit nonce (TLS 1.2) or content type (1.3), tag.
pub const OVERHEAD: usize = HEADER + 8 + TAG;
/// Most plaintext bytes in a record (RFC 8446 section 5.1).
pub const PLAIN_MAX: usize = 1 << 14;
/// Longest protected record, header included (RFC 8446 section 5.2).
pub const RECORD_MAX: usize = HEADER + PLAIN_MAX + 256;

/// Key updates and session tickets that any connection may use up, besides one more for each [`RECORDS_PER_UPDATE`].
const UPDATES_FREE: u64 = 16;
const RECORDS_PER_UPDATE: u64 = 1 << 16;
/// Records in a row that carry nothing, or an alert that says nothing. OpenSSL once sent an empty one before each real record, and
/// gives up after five alerts; nobody sends more.
const EMPTY_MAX: u32 = 32;
/// Records under one sending key before we update it; AES-GCM allows 2^24.5 (RFC 8446 section 5.5).
const RECORDS_PER_KEY: u64 = 1 << 23;

const TAG: usize = 16;
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const FATAL: u8 = 2;
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// A record's whole length, once its header is there.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [_, _, _, high, low, ..] => Some(HEADER + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened<'a> {
    /// Application data.
    Data(&'a mut [u8]),
    /// Something that was dealt with here.
    Nothing,
    /// close_notify: no more data will come.
    Closed,
}

/// The part of rustls that outlives the handshake.
pub(super) enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Kernel {
    fn version(&self) -> ProtocolVersion {
        match self {
            Kernel::Server(kernel) => kernel.protocol_version(),
            Kernel::Client(kernel) => kernel.protocol_version(),
        }
    }

    fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Failure> {
        match self {
            Kernel::Server(kernel) => kernel.update_rx_secret(),
            Kernel::Client(kernel) => kernel.update_rx_secret(),
        }
        .map_err(|_| Failure::Internal)
    }

    fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Failure> {
        match self {
            Kernel::Server(kernel) => kernel.update_tx_secret(),
            Kernel::Client(kernel) => kernel.update_tx_secret(),
        }
        .map_err(|_| Failure::Internal)
    }
}

/// Both directions of an established connection.
pub(super) struct Traffic {
    kernel: Kernel,
    receiving: Direction,
    sending: Direction,
    received: u64,
    updates: u64,
    empty: u32,
    update_wanted: bool,
}

impl Traffic {
    pub(super) fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Traffic, Failure> {
        let tls12 = kernel.version() == ProtocolVersion::TLSv1_2;
        let receiving = Direction::new(secrets.rx, tls12)?;
        let sending = Direction::new(secrets.tx, tls12)?;
        Ok(Traffic { kernel, receiving, sending, received: 0, updates: 0, empty: 0, update_wanted: false })
    }

    /// Decrypts one whole record where it lies.
    pub(super) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, Failure> {
        let (kind, plain) = self.receiving.open(record)?;
        self.received += 1;
        self.empty = if plain.is_empty() || kind == ALERT { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_MAX {
            return Err(Failure::Unexpected);
        }
        match kind {
            APPLICATION_DATA => Ok(Opened::Data(plain)),
            HANDSHAKE => self.messages(plain).map(|()| Opened::Nothing),
            ALERT => match *plain {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                [WARNING, USER_CANCELED] => Ok(Opened::Nothing),
                [_, _] => Err(Failure::Alert),
                _ => Err(Failure::Unexpected),
            },
            _ => Err(Failure::Unexpected),
        }
    }

    /// Messages of the handshake protocol after Finished (RFC 8446 section 4.6). None may span records here: tickets are
    /// short, and a key update must end its record.
    fn messages(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() || self.receiving.explicit_nonce.is_some() {
            // TLS 1.2 has nothing but renegotiation to offer here.
            return Err(Failure::KeyUpdates);
        }
        while let [kind, a, b, c, rest @ ..] = bytes {
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
            let (body, rest) = rest.split_at_checked(length).ok_or(Failure::Unexpected)?;
            self.updates += 1;
            if self.updates > UPDATES_FREE + self.received / RECORDS_PER_UPDATE {
                return Err(Failure::KeyUpdates);
            }
            match (*kind, body, &self.kernel) {
                (KEY_UPDATE, [requested @ (0 | 1)], _) if rest.is_empty() => {
                    self.key_update(*requested == 1)?
                }
                (NEW_SESSION_TICKET, _, Kernel::Client(_)) => {} // never resumed
                _ => return Err(Failure::Unexpected),
            }
            bytes = rest;
        }
        if bytes.is_empty() { Ok(()) } else { Err(Failure::Unexpected) }
    }

    fn key_update(&mut self, requested: bool) -> Result<(), Failure> {
        self.receiving = Direction::new(self.kernel.next_receiving()?, false)?;
        // However often it was asked for, one answer is enough (RFC 8446 section 4.6.3).
        self.update_wanted |= requested;
        Ok(())
    }

    /// Where the plaintext of a record lies in it.
    pub(super) fn front(&self) -> usize {
        HEADER + self.receiving.explicit_nonce.unwrap_or(0)
    }

    /// Encrypts `plain` as application data into `space`, which has room for [`OVERHEAD`] more; says how many bytes it wrote.
    pub(super) fn seal(&mut self, plain: &[u8], space: &mut [u8]) -> Result<usize, Failure> {
        self.sending.seal(APPLICATION_DATA, plain, space)
    }

    /// Whether [`Traffic::update`] is due before more data goes out.
    pub(super) fn wants_update(&self) -> bool {
        self.update_wanted || self.sending.sequence >= RECORDS_PER_KEY
    }

    /// Tells the other side about the next sending key, and changes to it.
    pub(super) fn update(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.sending.explicit_nonce.is_some() {
            return Err(Failure::KeyUpdates); // TLS 1.2: the connection is at its end
        }
        self.append(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.sending = Direction::new(self.kernel.next_sending()?, false)?;
        self.update_wanted = false;
        Ok(())
    }

    /// Says that no more data will be sent.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.append(ALERT, &[WARNING, CLOSE_NOTIFY], out)
    }

    /// Says why the connection breaks off.
    pub(super) fn alert(&mut self, failure: Failure, out: &mut Vec<u8>) -> Result<(), Failure> {
        let description = match failure {
            Failure::Protocol => 20,                         // bad_record_mac
            Failure::TooLarge => 22,                         // record_overflow
            Failure::Unexpected | Failure::KeyUpdates => 10, // unexpected_message
            _ => 80,                                         // internal_error
        };
        self.append(ALERT, &[FATAL, description], out)
    }

    fn append(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut space = [0; OVERHEAD + 8];
        let written = self.sending.seal(kind, plain, &mut space)?;
        out.extend_from_slice(space.get(..written).ok_or(Failure::Internal)?);
        Ok(())
    }
}

/// One direction's key and record counter.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// TLS 1.2: how many bytes of nonce each record carries in front (RFC 5288: 8, RFC 7905: none).
    explicit_nonce: Option<usize>,
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), tls12: bool) -> Result<Direction, Failure> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Failure::Incompatible),
        };
        let explicit = if core::ptr::eq(algorithm, &CHACHA20_POLY1305) { 0 } else { 8 };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Failure::Internal)?;
        let iv = iv.as_ref().try_into().map_err(|_| Failure::Internal)?;
        let explicit_nonce = tls12.then_some(explicit);
        Ok(Direction { key: LessSafeKey::new(key), iv, sequence, explicit_nonce })
    }

    /// The counter of this record; the next one gets the next.
    fn take_sequence(&mut self) -> Result<u64, Failure> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Failure::Protocol)?;
        Ok(sequence)
    }

    /// RFC 8446 section 5.3, RFC 7905 section 2.
    fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, counter) in nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()) {
            *byte ^= counter;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 5288 section 3: four bytes are secret, eight travel with the record.
    fn nonce_from(&self, explicit: &[u8]) -> Nonce {
        let mut nonce = self.iv;
        for (byte, sent) in nonce.iter_mut().skip(4).zip(explicit) {
            *byte = *sent;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), Failure> {
        let sequence = self.take_sequence()?;
        let (header, payload) = record.split_at_mut_checked(HEADER).ok_or(Failure::Internal)?;
        let header: [u8; HEADER] = (&*header).try_into().map_err(|_| Failure::Internal)?;
        let (kind, plain) = match self.explicit_nonce {
            None => self.open_13(sequence, header, payload)?,
            Some(explicit) => (header[0], self.open_12(sequence, header, explicit, payload)?),
        };
        if plain.len() > PLAIN_MAX { Err(Failure::TooLarge) } else { Ok((kind, plain)) }
    }

    fn open_13<'a>(
        &self,
        sequence: u64,
        header: [u8; HEADER],
        payload: &'a mut [u8],
    ) -> Result<(u8, &'a mut [u8]), Failure> {
        if header[0] != APPLICATION_DATA {
            return Err(Failure::Unexpected);
        }
        let inner = self
            .key
            .open_in_place(self.nonce(sequence), Aad::from(header), payload)
            .map_err(|_| Failure::Protocol)?;
        // Padding is zeros behind the content type (RFC 8446 section 5.4); a record without a type is broken.
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(Failure::Protocol)?;
        let (plain, rest) = inner.split_at_mut_checked(end).ok_or(Failure::Internal)?;
        let kind = rest.first().copied().ok_or(Failure::Internal)?;
        Ok((kind, plain))
    }

    fn open_12<'a>(
        &self,
        sequence: u64,
        header: [u8; HEADER],
        explicit: usize,
        payload: &'a mut [u8],
    ) -> Result<&'a mut [u8], Failure> {
        let (sent, sealed) = payload.split_at_mut_checked(explicit).ok_or(Failure::Protocol)?;
        let length = sealed.len().checked_sub(TAG).ok_or(Failure::Protocol)?;
        let nonce = if explicit == 0 { self.nonce(sequence) } else { self.nonce_from(sent) };
        let aad = Aad::from(associated_12(sequence, header[0], length));
        self.key.open_in_place(nonce, aad, sealed).map_err(|_| Failure::Protocol)
    }

    fn seal(&mut self, kind: u8, plain: &[u8], space: &mut [u8]) -> Result<usize, Failure> {
        let sequence = self.take_sequence()?;
        let explicit = self.explicit_nonce.unwrap_or(0);
        let inner_type: &[u8] = if self.explicit_nonce.is_none() { &[kind] } else { &[] };
        let length = explicit + plain.len() + inner_type.len() + TAG;
        let outer = if self.explicit_nonce.is_none() { APPLICATION_DATA } else { kind };
        let [high, low] = u16::try_from(length).map_err(|_| Failure::Internal)?.to_be_bytes();
        let header = [outer, 3, 3, high, low];

        let record = space.get_mut(..HEADER + length).ok_or(Failure::Internal)?;
        let (front, payload) = record.split_at_mut(HEADER);
        front.copy_from_slice(&header);
        let (nonce_space, sealed) = payload.split_at_mut(explicit);
        nonce_space.copy_from_slice(sequence.to_be_bytes().get(..explicit).unwrap_or_default());
        let nonce = if explicit == 0 { self.nonce(sequence) } else { self.nonce_from(nonce_space) };
        let (cipher, tail) = sealed.split_at_mut(plain.len());
        match self.explicit_nonce {
            None => {
                self.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, cipher, inner_type, tail)
            }
            Some(_) => {
                let aad = Aad::from(associated_12(sequence, kind, plain.len()));
                self.key.seal_out_of_place_scatter(nonce, aad, plain, cipher, inner_type, tail)
            }
        }
        .map_err(|_| Failure::Internal)?;
        Ok(HEADER + length)
    }
}

/// RFC 5246 section 6.2.3.3.
fn associated_12(sequence: u64, kind: u8, length: usize) -> [u8; 13] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sequence.to_be_bytes();
    let [high, low] = (length as u16).to_be_bytes();
    [s0, s1, s2, s3, s4, s5, s6, s7, kind, 3, 3, high, low]
}
