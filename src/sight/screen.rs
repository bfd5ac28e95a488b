//! A terminal that is drawn on again and again, and is as it was afterwards.
//!
//! Plain ANSI: the other screen, so that what was there comes back; no cursor; long lines cut, not wrapped. `app` draws frames of `top`.

use std::io::{self, Write};

const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal that was taken. Dropping it gives it back, whatever the way out.
#[derive(Debug)]
pub struct Screen<W: Write>(W);

impl<W: Write> Screen<W> {
    /// Takes it.
    pub fn take(mut terminal: W) -> io::Result<Self> {
        terminal.write_all(ENTER.as_bytes())?;
        terminal.flush()?;
        Ok(Self(terminal))
    }

    /// Draws a frame over the last one: each line is wiped behind its end, and all below.
    pub fn draw(&mut self, frame: &str) -> io::Result<()> {
        let lines = frame.lines().map(|line| format!("{line}\x1b[K\r\n"));
        let text: String = ["\x1b[H".to_owned()].into_iter().chain(lines).chain(["\x1b[J".to_owned()]).collect();
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        // A terminal that is gone needs no care.
        let _ = self.0.write_all(LEAVE.as_bytes()).and_then(|()| self.0.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_as_it_was() {
        let mut written = Vec::new();
        let mut screen = Screen::take(&mut written).unwrap();
        screen.draw("one\ntwo\n").unwrap();
        drop(screen);
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written, format!("{ENTER}\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J{LEAVE}"));
        for mode in ["?1049", "?7", "?25"] {
            assert_eq!(written.matches(&format!("[{mode}h")).count(), written.matches(&format!("[{mode}l")).count(), "{mode}");
        }
    }
}
