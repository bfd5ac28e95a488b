//! Whatever the bytes and however they are cut: the tracker ends in the same place, and says the same of it.
#![no_main]

use carrick::tunnel::frame::{FrameTracker, Tally, Until};
use libfuzzer_sys::fuzz_target;

fn follow<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (FrameTracker, Tally) {
    let (mut tracker, mut tally) = (FrameTracker::default(), Tally::default());
    for chunk in chunks {
        assert_eq!(tracker.advance(chunk, Until::End, &mut tally), chunk.len());
    }
    (tracker, tally)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let (whole, counted) = follow(std::iter::once(bytes));
    for size in [1, usize::from(cut) + 1] {
        let (tracker, tally) = follow(bytes.chunks(size));
        assert_eq!(tally, counted);
        assert_eq!(tracker.between_frames(), whole.between_frames());
        assert_eq!(tracker.between_messages(), whole.between_messages());
        assert_eq!(tracker.is_lost(), whole.is_lost());
        assert_eq!((tracker.closed(), tracker.close_code()), (whole.closed(), whole.close_code()));
    }
});
