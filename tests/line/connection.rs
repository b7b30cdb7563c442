//! One client's connection, and the one to the server that belongs to it.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::clock::until;
use crate::count::{Count, Request};
use crate::faults::{Fate, Fault, fate};
use crate::http::{Body, Head};
use crate::pace::Pace;

/// What all connections share.
pub struct Line {
    pub to: String,
    pub pace: Pace,
    pub count: Mutex<Count>,
    pub faults: Mutex<Vec<Fault>>,
    /// Whether the server is as if gone.
    pub down: watch::Sender<bool>,
    /// Changes when faults are taken away: what hangs is let go.
    pub cleared: watch::Sender<()>,
}

impl Line {
    pub fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(PartialEq)]
enum End {
    Closed,
    Reset,
}

/// Hands requests on and answers back until one side hangs up.
pub async fn serve(line: &Line, mut client: TcpStream) {
    let mut down = line.down.subscribe();
    line.count().sums.connections += 1;
    let end = tokio::select! {
        end = talk(line, &mut client) => end,
        _ = down.wait_for(|down| *down) => Ok(End::Reset),
    };
    let reset = match end {
        Ok(end) => end == End::Reset,
        // The server hung up in the middle of an answer, in order.
        Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
    };
    if reset {
        let _ = client.set_zero_linger();
    }
}

async fn talk(line: &Line, client: &mut TcpStream) -> io::Result<End> {
    let mut ready = Some(Instant::now() + line.pace.latency());
    let mut server = TcpStream::connect(&line.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut talk = Talk {
        line,
        from_client: BufReader::with_capacity(64 << 10, from_client),
        to_client,
        from_server: BufReader::with_capacity(256 << 10, from_server),
        to_server,
    };
    loop {
        tokio::select! {
            got = talk.from_client.fill_buf() => got?.is_empty(),
            // An idle connection that the server ends, or answers on before it was asked.
            got = talk.from_server.fill_buf() => { got?; return Ok(End::Closed) }
        };
        let Some(head) = Head::read(&mut talk.from_client).await? else { return Ok(End::Closed) };
        if let Some(end) = talk.exchange(&head, ready.take()).await? {
            return Ok(end);
        }
    }
}

/// A request that is being answered: it is counted and logged however that ends.
struct Asked<'a> {
    line: &'a Line,
    request: Request,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.line.count().end(&self.request);
    }
}

impl Asked<'_> {
    fn sent(&mut self, head: usize, body: usize) {
        self.request.body += body as u64;
        let mut count = self.line.count();
        count.sums.down += body as u64;
        count.sums.sent += (head + body) as u64;
    }
}

struct Talk<'a, R, W> {
    line: &'a Line,
    from_client: BufReader<R>,
    to_client: W,
    from_server: BufReader<R>,
    to_server: W,
}

