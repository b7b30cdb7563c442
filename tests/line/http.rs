//! Messages of HTTP/1.1, as far as somebody in between has to know them: where they end.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

const LONGEST_HEAD: usize = 64 << 10;

/// The first line of a message and its headers, as they were sent.
pub struct Head {
    pub bytes: Vec<u8>,
    text: String,
}

impl Head {
    /// The head of the next message; none where the other side has hung up between two.
    pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            let got = from.fill_buf().await?;
            if got.is_empty() {
                return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let before = bytes.len();
            let look = before.saturating_sub(3);
            let n = got.len().min(4096); // the rest is body, most of the time
            bytes.extend_from_slice(&got[..n]);
            let end = bytes[look..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| look + at + 4);
            from.consume(end.map_or(n, |end| end - before));
            if let Some(end) = end {
                bytes.truncate(end);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Ok(Some(Self { bytes, text }));
            }
            if bytes.len() > LONGEST_HEAD {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a head without an end"));
            }
        }
    }

    /// A word of the first line.
    pub fn word(&self, at: usize) -> &str {
        self.text.lines().next().and_then(|line| line.split(' ').nth(at)).unwrap_or("")
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
    }

    fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Whether the connection ends with the message.
    pub fn last(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }

    /// The body of a request.
    pub fn body(&self) -> Body {
        if self.chunked() { Body::Chunked(Chunks::default()) } else { Body::Length(self.length().unwrap_or(0)) }
    }

    /// The body of an answer to a request of the method.
    pub fn body_of(&self, method: &str) -> Body {
        match self.status() {
            100..200 | 204 | 304 => Body::Length(0),
            _ if method == "HEAD" => Body::Length(0),
            _ if self.chunked() => Body::Chunked(Chunks::default()),
            _ => self.length().map_or(Body::UntilClose, Body::Length),
        }
    }

    /// The head of the same answer, with a body in chunks.
    pub fn in_chunks(&self) -> Vec<u8> {
        let mut out = String::with_capacity(self.text.len() + 32);
        for line in self.text.lines().filter(|line| !line.is_empty()) {
            let key = line.split(':').next().unwrap_or("").to_ascii_lowercase();
            if key != "content-length" && key != "transfer-encoding" {
                out.push_str(line);
                out.push_str("\r\n");
            }
        }
        out.push_str("Transfer-Encoding: chunked\r\n\r\n");
        out.into_bytes()
    }
}

/// What is still to come of a body.
pub enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

impl Body {
    pub fn ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => matches!(chunks.at, At::End),
            Self::UntilClose => false,
        }
    }

    /// How many of these bytes are the body's, which is then so much further.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(left) => {
                let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= n as u64;
                n
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilClose => bytes.len(),
        }
    }
}

#[derive(Default)]
enum At {
    #[default]
    Size,
    Extension,
    Data,
    DataEnd,
    /// In the lines behind the last chunk: whether this one has anything in it.
    Trailer(bool),
    End,
}

/// Where in a body of chunks we are.
#[derive(Default)]
pub struct Chunks {
    at: At,
    size: u64,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut n = 0;
        while n < bytes.len() && !matches!(self.at, At::End) {
            if matches!(self.at, At::Data) {
                let some = usize::try_from(self.size).map_or(bytes.len() - n, |size| size.min(bytes.len() - n));
                self.size -= some as u64;
                n += some;
                if self.size == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            let byte = bytes[n];
            n += 1;
            match (&self.at, byte) {
                (At::Size | At::Extension, b'\n') => {
                    self.at = if self.size == 0 { At::Trailer(false) } else { At::Data };
                }
                (At::Size, _) => match char::from(byte).to_digit(16) {
                    Some(digit) => self.size = self.size << 4 | u64::from(digit),
                    None => self.at = At::Extension,
                },
                (At::DataEnd, b'\n') => self.at = At::Size,
                (At::Trailer(false), b'\n') => self.at = At::End,
                (At::Trailer(true), b'\n') => self.at = At::Trailer(false),
                (At::Trailer(_), b'\r') => {}
                (At::Trailer(_), _) => self.at = At::Trailer(true),
                _ => {}
            }
        }
        n
    }
}
