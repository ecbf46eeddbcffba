//! A request's body: its type, its encoding, its size, its JSON, in that order.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::Read;
use std::time::Duration;

use super::problem::Problem;

/// Largest body, as sent and after decompression.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// From the first byte asked for to the last.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a refused body is drained, so that the answer is read.
const DRAIN: Duration = Duration::from_secs(2);
const MAX_DRAINED_BYTES: usize = 64 << 20;

/// Whether a route needs a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Json,
    JsonOrNone,
    /// A body is JSON, and may be left out together with its type.
    JsonIfAny,
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads and unpacks a body. Whatever of it is left unread stays in `body`.
///
/// # Errors
/// 415, 413, 408, or 400 `bad_encoding`.
pub async fn read(headers: &HeaderMap, body: &mut Incoming, need: Need) -> Result<Bytes, Problem> {
    let empty = hyper::body::Body::is_end_stream(body);
    let nothing_meant = empty && !headers.contains_key(CONTENT_TYPE);
    if (need == Need::JsonOrNone && empty) || (need == Need::JsonIfAny && nothing_meant) {
        return Ok(Bytes::new());
    }
    check_type(headers)?;
    let encoding = encoding(headers)?;
    let too_large = || Problem::new(413, "body_too_large", "a body may have at most 1 MiB, also after decompression");
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0) as usize);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(400, "truncated", "the body ended too early"))?;
            if let Some(chunk) = frame.data_ref() {
                if bytes.len() + chunk.len() > MAX_BODY_BYTES {
                    return Err(too_large());
                }
                bytes.extend_from_slice(chunk);
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(READ_TIMEOUT, reading).await;
    match read {
        Ok(Err(problem)) if problem.code == "truncated" => {
            return Err(Problem { byte_offset: Some(bytes.len()), close: true, ..problem });
        }
        Ok(read) => read?,
        Err(_) => return Err(Problem { close: true, ..Problem::new(408, "timeout", "the body came too slowly") }),
    }
    let bytes = bytes.freeze();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem::new(415, "unsupported_media_type", "send content-type: application/json, in UTF-8"));
    }
    match encoding {
        Encoding::Identity => Ok(bytes),
        Encoding::Gzip => unpack(flate2::bufread::MultiGzDecoder::new(&bytes[..])),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&bytes[..]).map_err(|_| bad_encoding())?;
            decoder.window_log_max(23).map_err(|_| bad_encoding())?;
            unpack(decoder)
        }
    }
}

/// Reads on for a while, so that a sender who is still sending reads the
/// refusal. Gives whether the end was reached.
pub async fn drain(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if headers.contains_key(EXPECT) {
        // It waits to be told to go on, and is not.
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

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = || Problem::new(415, "unsupported_media_type", "send content-type: application/json, in UTF-8");
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).ok_or_else(refuse)?;
    let mut parts = given.split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(refuse());
    }
    for parameter in parts.filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(refuse)?;
        let utf8 = value.trim_matches('"').eq_ignore_ascii_case("utf-8");
        if name.eq_ignore_ascii_case("charset") && !utf8 {
            return Err(refuse());
        }
    }
    Ok(())
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut all = headers.get_all(CONTENT_ENCODING).iter();
    let refuse = || Problem::new(415, "unsupported_media_type", "content-encoding may be gzip or zstd, once");
    let encoding = match all.next().map(|v| v.to_str().unwrap_or_default().trim().to_ascii_lowercase()) {
        None => Encoding::Identity,
        Some(name) => match name.as_str() {
            "identity" => Encoding::Identity,
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

fn unpack(reader: impl Read) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    reader.take(MAX_BODY_BYTES as u64 + 1).read_to_end(&mut out).map_err(|_| bad_encoding())?;
    if out.len() > MAX_BODY_BYTES {
        return Err(Problem::new(413, "body_too_large", "a body may have at most 1 MiB, also after decompression"));
    }
    Ok(out.into())
}
