//! Parses the head of a request and the frame of its body strictly by HTTP/1.1. Where a
//! lenient parser repairs something, a proxy in front may have read it differently, and one
//! of them would take a body for a request. Pure.

use httparse::{Error, ParserConfig, Request, Status};
use std::mem::MaybeUninit;

/// The most bytes of a head.
pub const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// Empty lines that are skipped before a request, as old clients send them.
const MAX_EMPTY_LINES: usize = 4;

/// Why a request is refused before it is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub detail: &'static str,
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal { status: 400, code: "bad_request", detail }
}

const TOO_LARGE: Refusal =
    Refusal { status: 431, code: "headers_too_large", detail: "the headers have more than 64 KiB" };
const TOO_MANY: Refusal = Refusal { status: 431, code: "too_many_headers", detail: "there are more than 100 headers" };

/// How the body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length, which may be 0.
    Length(u64),
    Chunked,
}

/// Finds the end of a head as its bytes come.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// Bytes that were scanned.
    scanned: usize,
    line_start: usize,
    /// Whether the request line was found.
    begun: bool,
    empty_lines: usize,
}

impl HeadScan {
    /// The length of the head at the start of `bytes`, once it is complete. To be called
    /// with the same bytes and more.
    ///
    /// # Errors
    /// When it cannot become a valid head any more.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(found) = bytes[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let at = self.scanned + found;
            if at == self.line_start || bytes[at - 1] != b'\r' {
                return Err(bad("lines must end in CR LF"));
            }
            let empty = at - 1 == self.line_start;
            (self.scanned, self.line_start) = (at + 1, at + 1);
            if at >= MAX_HEAD_BYTES {
                return Err(TOO_LARGE);
            }
            match (empty, self.begun) {
                (true, true) => return Ok(Some(at + 1)),
                (true, false) => self.empty_lines += 1,
                (false, _) => self.begun = true,
            }
            if self.empty_lines > MAX_EMPTY_LINES {
                return Err(bad("a request line must come first"));
            }
        }
        self.scanned = bytes.len();
        if bytes.len() >= MAX_HEAD_BYTES { Err(TOO_LARGE) } else { Ok(None) }
    }
}

/// Checks a complete head; returns how its body is framed.
///
/// # Errors
/// What is wrong with it.
pub fn check(head: &[u8]) -> Result<Framing, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, &mut headers) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(bad("the head ends too early")),
        Err(Error::TooManyHeaders) => return Err(TOO_MANY),
        Err(Error::Version) => return Err(bad("the version must be HTTP/1.1 or HTTP/1.0")),
        Err(Error::Token) => return Err(bad("the request line must be METHOD SP TARGET SP HTTP/1.1")),
        Err(_) => return Err(bad("a header must be NAME: VALUE on one line, without control characters")),
    }
    check_target(request.path.unwrap_or_default())?;
    let is_current = request.version == Some(1);
    let (mut hosts, mut lengths, mut codings) = (0, 0, 0);
    let mut framing = Framing::Length(0);
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("host") {
            hosts += 1;
            check_host(header.value)?;
        } else if header.name.eq_ignore_ascii_case("content-length") {
            lengths += 1;
            framing = Framing::Length(length(header.value)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            codings += 1;
            if !header.value.eq_ignore_ascii_case(b"chunked") || !is_current {
                return Err(bad("Transfer-Encoding may be chunked, in HTTP/1.1, and nothing else"));
            }
            framing = Framing::Chunked;
        }
    }
    if lengths + codings > 1 {
        return Err(bad("the length must be told once: Content-Length, or Transfer-Encoding: chunked"));
    }
    if hosts > 1 || (hosts == 0 && is_current) {
        return Err(bad("there must be one Host"));
    }
    Ok(framing)
}

fn check_target(target: &str) -> Result<(), Refusal> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%?=&:+,@!$'()*;".contains(&byte);
    let fine = (target.starts_with('/') && target.bytes().all(usual)) || target.parse::<http::Uri>().is_ok();
    if fine { Ok(()) } else { Err(bad("the target is no URI")) }
}

fn check_host(value: &[u8]) -> Result<(), Refusal> {
    let usual = |byte: &u8| byte.is_ascii_alphanumeric() || b".-:_[]".contains(byte);
    let fine = value.iter().all(usual)
        || http::uri::Authority::try_from(value).is_ok_and(|authority| !authority.as_str().contains('@'));
    if fine { Ok(()) } else { Err(bad("Host must be a name or an address, with a port or without")) }
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or(bad("Content-Length must be a number, once"))
}

