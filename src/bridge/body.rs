//! Reads a request's body and checks its type, encoding, size and JSON, in that order.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::budget::BudgetExhausted;
use super::connections::{Connection, ConnectionPhase};
use super::held_bytes::HeldBytes;
use super::problem::Problem;

/// The most bytes of a body, both as sent and after decompression.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// The longest time from the first byte to the last.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a refused body is read on, so that the client reads the answer.
const DRAIN: Duration = Duration::from_secs(2);
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// The first allocation for a body, unless it declares less.
const LEAST_ROOM_BYTES: usize = 4 << 10;
const UNPACK_STEP_BYTES: usize = 8 << 10;

/// Whether a route needs a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyNeed {
    Json,
    /// JSON or nothing; an empty body may have any type.
    JsonOrNone,
}

/// What a route accepts as a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedBody {
    pub need: BodyNeed,
    /// Whether JSON may have the type `text/plain`, with which pages avoid a preflight.
    pub plain_text: bool,
}

/// The character set of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charset {
    Utf8,
    /// One that agrees with UTF-8 in ASCII; nothing beyond ASCII is accepted.
    Ascii,
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads and decompresses a body. What is not read stays in `body`.
///
/// # Errors
/// 415, 413, 408, 400 `bad_encoding`, or 503 when there is no room for it.
pub async fn read(
    headers: &HeaderMap,
    body: &mut Incoming,
    wanted: RequestedBody,
    connection: &Arc<Connection>,
) -> Result<Bytes, Problem> {
    let may_be_none = wanted.need == BodyNeed::JsonOrNone;
    if may_be_none && hyper::body::Body::is_end_stream(body) {
        return Ok(Bytes::new());
    }
    // Whether a chunked body is empty is only known when it was read.
    let is_chunked = !headers.contains_key(CONTENT_LENGTH);
    let charset = match charset(headers, wanted.plain_text) {
        Err(problem) if !(may_be_none && is_chunked) => return Err(problem),
        charset => charset,
    };
    let encoding = encoding(headers)?;
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let mut bytes = BodyBuffer::new(connection, length.map_or(MAX_BODY_BYTES, |length| length as usize));
    connection.enter(ConnectionPhase::Body);
    let read = tokio::time::timeout(READ_TIMEOUT, receive(body, &mut bytes, connection)).await;
    connection.enter(ConnectionPhase::Answering);
    connection.keeps_its_place();
    match read {
        Ok(Err(problem)) if problem.code == "truncated" => {
            return Err(Problem { byte_offset: Some(bytes.bytes.len()), close: true, ..problem });
        }
        Ok(read) => read?,
        Err(_) => return Err(Problem { close: true, ..Problem::new(408, "timeout", "the body came too slowly") }),
    }
    if may_be_none && bytes.bytes.is_empty() {
        return Ok(Bytes::new());
    }
    let charset = charset?;
    if bytes.bytes.starts_with(&[0xff, 0xfe]) || bytes.bytes.starts_with(&[0xfe, 0xff]) {
        return Err(unsupported_type());
    }
    let sent = &bytes.bytes[..];
    let plain = match encoding {
        Encoding::Identity => bytes.finish(),
        Encoding::Gzip => unpack(flate2::bufread::MultiGzDecoder::new(sent), connection)?,
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(sent).map_err(|_| bad_encoding())?;
            decoder.window_log_max(23).map_err(|_| bad_encoding())?;
            unpack(decoder, connection)?
        }
    };
    if charset == Charset::Ascii && !plain.is_ascii() {
        return Err(unsupported_type());
    }
    Ok(plain)
}

/// The bytes of a body; they are taken from the budget as they are needed.
struct BodyBuffer {
    bytes: Vec<u8>,
    /// The length as far as it is known.
    expected: usize,
    held: HeldBytes,
}

impl BodyBuffer {
    fn new(connection: &Arc<Connection>, expected: usize) -> BodyBuffer {
        BodyBuffer { bytes: Vec::new(), expected, held: HeldBytes::none(connection) }
    }

    /// The capacity needed for `more` bytes.
    fn wanted(&self, more: usize) -> usize {
        let needed = self.bytes.len() + more;
        needed.max((2 * self.bytes.capacity()).max(LEAST_ROOM_BYTES).min(self.expected))
    }

