//! Bytes of what is held ten thousand times: each bound has its reason, and growing one is a decision.

use carrick::tunnel::{self, Opening, Socket, close::Closing, frame::FrameTracker};

#[test]
fn a_frame_tracker_fits_24_bytes() {
    // Two in every tunnel. 16 are used: a length, two bytes each of key and code, the first byte of the header, five small states.
    assert!(size_of::<FrameTracker>() <= 24, "{}", size_of::<FrameTracker>());
}

#[test]
fn the_closing_handshake_fits_a_cache_line_and_a_half() {
    // Both trackers, what passes in each direction, and two deadlines of four bytes.
    assert!(size_of::<Closing>() <= 96, "{}", size_of::<Closing>());
}

#[test]
fn a_socket_is_no_larger_than_tokios() {
    // TLS is boxed, so that the many bare sockets do not pay for it.
    assert!(size_of::<Socket>() <= size_of::<tokio::net::TcpStream>() + 8, "{}", size_of::<Socket>());
}

#[test]
fn an_opening_is_small_enough_to_be_moved() {
    // It goes by value through the upgrade's future, whose size it adds to.
    assert!(size_of::<Opening>() <= 384, "{}", size_of::<Opening>());
}

#[test]
fn a_tunnel_at_rest_leaves_room_in_two_kilobytes() {
    // The goal is 2 kB all in all. tokio adds 128 for the task and up to 256 for each of two sockets, the registry's map 32, malloc some.
    assert!(tunnel::footprint() <= 1_250, "{}", tunnel::footprint());
}