/// Finds the end of a chunked body as its bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkScan {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size(u64),
    /// After the size: white space or an extension.
    Space(u64),
    Extension(u64),
    SizeLf(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// At the start of a trailer's line, or of the last line.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl ChunkScan {
    /// Takes bytes up to the end of the body; returns how many belong to it.
    ///
    /// # Errors
    /// When they are not valid chunks.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && *self != ChunkScan::End {
            if let ChunkScan::Chunk(left) = *self {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                *self = if taken == left { ChunkScan::ChunkCr } else { ChunkScan::Chunk(left - taken) };
                continue;
            }
            *self = self.step(bytes[at]).ok_or(bad("the chunks of the body are malformed"))?;
            at += 1;
        }
        Ok(at)
    }

    fn step(self, byte: u8) -> Option<ChunkScan> {
        use ChunkScan::{
            Chunk, ChunkCr, ChunkLf, End, EndLf, Extension, LineStart, Size, SizeLf, Space, Start, Trailer, TrailerLf,
        };
        let digit = || (byte as char).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Start, _) => Size(digit()?),
            (Size(size) | Space(size) | Extension(size), b'\r') => SizeLf(size),
            (Size(size) | Space(size), b' ' | b'\t') => Space(size),
            (Size(size) | Space(size), b';') => Extension(size),
            (Size(size), _) => Size(size.checked_mul(16)?.checked_add(digit()?)?),
            (Extension(_), b'\n') => return None,
            (Extension(size), _) => Extension(size),
            (SizeLf(0), b'\n') => LineStart,
            (SizeLf(size), b'\n') => Chunk(size),
            (ChunkCr, b'\r') => ChunkLf,
            (ChunkLf, b'\n') => Start,
            (LineStart, b'\r') => EndLf,
            (LineStart | Trailer, b'\n') => return None,
            (Trailer, b'\r') => TrailerLf,
            (LineStart | Trailer, _) => Trailer,
            (TrailerLf, b'\n') => LineStart,
            (EndLf, b'\n') => End,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a head, however its bytes are cut.
    #[track_caller]
    fn verdict(head: &str) -> Result<Framing, u16> {
        let bytes = head.as_bytes();
        let whole = HeadScan::default().end(bytes);
        for cut in 0..bytes.len() {
            let mut scan = HeadScan::default();
            let pieces = scan.end(&bytes[..cut]).and_then(|found| match found {
                Some(end) => Ok(Some(end)),
                None => scan.end(bytes),
            });
            assert_eq!(pieces, whole, "cut at {cut} of {head:?}");
        }
        let end = whole.map_err(|refusal| refusal.status)?.unwrap_or_else(|| panic!("no end: {head:?}"));
        check(&bytes[..end]).map_err(|refusal| refusal.status)
    }

    #[test]
    fn sound_heads_and_what_follows_them() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("\r\nGET /v1/users/%2F?a=b HTTP/1.1\r\nHost: [::1]:8080\r\n\r\nrest", Framing::Length(0)),
            ("GET http://a/livez HTTP/1.1\r\nhost:a\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Framing::Length(5)),
            ("POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", Framing::Chunked),
        ] {
            assert_eq!(verdict(head), Ok(framing), "{head:?}");
        }
    }

    #[test]
    fn what_two_parsers_may_read_in_two_ways_is_refused() {
        let many: String = (0..101).map(|n| format!("h{n}: x\r\n")).collect();
        let large = format!("x: {}\r\n", "y".repeat(MAX_HEAD_BYTES));
        for (head, status) in [
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n folded\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nx: \u{0}\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), 400),
            ("GET /a\\b HTTP/2.0\r\nHost: a\r\n\r\n".into(), 400),
            ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), 400),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                400,
            ),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{large}\r\n"), 431),
            ("\r\n".repeat(9) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ] {
            if head.len() > MAX_HEAD_BYTES {
                assert_eq!(HeadScan::default().end(head.as_bytes()).map_err(|refusal| refusal.status), Err(status));
                continue;
            }
            assert_eq!(verdict(&head), Err(status), "{head:?}");
        }
        let endless = HeadScan::default().end(&[b'x'; MAX_HEAD_BYTES]);
        assert_eq!(endless.map_err(|refusal| refusal.status), Err(431));
    }

    #[test]
    fn chunks_end_where_they_say_however_they_are_cut() {
        let body = b"4\r\nWiki\r\n5;name=value\r\npedia\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        let own = body.len() - 5;
        for cut in 0..=body.len() {
            let mut scan = ChunkScan::default();
            let first = scan.take(&body[..cut]).unwrap();
            let second = scan.take(&body[first..]).unwrap();
            assert_eq!((first + second, scan), (own, ChunkScan::End), "cut at {cut}");
        }
        for wrong in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "4\nWiki",
            "4\r\nWikiX",
            "4\r\nWiki\n",
            "4;\n",
            "4 4\r\n",
            "0\r\nx\n",
            "11111111111111111\r\n",
            "0\r\n\n",
        ] {
            assert!(ChunkScan::default().take(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
