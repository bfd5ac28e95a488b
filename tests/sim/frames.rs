//! The frame tracker against streams whose every boundary is known.

use carrick::tunnel::frame::{FrameTracker, Tally, Until};
use fastrand::Rng;

use super::{for_seeds, stream::Stream};

fn stream(rng: &mut Rng) -> Stream {
    let (masked, frames) = (rng.bool(), rng.usize(1..12));
    let mut stream = Stream::random(rng, masked, frames);
    if rng.bool() {
        let code = rng.bool().then(|| rng.u16(1000..5000));
        stream.push_close(rng, code);
        (0..rng.usize(..3)).for_each(|_| stream.push_random(rng));
    }
    stream
}

fn next_chunk(rng: &mut Rng, left: usize) -> usize {
    let most = [1, 3, 20, 70_000][rng.usize(..4)];
    rng.usize(1..=most).min(left)
}

#[test]
fn the_tracker_knows_where_it_stands_however_a_stream_is_cut() {
    for_seeds(2_000, |rng| {
        let stream = stream(rng);
        let (mut tracker, mut tally, mut at) = (FrameTracker::default(), Tally::default(), 0);
        while at < stream.bytes.len() {
            let chunk = next_chunk(rng, stream.bytes.len() - at);
            assert_eq!(tracker.advance(&stream.bytes[at..at + chunk], Until::End, &mut tally), chunk);
            at += chunk;
            assert_eq!(tracker.between_frames(), stream.frames.contains(&at), "at {at}");
            assert_eq!(tracker.between_messages(), stream.messages.contains(&at), "at {at}");
            let passed = stream.close.filter(|(_, end, _)| *end <= at);
            assert_eq!(tracker.closed(), passed.is_some(), "at {at}");
            assert_eq!(tracker.close_code(), passed.and_then(|(.., code)| code));
        }
        assert_eq!(tally, stream.tally);
    });
}

#[test]
fn the_tracker_stops_at_the_first_place_it_is_asked_for() {
    for_seeds(2_000, |rng| {
        let stream = stream(rng);
        let start = rng.usize(..stream.bytes.len());
        let until = [Until::Frame, Until::Message, Until::Close][rng.usize(..3)];
        let expected = match until {
            Until::Frame => stream.frames.range(start..).next().copied(),
            Until::Message => stream.messages.range(start..).next().copied(),
            _ => stream.close.map(|(first, ..)| first).filter(|first| *first >= start),
        };
        let mut tracker = FrameTracker::default();
        tracker.advance(&stream.bytes[..start], Until::End, &mut Tally::default());
        let mut at = start;
        while at < stream.bytes.len() && !tracker.is_at(until) {
            let chunk = next_chunk(rng, stream.bytes.len() - at);
            let passed = tracker.advance(&stream.bytes[at..at + chunk], until, &mut Tally::default());
            at += passed;
            if passed < chunk {
                break;
            }
        }
        assert_eq!(at, expected.unwrap_or(stream.bytes.len()), "{until:?} from {start}");
    });
}