    async fn make_room(&mut self, more: usize) -> Result<(), BudgetExhausted> {
        if self.bytes.capacity() - self.bytes.len() < more {
            let wanted = self.wanted(more);
            self.held.grow(wanted - self.held.bytes()).await?;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        Ok(())
    }

    fn try_make_room(&mut self, more: usize) -> Result<(), BudgetExhausted> {
        if self.bytes.capacity() - self.bytes.len() < more {
            let wanted = self.wanted(more);
            self.held.try_grow(wanted - self.held.bytes())?;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        Ok(())
    }

    fn finish(self) -> Bytes {
        self.held.counted(self.bytes)
    }
}

async fn receive(body: &mut Incoming, into: &mut BodyBuffer, connection: &Connection) -> Result<(), Problem> {
    let overloaded = || Problem { close: true, ..Problem::overloaded() };
    loop {
        let next = poll_fn(|cx| match hyper::body::Body::poll_frame(Pin::new(&mut *body), cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            // What has come is taken: who sends is not who keeps others waiting.
            Poll::Pending if connection.is_evicted(cx.waker()) => Poll::Ready(Err(overloaded())),
            Poll::Pending => Poll::Pending,
        });
        let Some(frame) = next.await? else { return Ok(()) };
        let frame = frame.map_err(|error| broken(&error))?;
        let Some(chunk) = frame.data_ref() else { continue };
        if into.bytes.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        into.make_room(chunk.len()).await.map_err(|BudgetExhausted| overloaded())?;
        into.bytes.extend_from_slice(chunk);
    }
}

/// The problem when a body breaks off.
fn broken(error: &hyper::Error) -> Problem {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::InvalidData) {
        return Problem { close: true, ..Problem::new(400, "bad_request", "the chunks of the body are malformed") };
    }
    Problem::new(400, "truncated", "the body ended too early")
}

fn too_large() -> Problem {
    Problem::new(413, "body_too_large", "a body may have at most 1 MiB, also after decompression")
}

/// Reads on for a while, so that a client that is still sending reads the refusal. Returns
/// whether the end was reached.
pub async fn drain(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if headers.contains_key(EXPECT) {
        // The client waits for a 100 Continue, which it does not get.
        return hyper::body::Body::is_end_stream(body);
    }
    let mut drained = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > MAX_DRAINED_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DRAIN, reading).await.unwrap_or(false)
}

fn unsupported_type() -> Problem {
    Problem::new(415, "unsupported_media_type", "send content-type: application/json, in UTF-8")
}

/// The character set of a body whose type is JSON: `application/json` or `+json`, with
/// parameters.
fn charset(headers: &HeaderMap, plain_text: bool) -> Result<Charset, Problem> {
    // A beacon of bytes or of an untyped blob says no type.
    let given = match headers.get(CONTENT_TYPE) {
        Some(given) => given.to_str().map_err(|_| unsupported_type())?,
        None if plain_text => "text/plain",
        None => return Err(unsupported_type()),
    };
    // Some clients and proxies add the same type a second time.
    let mut stated = given.split(',').map(str::trim);
    let given = stated.next().filter(|first| stated.all(|more| more == *first)).ok_or_else(unsupported_type)?;
    let mut parts = given.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let suffixed = kind.strip_prefix("application/").is_some_and(|rest| rest.len() > 5 && rest.ends_with("+json"));
    if kind != "application/json" && kind != "text/json" && !suffixed && !(plain_text && kind == "text/plain") {
        return Err(unsupported_type());
    }
    let mut charset = Charset::Utf8;
    for parameter in parts.filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(unsupported_type)?;
        if !name.trim().eq_ignore_ascii_case("charset") {
            continue;
        }
        charset = match value.trim().trim_matches(['"', '\'']).to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" => Charset::Utf8,
            "us-ascii" | "ascii" | "iso-8859-1" | "iso8859-1" | "latin1" | "windows-1252" => Charset::Ascii,
            _ => return Err(unsupported_type()),
        };
    }
    Ok(charset)
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut all = headers.get_all(CONTENT_ENCODING).iter();
    let refuse = || Problem::new(415, "unsupported_media_type", "content-encoding may be gzip or zstd, once");
    let encoding = match all.next().map(|v| v.to_str().unwrap_or_default().trim().to_ascii_lowercase()) {
        None => Encoding::Identity,
        Some(name) => match name.as_str() {
            "" | "identity" => Encoding::Identity,
            "gzip" | "x-gzip" => Encoding::Gzip,
            "zstd" => Encoding::Zstd,
            _ => return Err(refuse()),
        },
    };
    if all.next().is_some() { Err(refuse()) } else { Ok(encoding) }
}

fn bad_encoding() -> Problem {
    Problem::new(400, "bad_encoding", "the body is not what content-encoding says")
}

fn unpack(mut reader: impl Read, connection: &Arc<Connection>) -> Result<Bytes, Problem> {
    let mut out = BodyBuffer::new(connection, MAX_BODY_BYTES);
    let mut step = [0; UNPACK_STEP_BYTES];
    loop {
        match reader.read(&mut step).map_err(|_| bad_encoding())? {
            0 => return Ok(out.finish()),
            read if out.bytes.len() + read > MAX_BODY_BYTES => return Err(too_large()),
            read => {
                out.try_make_room(read).map_err(|BudgetExhausted| Problem::overloaded())?;
                out.bytes.extend_from_slice(&step[..read]);
            }
        }
    }
}
