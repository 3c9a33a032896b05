//! SipHash over whole words.