impl<R: tokio::io::AsyncRead + Unpin, W: AsyncWrite + Unpin> Talk<'_, R, W> {
    /// One request and its answer; how the connection ends, if it does.
    async fn exchange(&mut self, head: &Head, ready: Option<Instant>) -> io::Result<Option<End>> {
        let line = self.line;
        let begun = Instant::now();
        let text = |at| head.word(at).to_owned();
        let range = head.header("range").unwrap_or("").to_owned();
        let request = Request { begun, method: text(0), path: text(1), range, status: 0, body: 0 };
        line.count().begin(&request.method);
        let fate = fate(&mut line.faults(), &request.method, &request.path, &request.range);
        line.count().sums.faults += u64::from(fate.is_some());
        let mut asked = Asked { line, request };

        // There: a connection's first request waits for the connection, too.
        let half = line.pace.latency() / 2;
        let there = ready.map_or(begun, |ready| ready.max(begun)) + half;
        until(there).await;
        let late = there.elapsed();
        let back = half.saturating_sub(late);

        match fate {
            Some(Fate::Hang) => return self.hang().await.map(Some),
            Some(Fate::ResetBefore) => return Ok(Some(End::Reset)),
            Some(Fate::Status { status, retry_after, code }) => {
                self.read_request(head).await?;
                let answer = own_answer(status, retry_after, &code, &asked.request.method);
                until(Instant::now() + back).await;
                asked.request.status = status;
                let body = answer.len() - answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
                line.pace.turn(answer.len()).await;
                self.to_client.write_all(&answer).await?;
                asked.sent(answer.len() - body, body);
                return Ok(None);
            }
            _ => {}
        }

        let Some((answer, whole)) = self.ask(head).await? else { return Ok(Some(End::Closed)) };
        if fate == Some(Fate::ResetAfter) {
            return Ok(Some(End::Reset));
        }
        until(Instant::now() + back).await;
        asked.request.status = answer.status();
        let mut body = answer.body_of(&asked.request.method);
        let end = self.answer(&answer, &mut body, &mut asked, fate).await?;
        let last = answer.last() || head.last() || !whole || matches!(body, Body::UntilClose);
        Ok(end.or(last.then_some(End::Closed)))
    }

    /// Hands a request on; the head of the answer, and whether all of the request was sent before it came.
    async fn ask(&mut self, head: &Head) -> io::Result<Option<(Head, bool)>> {
        let (line, mut body) = (self.line, head.body());
        let (from_client, to_server) = (&mut self.from_client, &mut self.to_server);
        let mut sent = body.ended();
        let send = async {
            to_server.write_all(&head.bytes).await?;
            while !body.ended() {
                let n = body.take(filled(from_client).await?);
                to_server.write_all(&from_client.buffer()[..n]).await?;
                from_client.consume(n);
                line.count().sums.up += n as u64;
            }
            io::Result::Ok(())
        };
        tokio::pin!(send);
        if sent {
            send.as_mut().await?; // a head alone, which never waits for an answer
        }
        loop {
            let head = {
                let read = Head::read(&mut self.from_server);
                tokio::pin!(read);
                loop {
                    tokio::select! {
                        biased;
                        done = &mut send, if !sent => { done?; sent = true; }
                        head = &mut read => break head?,
                    }
                }
            };
            let Some(head) = head else { return Ok(None) };
            if (100..200).contains(&head.status()) {
                self.to_client.write_all(&head.bytes).await?; // "100 Continue"
                continue;
            }
            return Ok(Some((head, sent)));
        }
    }

    async fn answer(
        &mut self,
        answer: &Head,
        body: &mut Body,
        asked: &mut Asked<'_>,
        fate: Option<Fate>,
    ) -> io::Result<Option<End>> {
        let (mut left, mut slow) = (None, None);
        match &fate {
            Some(Fate::Cut(bytes) | Fate::Short(bytes)) => left = Some(*bytes),
            Some(Fate::Slow(rate)) => slow = Some(*rate),
            Some(Fate::EndlessChunks) => {
                self.put(&answer.in_chunks(), asked).await?;
                if matches!(body, Body::Length(_)) {
                    self.chunks(body, asked).await?;
                }
                return self.endless(b"400\r\n", b"\r\n", asked).await;
            }
            _ => {}
        }
        self.put(&answer.bytes, asked).await?;
        while !body.ended() && left != Some(0) {
            let got = match filled(&mut self.from_server).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && matches!(body, Body::UntilClose) => break,
                got => got?,
            };
            let mut most = self.line.pace.piece().min(got.len());
            if let Some(left) = left {
                most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
            }
            if let Some(rate) = slow {
                let some = (rate / 100).max(1);
                most = most.min(usize::try_from(some).unwrap_or(usize::MAX));
                until(Instant::now() + Duration::from_secs_f64(some as f64 / rate as f64)).await;
            }
            let n = body.take(&got[..most]);
            self.line.pace.turn(n).await;
            self.to_client.write_all(&self.from_server.buffer()[..n]).await?;
            self.from_server.consume(n);
            asked.sent(0, n);
            left = left.map(|left| left - n as u64);
        }
        match fate {
            Some(Fate::Cut(_)) => Ok(Some(End::Reset)),
            Some(Fate::Short(_)) => Ok(Some(End::Closed)),
            Some(Fate::EndlessLength) => self.endless(b"", b"", asked).await,
            _ => Ok(None),
        }
    }

    async fn put(&mut self, head: &[u8], asked: &mut Asked<'_>) -> io::Result<()> {
        self.line.pace.turn(head.len()).await;
        self.to_client.write_all(head).await?;
        asked.sent(head.len(), 0);
        Ok(())
    }

    /// A body of known length, sent in chunks.
    async fn chunks(&mut self, body: &mut Body, asked: &mut Asked<'_>) -> io::Result<()> {
        while !body.ended() {
            let n = body.take(filled(&mut self.from_server).await?);
            let mut chunk = format!("{n:x}\r\n").into_bytes();
            chunk.extend_from_slice(&self.from_server.buffer()[..n]);
            chunk.extend_from_slice(b"\r\n");
            self.from_server.consume(n);
            self.line.pace.turn(chunk.len()).await;
            self.to_client.write_all(&chunk).await?;
            asked.sent(0, chunk.len());
        }
        Ok(())
    }

    /// Sends kilobytes until nobody takes them any more.
    async fn endless(&mut self, before: &[u8], after: &[u8], asked: &mut Asked<'_>) -> io::Result<Option<End>> {
        let more = [before, &[b'x'; 1024], after].concat().repeat(16);
        loop {
            self.line.pace.turn(more.len()).await;
            self.to_client.write_all(&more).await?;
            asked.sent(0, more.len());
            tokio::task::yield_now().await;
        }
    }

    /// Answers nothing until the client goes away or the fault is taken away.
    async fn hang(&mut self) -> io::Result<End> {
        let mut cleared = self.line.cleared.subscribe();
        loop {
            tokio::select! {
                got = self.from_client.fill_buf() => {
                    let n = got?.len();
                    if n == 0 {
                        return Ok(End::Closed);
                    }
                    self.from_client.consume(n);
                }
                _ = cleared.changed() => return Ok(End::Closed),
            }
        }
    }

    /// Takes a request's body, for nobody.
    async fn read_request(&mut self, head: &Head) -> io::Result<()> {
        let mut body = head.body();
        while !body.ended() {
            let n = body.take(filled(&mut self.from_client).await?);
            self.from_client.consume(n);
        }
        Ok(())
    }
}

/// The bytes that are there, at least one.
async fn filled(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<&[u8]> {
    let got = from.fill_buf().await?;
    if got.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(got) }
}

/// An answer of the proxy's own.
fn own_answer(status: u16, retry_after: Option<u64>, code: &str, method: &str) -> Vec<u8> {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        412 => "Precondition Failed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "As Asked",
    };
    let body = match code {
        "" => reason.to_owned(),
        code => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{reason}</Message></Error>"
        ),
    };
    let wait = retry_after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let kind = if code.is_empty() { "text/plain" } else { "application/xml" };
    let head =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n{wait}Content-Length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { "" } else { body.as_str() };
    [head.as_bytes(), body.as_bytes()].concat()
}
