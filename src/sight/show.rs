//! Tunnels as text: tables for people, JSON for programs.
//!
//! Pure: it is handed what was seen, and says what is printed.

use std::time::Duration;

use serde::Serialize;

use super::{Answers, Listing, Seen, ask::End};
use crate::{
    api,
    model::sight::{Closing, State},
};

/// How much of a tunnel is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// What fits a terminal.
    Narrow,
    /// Everything.
    Wide,
}

/// A table of tunnels, a line each.
pub fn table(listing: &Listing, columns: Columns) -> String {
    if listing.tunnels.is_empty() {
        return "no tunnels\n".into();
    }
    let mut lines = vec![heads(columns).map(Into::into).collect::<Vec<String>>()];
    lines.extend(listing.tunnels.iter().map(|seen| cells(seen, columns)));
    aligned(&lines)
}

/// What is not in the table, for people: replicas that are missing, rows that were left out.
pub fn notes<T>(answers: &Answers<T>) -> String {
    answers.unreached.iter().map(|missing| format!("{} can not be reached: {}\n", missing.replica, plain(&missing.why))).collect()
}

/// That there are more rows, if there are.
pub fn rest(listing: &Listing) -> Option<String> {
    let matching = listing.total().matching;
    let shown = listing.tunnels.len() as u64;
    (shown < matching).then(|| format!("{shown} of {matching} are shown: --limit 0 shows all\n"))
}

/// A frame of `top`: how many there are, and the first rows with their rates.
pub fn frame(listing: &Listing, rates: &[Option<[f64; 2]>]) -> String {
    let total = listing.total();
    let replicas = listing.answers.reached.len();
    let mut text = format!("{} open, {} match, {} {}\n", total.open, total.matching, replicas, plural(replicas, "replica"));
    text.push_str(&notes(&listing.answers));
    let mut lines = vec![heads(Columns::Narrow).map(Into::into).collect::<Vec<String>>()];
    // Before what a tunnel waits for, which is the longest.
    let at = lines[0].len() - 1;
    lines[0].splice(at..at, ["IN/s".into(), "OUT/s".into()]);
    for (seen, rate) in listing.tunnels.iter().zip(rates) {
        let mut line = cells(seen, Columns::Narrow);
        let shown = |way: usize| rate.map_or_else(|| "-".into(), |rate| bytes(rate[way] as u64));
        line.splice(at..at, [shown(0), shown(1)]);
        lines.push(line);
    }
    text.push('\n');
    text.push_str(&aligned(&lines));
    text
}

/// How many each replica closes.
pub fn closing(answers: &Answers<Closing>, end: End, over: Duration) -> String {
    let what = match end {
        End::Drain if over.is_zero() => "told to come back".into(),
        End::Drain => format!("told to come back, over {}", api::Duration(over)),
        End::Kill => "cut".to_owned(),
    };
    let mut lines: Vec<Vec<String>> =
        answers.reached.iter().map(|answer| vec![plain(&answer.replica), answer.said.closing.to_string()]).collect();
    let sum: u64 = answers.reached.iter().map(|answer| answer.said.closing).sum();
    lines.push(vec![format!("all {what}"), sum.to_string()]);
    aligned(&lines)
}

/// Everything, for programs.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn heads(columns: Columns) -> impl Iterator<Item = &'static str> {
    let wide = ["ID", "SERVICE", "ENDPOINT", "FRAMES-IN", "FRAMES-OUT", "RTT"];
    let wide = wide.into_iter().filter(move |_| columns == Columns::Wide);
    ["REPLICA", "ROUTE", "LOCATION", "BACKEND", "CLIENT", "AGE", "IDLE", "IN", "OUT"].into_iter().chain(wide).chain(["STATE"])
}

fn cells(seen: &Seen, columns: Columns) -> Vec<String> {
    let Seen { replica, row } = seen;
    let backend = row.pod.clone().unwrap_or_else(|| row.endpoint.to_string());
    let seconds = |seconds: f64| age(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut line = vec![
        plain(replica),
        plain(&row.route),
        plain(&row.location),
        plain(&backend),
        row.client.to_string(),
        seconds(row.age_seconds),
        seconds(row.idle_seconds),
        bytes(row.bytes_received),
        bytes(row.bytes_sent),
    ];
    if columns == Columns::Wide {
        line.extend([
            row.id.to_string(),
            plain(&row.service),
            row.endpoint.to_string(),
            row.frames_received.to_string(),
            row.frames_sent.to_string(),
            row.rtt_seconds.map_or_else(|| "-".into(), |rtt| format!("{:.1}ms", rtt * 1000.0)),
        ]);
    }
    let reason = plain(row.reason.as_deref().unwrap_or_default());
    line.push(match (row.state, row.closes_in_seconds) {
        (State::Ordered, Some(left)) => format!("closes in {}: {reason}", seconds(left)),
        (state, _) if reason.is_empty() => state.label().into(),
        (state, _) => format!("{}: {reason}", state.label()),
    });
    line
}

/// Cells as wide as the widest of their column, three spaces between them.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |line: &Vec<String>| {
        let cells: String = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        format!("{}\n", cells.trim_end())
    };
    lines.iter().map(line).collect()
}

