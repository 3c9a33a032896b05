//! UTF-8 that arrives in pieces.

/// The bytes of a character that has begun.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    begun: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Takes the next piece; whether the text can still be valid.
    pub(super) fn take(&mut self, mut piece: &[u8]) -> bool {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return true };
            self.begun[usize::from(self.len)] = byte;
            self.len += 1;
            piece = rest;
            match core::str::from_utf8(&self.begun[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                // Four bytes are a character or an error, so the place for a fifth is never asked for.
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        let Err(error) = core::str::from_utf8(piece) else { return true };
        let tail = &piece[error.valid_up_to()..];
        if error.error_len().is_some() || tail.len() >= self.begun.len() {
            return false;
        }
        self.begun[..tail.len()].copy_from_slice(tail);
        self.len = tail.len() as u8;
        true
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.len == 0
    }
}
