//! What goes wrong, with which requests.

use std::str::FromStr;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// An answer of the proxy's own, with a `Retry-After` and the code of an error as S3 writes it.
    Status { status: u16, retry_after: Option<u64>, code: String },
    /// The connection is reset when so many bytes of the body were sent.
    Cut(u64),
    /// The connection is closed in order when so many bytes of the body were sent.
    Short(u64),
    /// More than the length that the head says, without end.
    EndlessLength,
    /// Chunks without a last one.
    EndlessChunks,
    /// No answer.
    Hang,
    /// The connection is reset, and the server never heard of the request.
    ResetBefore,
    /// The connection is reset in place of the server's answer.
    ResetAfter,
    /// So many bytes of the body a second.
    Slow(u64),
}

/// A fate, and whose it is.
#[derive(Clone, Debug)]
pub struct Fault {
    fate: Fate,
    path: String,
    method: String,
    range: String,
    skip: u64,
    times: u64,
    every: u64,
    seen: u64,
}

impl Fault {
    /// Whether this request has the fate; its path and method are looked at, and how many there were.
    fn meets(&mut self, method: &str, path: &str, range: &str) -> bool {
        if self.times == 0
            || !path.contains(&self.path)
            || !range.contains(&self.range)
            || !(self.method.is_empty() || self.method == method)
        {
            return false;
        }
        self.seen += 1;
        let met = self.seen > self.skip && (self.seen - self.skip).is_multiple_of(self.every);
        if met {
            self.times -= 1;
        }
        met
    }
}

impl FromStr for Fault {
    type Err = String;

    /// Words `key=value`: a fate, and which requests it is for.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut fate, mut retry_after, mut code) = (None, None, String::new());
        let mut fault = Self {
            fate: Fate::Hang,
            path: String::new(),
            method: String::new(),
            range: String::new(),
            skip: 0,
            times: u64::MAX,
            every: 1,
            seen: 0,
        };
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u64>().map_err(|_| format!("{key} must be a number, found {value:?}"));
            match (key, value) {
                ("status", _) => {
                    let status = value.parse().map_err(|_| format!("status must be a number, found {value:?}"))?;
                    fate = Some(Fate::Status { status, retry_after: None, code: String::new() });
                }
                ("retry_after", _) => retry_after = Some(number()?),
                ("code", _) => value.clone_into(&mut code),
                ("cut", _) => fate = Some(Fate::Cut(number()?)),
                ("short", _) => fate = Some(Fate::Short(number()?)),
                ("endless", "length") => fate = Some(Fate::EndlessLength),
                ("endless", "chunks") => fate = Some(Fate::EndlessChunks),
                ("hang", "") => fate = Some(Fate::Hang),
                ("reset", "before") => fate = Some(Fate::ResetBefore),
                ("reset", "after") => fate = Some(Fate::ResetAfter),
                ("slow", _) => fate = Some(Fate::Slow(number()?.max(1))),
                ("path", _) => value.clone_into(&mut fault.path),
                ("method", _) => value.clone_into(&mut fault.method),
                ("range", _) => value.clone_into(&mut fault.range),
                ("skip", _) => fault.skip = number()?,
                ("times", _) => fault.times = number()?,
                ("every", _) => fault.every = number()?.max(1),
                _ => return Err(format!("unknown word of a fault: {word}")),
            }
        }
        fault.fate = match fate {
            None => return Err(format!("no fate in {text:?}: status=, cut=, short=, endless=, hang, reset=, slow=")),
            Some(Fate::Status { status, .. }) => Fate::Status { status, retry_after, code },
            Some(fate) => fate,
        };
        Ok(fault)
    }
}

/// The fate of a request: that of the first fault that meets it.
pub fn fate(faults: &mut [Fault], method: &str, path: &str, range: &str) -> Option<Fate> {
    faults.iter_mut().find_map(|fault| fault.meets(method, path, range).then(|| fault.fate.clone()))
}
