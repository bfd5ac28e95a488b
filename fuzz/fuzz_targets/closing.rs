//! Whatever the two peers send and when they go: nothing panics, nothing passes after a FIN, and every end comes.
#![no_main]

use carrick::{
    telemetry::metrics::Side,
    tunnel::{
        clock::Tick,
        close::{Closing, Goodbye, Reason, Sink, Source},
        frame::Tally,
    },
};
use libfuzzer_sys::fuzz_target;

/// Stages that wait for 5 s each, and the first second for the end of a message.
const MOST_WAITS: usize = 8;

fn check(closing: &Closing, goodbye: Option<Goodbye>) {
    if let Some(goodbye) = goodbye {
        assert!(!matches!(closing.sink(goodbye.to), Sink::Shut | Sink::Broken));
    }
}

fuzz_target!(|events: Vec<(u8, &[u8])>| {
    let (mut closing, mut now) = (Closing::websocket(1012), Tick(0));
    for (event, bytes) in events {
        let side = Side::ALL[usize::from(event & 1)];
        match event >> 1 & 7 {
            _ if closing.source(side) != Source::Open => {}
            0 => {
                let said = closing.ended(side, Source::Finished, now);
                check(&closing, said);
            }
            1 => {
                let said = closing.ended(side, Source::Lost, now);
                check(&closing, said);
            }
            2 => {
                let said = closing.order(Reason::Shutdown, now);
                check(&closing, said);
            }
            3 => {
                now = closing.deadline().min(Tick(now.0 + 1_000));
                {
                    let said = closing.expired(now);
                    check(&closing, said);
                }
            }
            4 => closing.unwritable(side),
            _ => {
                let to = Side::ALL[usize::from(!event & 1)];
                let open = closing.sink(to) == Sink::Open;
                let verdict = closing.received(side, bytes, now, &mut Tally::default());
                assert!(verdict.pass <= bytes.len() && (open || verdict.pass == 0));
                check(&closing, verdict.say);
            }
        }
        for to in Side::ALL {
            if closing.sink(to) == Sink::Ending {
                closing.shut(to);
            }
        }
    }
    {
        let said = closing.order(Reason::Shutdown, now);
        check(&closing, said);
    }
    for _ in 0..MOST_WAITS {
        now = closing.deadline().min(Tick(now.0 + 1_000));
        {
            let said = closing.expired(now);
            check(&closing, said);
        }
        for to in Side::ALL {
            if closing.sink(to) == Sink::Ending {
                closing.shut(to);
            }
        }
    }
    assert!(closing.is_done(), "{closing:?}");
});
