//! Notes how a connection was used. Receivers close idle connections, and a request may
//! meet one that is just being closed: then it is sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The usage of a connection; the connection and the sender share it.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether a byte was received after the last one that was sent.
    answered: AtomicBool,
    /// Whether a response came before the last request.
    reused: AtomicBool,
}

impl Usage {
    /// Whether it was closed while it was idle: it has answered an earlier request, and
    /// nothing of the last one.
    pub fn was_closed_idle(&self) -> bool {
        self.0.reused.load(Ordering::Acquire) && !self.0.answered.load(Ordering::Acquire)
    }

    fn wrote(&self) {
        if self.0.answered.swap(false, Ordering::AcqRel) {
            self.0.reused.store(true, Ordering::Release);
        }
    }

    fn read(&self) {
        self.0.answered.store(true, Ordering::Release);
    }
}

/// A stream that notes its usage.
pub struct Watched<S> {
    stream: S,
    usage: Usage,
}

impl<S> Watched<S> {
    pub fn new(stream: S) -> Watched<S> {
        Watched { stream, usage: Usage::default() }
    }

    pub fn usage(&self) -> Usage {
        self.usage.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.usage.read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.usage.wrote();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.usage.wrote();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_connection_that_answered_before_and_says_nothing_now_was_closed_idle() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Watched::new(near);
        let usage = near.usage();
        near.write_all(b"one").await.unwrap();
        assert!(!usage.was_closed_idle(), "a first request has no answer before it");
        far.write_all(b"a").await.unwrap();
        near.read_u8().await.unwrap();
        assert!(!usage.was_closed_idle());
        near.write_all(b"two").await.unwrap();
        near.write_all(b", the rest").await.unwrap();
        assert!(usage.was_closed_idle());
        far.write_all(b"a").await.unwrap();
        near.read_u8().await.unwrap();
        assert!(!usage.was_closed_idle(), "a part of an answer is one");
    }
}
