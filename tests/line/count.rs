//! What went over the line: sums, and a log with a line for each request.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::Instant;

use serde_json::{Value, json};

/// Sums since they were last set to zero.
#[derive(Default)]
pub struct Sums {
    requests: BTreeMap<String, u64>,
    statuses: BTreeMap<u16, u64>,
    /// Bytes of bodies, as they were sent.
    pub down: u64,
    pub up: u64,
    /// Bytes of heads and bodies that clients were sent.
    pub sent: u64,
    pub connections: u64,
    pub faults: u64,
    in_flight: u64,
    most_in_flight: u64,
}

/// What is known of a request at its end.
pub struct Request {
    pub begun: Instant,
    pub method: String,
    pub path: String,
    pub range: String,
    /// 0 where there was no answer.
    pub status: u16,
    pub body: u64,
}

pub struct Count {
    pub sums: Sums,
    log: Option<BufWriter<File>>,
    since: Instant,
}

impl Count {
    /// # Errors
    /// The log cannot be made.
    pub fn new(log: Option<&str>) -> io::Result<Self> {
        let mut log = log.map(File::create).transpose()?.map(BufWriter::new);
        if let Some(log) = &mut log {
            writeln!(log, "ms\tmethod\tpath\trange\tstatus\tbytes\ttook_ms")?;
        }
        Ok(Self { sums: Sums::default(), log, since: Instant::now() })
    }

    pub fn begin(&mut self, method: &str) {
        *self.sums.requests.entry(method.to_owned()).or_default() += 1;
        self.sums.in_flight += 1;
        self.sums.most_in_flight = self.sums.most_in_flight.max(self.sums.in_flight);
    }

    pub fn end(&mut self, request: &Request) {
        self.sums.in_flight -= 1;
        *self.sums.statuses.entry(request.status).or_default() += 1;
        if let Some(log) = &mut self.log {
            let at = (request.begun - self.since).as_secs_f64() * 1e3;
            let took = request.begun.elapsed().as_secs_f64() * 1e3;
            let Request { method, path, range, status, body, .. } = request;
            // A log that cannot be written is noticed by who reads it.
            let _ = writeln!(log, "{at:.3}\t{method}\t{path}\t{range}\t{status}\t{body}\t{took:.3}");
        }
    }

    pub fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            let _ = log.flush();
        }
    }

    /// Sets all sums to zero; what is in flight still is.
    pub fn reset(&mut self) {
        let in_flight = self.sums.in_flight;
        self.sums = Sums { in_flight, most_in_flight: in_flight, ..Sums::default() };
    }

    pub fn json(&self) -> Value {
        let sums = &self.sums;
        let statuses: BTreeMap<String, u64> = sums.statuses.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        json!({
            "requests": sums.requests, "statuses": statuses, "bytes_down": sums.down, "bytes_up": sums.up,
            "bytes_sent": sums.sent, "connections": sums.connections, "faults": sums.faults,
            "in_flight": sums.in_flight, "most_in_flight": sums.most_in_flight,
        })
    }
}
