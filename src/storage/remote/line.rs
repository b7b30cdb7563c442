//! How fast the line to a server is, as its answers show: how long one is waited for, and how many bytes come in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most requests that are under way at a time, to a server that answers soon, and to any.
const IN_FLIGHT: f64 = 128.0;
const MOST_IN_FLIGHT: f64 = 256.0;
/// The requests a second from which on more are under way where answers come late. Buckets take about half of it of one prefix
/// at once, and more when they are asked for more; where it is too much they say so, and are obeyed.
const PER_SECOND: f64 = 10_000.0;
/// What a line is taken for before it was measured.
const LATENCY: f64 = 0.02;
const BANDWIDTH: f64 = 100e6;
/// How many times what a line holds is asked for: answers that began together end together, and the line has to have others then.
const AHEAD: f64 = 3.0;
/// The least and the most bytes of that.
const LEAST: u64 = 8 << 20;
const MOST: u64 = 256 << 20;
/// The time over which arriving bytes are counted for one measurement.
const SPAN: Duration = Duration::from_millis(100);
/// How much of what was known stays with each measurement that says less of the line.
const STAYS: f64 = 0.9;

/// The measurements of one line.
#[derive(Debug)]
pub struct Line(Mutex<Measured>);

#[derive(Debug)]
struct Measured {
    /// Seconds until an answer begins.
    latency: f64,
    /// Bytes a second.
    bandwidth: f64,
    /// Since when bytes are counted, and how many there were.
    since: Option<Instant>,
    bytes: u64,
}

impl Measured {
    fn in_flight(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the two bounds")]
        let wanted = (self.latency * PER_SECOND).clamp(IN_FLIGHT, MOST_IN_FLIGHT) as usize;
        wanted
    }
}

impl Default for Line {
    fn default() -> Self {
        Self(Mutex::new(Measured { latency: LATENCY, bandwidth: BANDWIDTH, since: None, bytes: 0 }))
    }
}

impl Line {
    /// Notes an answer that began after this time.
    pub fn answered(&self, after: Duration) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = after.as_secs_f64();
        // Requests that wait for others take longer than the line: the shortest times tell it.
        measured.latency = if after < measured.latency {
            after.max(1e-5)
        } else {
            STAYS.mul_add(measured.latency, (1.0 - STAYS) * after.min(4.0 * measured.latency))
        };
    }

    /// Notes bytes that arrived now.
    pub fn arrived(&self, bytes: u64) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *measured.since.get_or_insert(now);
        measured.bytes += bytes;
        let span = now - since;
        if span < SPAN {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let found = measured.bytes as f64 / span.as_secs_f64();
        // A line that was not busy shows less than it can.
        measured.bandwidth = found.max(STAYS * measured.bandwidth).max(1e6);
        (measured.since, measured.bytes) = (Some(now), 0);
    }

    /// The most requests that are under way at a time.
    pub fn in_flight(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).in_flight()
    }

    /// The most bytes that are asked for at a time: more would wait on the line, not for the server.
    pub fn most(&self) -> u64 {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bound")]
        let most = (AHEAD * measured.latency * measured.bandwidth) as u64;
        most.clamp(LEAST, MOST)
    }

    /// The bytes that the line brings in the time that one request more costs, where many are under way.
    pub fn gap(&self) -> u64 {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a bound"
        )]
        let gap = (measured.latency * measured.bandwidth / measured.in_flight() as f64) as u64;
        gap.clamp(4 << 10, 1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_server_is_worth_longer_gaps() {
        let (near, far) = (Line::default(), Line::default());
        for _ in 0..100 {
            near.answered(Duration::from_millis(1));
            far.answered(Duration::from_millis(100));
        }
        assert!(near.gap() < Line::default().gap() && Line::default().gap() < far.gap());
        assert!((30_000..50_000).contains(&far.gap()), "{}", far.gap());
    }

    #[test]
    fn one_slow_answer_does_not_make_a_line_slow() {
        let line = Line::default();
        line.answered(Duration::from_millis(10));
        let before = line.gap();
        line.answered(Duration::from_secs(9));
        assert!(line.gap() < 2 * before);
    }
}
