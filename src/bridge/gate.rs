//! Stands between a socket and the HTTP library. It passes on only complete request heads
//! that follow the specification strictly, tracks the bodies behind them, and records
//! progress. It does not know what requests mean.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::{Connection, ConnectionPhase};
use super::head::{self, ChunkScan, Framing, HeadScan, Refusal};
use super::held_bytes::HeldBytes;

/// The longest time from the first byte of a head to its last.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Within this time [`LEAST_BYTES`] of an answer, or all of it, must have been taken by the
/// client.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
const LEAST_BYTES: u64 = 16 << 10;
/// Bytes read from the socket at a time.
const READ_BYTES: usize = 8 << 10;
/// Bytes of an incomplete head that the budget does not count.
const SMALL_HEAD_BYTES: usize = 2 << 10;

const OVERLOADED: Refusal =
    Refusal { status: 503, code: "overloaded", detail: "too much is being received; send it again" };

/// What the driver of a connection sees of its gate.
#[derive(Debug, Default)]
pub struct Signals {
    refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    /// While the socket takes nothing: since when, and the bytes written since.
    stall: Mutex<Option<WriteStall>>,
}

#[derive(Debug, Clone, Copy)]
struct WriteStall {
    since: Instant,
    written: u64,
}

impl Signals {
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    pub fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.refused.store(true, Ordering::Release);
    }

    fn stall(&self) -> std::sync::MutexGuard<'_, Option<WriteStall>> {
        self.stall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a stalled answer has to be checked.
    pub fn stall_ends(&self) -> Option<Instant> {
        self.stall().map(|stall| stall.since + WRITE_TIMEOUT)
    }

    /// Whether the client has stopped reading an answer; if not, the time starts again.
    pub fn is_given_up(&self) -> bool {
        let mut stall = self.stall();
        let Some(seen) = *stall else { return false };
        if seen.written < LEAST_BYTES {
            return true;
        }
        *stall = Some(WriteStall { since: Instant::now(), written: 0 });
        false
    }
}

#[derive(Debug)]
enum Frame {
    Head(HeadScan),
    Length(u64),
    Chunked(ChunkScan),
    /// The body was malformed, so what follows cannot be told apart.
    Broken,
}

#[derive(Debug)]
pub struct Gate<S> {
    stream: S,
    connection: Arc<Connection>,
    signals: Arc<Signals>,
    /// Bytes that were read and not passed on; `passed` of them may be.
    bytes: Vec<u8>,
    passed: usize,
    frame: Frame,
    /// The budget that a long head holds.
    held: Option<HeldBytes>,
    /// Whether other connections had a turn since the last request.
    gave_way: bool,
}

