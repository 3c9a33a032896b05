//! The closed set of reasons for which a session is refused or ended; each has a counter and a paragraph in the manual.

/// (being written: the macro of `hedgerow_dataplane::reason` has the same shape)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both sides finished in order.
    Finished,
}
