//! A line to a server of this machine, for tests and benchmarks: as long and as wide as asked, with faults and a log.
//!
//! `line --to 127.0.0.1:9000 [--port P] [--latency-ms 20] [--mbytes-per-s 125] [--log FILE]` prints the port that it
//! listens on. Requests of HTTP/1.1 are handed on unchanged. A round trip takes the latency longer than it would, and
//! making a connection takes one. The width is that of the way back, and all connections share it.
//!
//! It ends with its input, whose lines are commands; each is answered with a line, `ok`, a JSON object or `error: …`:
//! `stats`, `reset` (sums to zero), `latency MS`, `mbytes N` (0: without bound), `fault …` (see `faults.rs`), `clear`
//! (no more faults; what hangs is closed), `down` (resets connections and takes no more), `up`.

mod clock;
mod connection;
mod count;
mod faults;
mod http;
mod pace;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::connection::{Line, serve};
use crate::count::Count;
use crate::pace::Pace;

struct Options {
    to: String,
    port: u16,
    latency: Duration,
    width: u64,
    log: Option<String>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { to: String::new(), port: 0, latency: Duration::ZERO, width: 0, log: None };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--to" => options.to = value,
                "--port" => options.port = value.parse().map_err(|_| format!("no port: {value}"))?,
                "--latency-ms" => options.latency = latency(&value)?,
                "--mbytes-per-s" => options.width = width(&value)?,
                "--log" => options.log = Some(value),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if options.to.is_empty() { Err("--to HOST:PORT is missing".to_owned()) } else { Ok(options) }
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| (0.0..1e9).contains(x)).ok_or_else(|| format!("no number from 0: {text}"))
}

fn latency(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_secs_f64(number(text)? / 1e3))
}

/// Megabytes as bytes.
fn width(text: &str) -> Result<u64, String> {
    let bytes = format!("{:.0}", number(text)? * 1e6);
    bytes.parse().map_err(|_| format!("no width: {text}"))
}

fn main() -> io::Result<()> {
    let options = Options::parse(std::env::args().skip(1)).map_err(io::Error::other)?;
    // One thread: what was sent is counted before anybody can ask.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> io::Result<()> {
    let line = Arc::new(Line {
        to: options.to,
        pace: Pace::new(options.latency, options.width),
        count: Mutex::new(Count::new(options.log.as_deref())?),
        faults: Mutex::new(Vec::new()),
        down: watch::Sender::new(false),
        cleared: watch::Sender::new(()),
    });
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let port = listener.local_addr()?.port();
    let mut listener = Some(listener);
    say(&port.to_string())?;
    let mut commands = commands();
    loop {
        tokio::select! {
            client = accept(listener.as_ref()) => if let Ok(client) = client {
                let line = Arc::clone(&line);
                tokio::spawn(async move { serve(&line, client).await });
            },
            command = commands.recv() => {
                line.count().flush();
                let Some(command) = command else { return Ok(()) };
                let answer = match command.trim() {
                    "down" => {
                        listener = None;
                        line.down.send_replace(true);
                        Ok("ok".to_owned())
                    }
                    "up" => match TcpListener::bind(("127.0.0.1", port)).await {
                        Ok(again) => {
                            line.down.send_replace(false);
                            listener = Some(again);
                            Ok("ok".to_owned())
                        }
                        Err(error) => Err(error.to_string()),
                    },
                    command => obey(&line, command),
                };
                say(&answer.unwrap_or_else(|error| format!("error: {error}")))?;
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

fn obey(line: &Line, command: &str) -> Result<String, String> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "stats" => return Ok(line.count().json().to_string()),
        "reset" => line.count().reset(),
        "latency" => line.pace.set_latency(latency(rest)?),
        "mbytes" => line.pace.set_width(width(rest)?),
        "fault" => line.faults().push(rest.parse()?),
        "clear" => {
            line.faults().clear();
            line.cleared.send_replace(());
        }
        _ => return Err(format!("unknown command {verb}")),
    }
    Ok("ok".to_owned())
}

/// The lines of our input, read by a thread of their own.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for text in io::stdin().lines().map_while(Result::ok) {
            if send.send(text).is_err() {
                break;
            }
        }
    });
    receive
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}