/// The result of waiting for a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOutcome {
    /// There are bytes to pass on.
    Passed,
    Closed,
    Refused,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    pub fn new(stream: S, connection: Arc<Connection>, signals: Arc<Signals>) -> Gate<S> {
        let frame = Frame::Head(HeadScan::default());
        Gate { stream, connection, signals, bytes: Vec::new(), passed: 0, frame, held: None, gave_way: true }
    }

    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Reads until there are bytes to pass on.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<HeadOutcome>> {
        // A client that sends many requests at once waits its turn for each.
        let comes_next = self.passed == 0 && !self.bytes.is_empty() && matches!(self.frame, Frame::Head(_));
        if comes_next && !self.gave_way {
            self.gave_way = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if self.signals.is_refused() {
                return Poll::Ready(Ok(HeadOutcome::Refused));
            }
            if self.passed == 0 {
                self.look()?;
            }
            if self.passed > 0 {
                return Poll::Ready(Ok(HeadOutcome::Passed));
            }
            if self.signals.is_refused() {
                continue;
            }
            let mut space = [std::mem::MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    if self.bytes.is_empty() {
                        // A connection that waits should hold little memory.
                        self.bytes = Vec::new();
                    }
                    return Poll::Pending;
                }
            }
            if read.filled().is_empty() {
                return Poll::Ready(Ok(HeadOutcome::Closed));
            }
            self.connection.moved();
            self.bytes.extend_from_slice(read.filled());
        }
    }

    /// Determines how many of the bytes may be passed on.
    fn look(&mut self) -> io::Result<()> {
        loop {
            let rest = &self.bytes[self.passed..];
            if rest.is_empty() {
                return Ok(());
            }
            match &mut self.frame {
                // The next request waits until this one has been passed on.
                Frame::Head(_) if self.passed > 0 => return Ok(()),
                Frame::Head(scan) => match scan.end(rest).and_then(|end| Ok(end.zip(checked(rest, end)?))) {
                    Err(refusal) => {
                        self.signals.refuse(refusal);
                        return Ok(());
                    }
                    Ok(None) => {
                        if self.connection.phase() == ConnectionPhase::Idle {
                            self.connection.enter(ConnectionPhase::Head);
                        }
                        self.count_head();
                        return Ok(());
                    }
                    Ok(Some((end, framing))) => {
                        self.passed = end;
                        (self.held, self.gave_way) = (None, false);
                        self.frame = match framing {
                            Framing::Length(0) => Frame::Head(HeadScan::default()),
                            Framing::Length(left) => Frame::Length(left),
                            Framing::Chunked => Frame::Chunked(ChunkScan::default()),
                        };
                    }
                },
                Frame::Length(left) => {
                    let taken = (*left).min(rest.len() as u64);
                    self.passed += taken as usize;
                    *left -= taken;
                    if *left > 0 {
                        return Ok(());
                    }
                    self.frame = Frame::Head(HeadScan::default());
                }
                Frame::Chunked(scan) => match scan.take(rest) {
                    Ok(taken) => {
                        self.passed += taken;
                        if *scan != ChunkScan::End {
                            return Ok(());
                        }
                        self.frame = Frame::Head(HeadScan::default());
                    }
                    Err(_) => self.frame = Frame::Broken,
                },
                Frame::Broken if self.passed > 0 => return Ok(()),
                Frame::Broken => return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunks")),
            }
        }
    }

    /// Counts a long head in the budget.
    fn count_head(&mut self) {
        let len = self.bytes.len();
        if len <= SMALL_HEAD_BYTES {
            return;
        }
        let held = self.held.get_or_insert_with(|| HeldBytes::none(&self.connection));
        let more = len.saturating_sub(held.bytes());
        if held.try_grow(more).is_err() {
            self.connection.all().free_bytes();
            self.signals.refuse(OVERLOADED);
        }
    }

    fn wrote(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Ready(Ok(written)) => {
                self.connection.moved();
                if let Some(stall) = &mut *self.signals.stall() {
                    stall.written += *written as u64;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.signals.stall().get_or_insert(WriteStall { since: Instant::now(), written: 0 });
            }
        }
        wrote
    }
}

