//! Header sections: what is let in, what goes no further than one hop, what tells the backend who asked.
//!
//! It never knows sockets, bodies or locations. `http`, `forward` and `upgrade` call it.

pub mod admit;
pub mod forwarded;
pub mod hop;

/// The elements of a comma-separated field value, without their whitespace; empty ones are left out (RFC 9110 5.6.1).
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}