/// In the two largest units.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// At most four digits and a unit of 1024.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "";
    for larger in ["K", "M", "G", "T", "P"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit.is_empty() || value >= 100.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

/// What somebody else wrote, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::tests::{answer, listing};

    #[test]
    fn a_table_for_people() {
        let shown = table(&listing(), Columns::Narrow);
        let expected = "\
REPLICA     ROUTE          LOCATION   BACKEND   CLIENT            AGE     IDLE   IN     OUT   STATE
carrick/b   default/chat   /ws        chat-0    192.0.2.1:50000   2h5m    0s     2.0K   0     closes in 12s: operator
carrick/a   default/chat   /ws        chat-0    192.0.2.1:50000   1m30s   0s     10     0     open
carrick/b   default/chat   /ws        chat-0    192.0.2.1:50000   5s      0s     70     0     open
";
        assert_eq!(shown, expected);
        assert!(table(&listing(), Columns::Wide).contains("default/chat:80   10.0.0.7:8080   3           4            -     open\n"));
        assert_eq!(notes(&listing().answers), "carrick/c can not be reached: forbidden\n");
        let mut cut = listing();
        assert_eq!(rest(&cut), None);
        cut.tunnels.truncate(1);
        assert_eq!(rest(&cut).unwrap(), "1 of 3 are shown: --limit 0 shows all\n");
        cut.tunnels.clear();
        assert_eq!(table(&cut, Columns::Narrow), "no tunnels\n");
    }

    #[test]
    fn a_frame_has_rates() {
        let shown = frame(&listing(), &[Some([0.0, 1536.0]), None, None]);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[..3], ["20 open, 3 match, 2 replicas", "carrick/c can not be reached: forbidden", ""]);
        assert!(lines[3].ends_with("IN     OUT   IN/s   OUT/s   STATE"), "{shown}");
        assert!(lines[4].ends_with("2.0K   0     0      1.5K    closes in 12s: operator"), "{shown}");
    }

    #[test]
    fn json_for_programs() {
        let shown: serde_json::Value = serde_json::from_str(&json(&listing()).unwrap()).unwrap();
        assert_eq!(shown["replicas"][0], serde_json::json!({"replica": "carrick/a", "open": 10, "matching": 1}));
        assert_eq!(shown["unreached"][0]["replica"], "carrick/c");
        let first = &shown["tunnels"][0];
        assert_eq!(
            (first["replica"].as_str(), first["id"].as_u64(), first["state"].as_str()),
            (Some("carrick/b"), Some(2), Some("ordered"))
        );
        assert_eq!(first["closes_in_seconds"].as_f64(), Some(12.4));
    }

    #[test]
    fn what_is_closed_is_told_by_replica() {
        let answers = Answers {
            reached: vec![answer("carrick/a", Closing { closing: 7 }), answer("carrick/b", Closing { closing: 0 })],
            unreached: Vec::new(),
        };
        let over = Duration::from_secs(90);
        assert_eq!(
            closing(&answers, End::Drain, over),
            "carrick/a                           7\ncarrick/b                           0\nall told to come back, over 1m30s   7\n"
        );
        assert!(closing(&answers, End::Kill, Duration::ZERO).ends_with("all cut     7\n"));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0, 999, 1000, 1024, 204_800, 5 << 30].map(bytes).into();
        assert_eq!(shown, ["0", "999", "1.0K", "1.0K", "200K", "5.0G"]);
        let shown: Vec<_> = [59, 60, 3_599, 3_600, 86_400, 90_000].map(|seconds| age(Duration::from_secs(seconds))).into();
        assert_eq!(shown, ["59s", "1m0s", "59m59s", "1h0m", "1d0h", "1d1h"]);
    }

    #[test]
    fn nobody_writes_to_the_terminal_through_a_name() {
        let mut evil = listing();
        evil.tunnels[0].row.location = "/\u{1b}[2J".into();
        assert!(!table(&evil, Columns::Wide).contains('\u{1b}'));
    }
}