fn checked(bytes: &[u8], end: Option<usize>) -> Result<Option<Framing>, Refusal> {
    end.map(|end| head::check(&bytes[..end])).transpose()
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(self.poll_ready(cx))? {
            // The driver handles it in the same turn.
            HeadOutcome::Refused => Poll::Pending,
            HeadOutcome::Closed => Poll::Ready(Ok(())),
            HeadOutcome::Passed => {
                let taken = self.passed.min(into.remaining());
                into.put_slice(&self.bytes[..taken]);
                self.bytes.drain(..taken);
                self.passed -= taken;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(wrote)
    }

    /// Called when everything was written; from then on the next request is awaited.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        *self.signals.stall() = None;
        if self.connection.phase() == ConnectionPhase::Writing {
            let begun = self.passed == 0 && !self.bytes.is_empty();
            self.connection.enter(if begun { ConnectionPhase::Head } else { ConnectionPhase::Idle });
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::budget::Budget;
    use crate::bridge::connections::{Connections, Limits};
    use hyper::rt::Read as _;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    fn gate() -> (Gate<DuplexStream>, DuplexStream, Arc<Connection>, Arc<Signals>) {
        let limits = Limits { max_connections: 4, max_per_address: None, keep_alive: Duration::from_secs(75) };
        let all = Connections::new(limits, Arc::new(Budget::new(1 << 20)));
        let connection = all.join([127, 0, 0, 1].into()).unwrap();
        let (client, stream) = tokio::io::duplex(1 << 20);
        let signals = Arc::new(Signals::default());
        (Gate::new(stream, connection.clone(), signals.clone()), client, connection, signals)
    }

    /// What comes through once, at most `most` bytes; `None` when it waits.
    async fn read(gate: &mut Gate<DuplexStream>, most: usize) -> Option<io::Result<Vec<u8>>> {
        let mut space = vec![0; most];
        poll_fn(|cx| {
            let mut buffer = hyper::rt::ReadBuf::new(&mut space);
            Poll::Ready(match Pin::new(&mut *gate).poll_read(cx, buffer.unfilled()) {
                Poll::Pending => None,
                Poll::Ready(done) => Some(done.map(|()| buffer.filled().to_vec())),
            })
        })
        .await
    }

    async fn read_all(gate: &mut Gate<DuplexStream>, most: usize) -> Vec<u8> {
        let (mut all, mut waited) = (Vec::new(), 0);
        // Between two requests it waits once for others.
        while waited < 2 {
            match read(gate, most).await {
                Some(Ok(piece)) if !piece.is_empty() => (_, waited) = (all.extend(piece), 0),
                Some(_) => break,
                None => waited += 1,
            }
        }
        all
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nGET / \n";
    const CHUNKS: &str =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\nT: x\r\n\r\n";

    #[tokio::test]
    async fn sound_bytes_pass_unchanged_however_they_are_cut() {
        let all = [GET, POST, CHUNKS, GET, CHUNKS, POST, GET].concat();
        for cut in 1..all.len() {
            let (mut gate, mut client, ..) = gate();
            client.write_all(&all.as_bytes()[..cut]).await.unwrap();
            let mut through = read_all(&mut gate, 1 + cut % 40).await;
            client.write_all(&all.as_bytes()[cut..]).await.unwrap();
            through.extend(read_all(&mut gate, 64).await);
            assert_eq!(String::from_utf8_lossy(&through), all, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_head_passes_before_all_of_it_is_sound() {
        let (mut gate, mut client, connection, signals) = gate();
        client.write_all(&GET.as_bytes()[..GET.len() - 1]).await.unwrap();
        assert!(read(&mut gate, 64).await.is_none());
        assert_eq!(connection.phase(), ConnectionPhase::Head);
        client.write_all(b"\nGET / HTTP/1.1\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(read_all(&mut gate, 64).await, GET.as_bytes());
        assert!(read(&mut gate, 64).await.is_none());
        assert_eq!(signals.refusal().map(|refusal| refusal.status), Some(400));
    }

    #[tokio::test]
    async fn chunks_that_are_none_are_an_error_of_the_body() {
        let (mut gate, mut client, ..) = gate();
        client.write_all(&CHUNKS.replace("3\r\n", "3;\n").into_bytes()).await.unwrap();
        let head = read(&mut gate, 1_000).await.unwrap().unwrap();
        assert!(head.ends_with(b"\r\n\r\n"));
        assert_eq!(read(&mut gate, 64).await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn long_heads_count_as_bytes_in_flight() {
        let (mut gate, mut client, connection, signals) = gate();
        client.write_all(&[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 40_000]].concat()).await.unwrap();
        assert!(read(&mut gate, 64).await.is_none());
        let budget = connection.all().budget.clone();
        assert!(budget.used_bytes() > 40_000 && !signals.is_refused(), "{}", budget.used_bytes());
        drop(gate);
        assert_eq!(budget.used_bytes(), 0);
    }
}
