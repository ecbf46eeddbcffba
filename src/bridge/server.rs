//! The accept loop: HTTP/1.1 with bounds on everything a sender controls.

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{App, Surface};

const MAX_CONNECTIONS: usize = 8_192;
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_HEADERS: usize = 100;
/// Of all headers together.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD_BYTES)
        .keep_alive(true);
    builder
}

/// Serves until `stop` becomes true, then lets open requests finish for at
/// most `drain`.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    surface: Surface,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let builder = builder();
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            listener.accept().await.map(|(stream, _)| (slot, stream))
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = next => match accepted {
                Ok((slot, stream)) => {
                    let (app, builder, stop) = (app.clone(), builder.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, app, surface, builder, stop).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others may finish meanwhile.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, finish).await.is_err() {
        connections.shutdown().await;
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn connection(
    stream: TcpStream,
    app: Arc<App>,
    surface: Surface,
    builder: http1::Builder,
    mut stop: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let asked_before = AtomicBool::new(false);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let app = app.clone();
        if asked_before.swap(true, Ordering::Relaxed) {
            // HTTP/1.1: what was asked before has been answered.
            crate::fault::point("answered");
        }
        async move { Ok::<_, Infallible>(app.handle(surface, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended badly");
                }
                return;
            }
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
