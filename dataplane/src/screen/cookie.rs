//! The SYN cookie.
