//! The accept loop, and a driver for each connection: HTTP/1.1 with bounds on everything
//! that a client controls. A client that is slow, silent or in the way loses its own
//! connection and no other's.

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::app::{App, Surface};
use super::connections::{Connection, ConnectionPhase, Connections};
use super::gate::{Gate, HEADER_TIMEOUT, HeadOutcome, Signals};
use super::head::{MAX_HEAD_BYTES, Refusal};
use super::problem::{Answer, Problem};
use askwhen_process::thread::LogThrottle;

/// Pause when the system cannot accept connections.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// How long a new connection waits before others are closed once more.
const ROOM: Duration = Duration::from_millis(20);
/// How long a closed connection may read the reason, and what it still sends is read
/// meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;
/// How many connections may take that time in addition to those that have a place; others
/// are closed at once.
const LINGERING: usize = 256;
const BRIEF_LINGER: Duration = Duration::from_millis(50);

const TOO_SLOW: Refusal = Refusal { status: 408, code: "timeout", detail: "the head of the request came too slowly" };

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The driver has its own deadlines for heads, idle time and answers.
    builder.header_read_timeout(None).max_headers(100).max_buf_size(2 * MAX_HEAD_BYTES).keep_alive(true);
    builder
}

/// Serves until `stop` becomes true, then lets open requests finish for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    surface: Surface,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let slots = Arc::new(Semaphore::new(connections.limits.max_connections));
    let lingering = Arc::new(Semaphore::new(LINGERING));
    let mut tasks = JoinSet::new();
    let builder = builder();
    let mut throttle = LogThrottle::default();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                // A panic was logged and has cost only its connection.
                drop(done);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if throttle.is_new(&error.to_string()) {
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                if is_exhausted(&error) {
                    connections.make_room();
                    tokio::time::sleep(EXHAUSTED).await;
                }
                continue;
            }
        };
        let Some(slot) = slot(&slots, &connections, &mut stop).await else { break };
        let Some(connection) = connections.join(from.ip()) else { continue };
        let (app, builder, stop) = (app.clone(), builder.clone(), stop.clone());
        let lingering = lingering.clone();
        tasks.spawn(async move {
            let place = ConnectionSlot { connection, _slot: slot };
            // A socket that refuses this is gone.
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let parting = drive(stream, app, surface, builder, stop, &place.connection).await;
            // Its place is free again; the client may still read the reason.
            drop(place);
            if let Some(ClosingConnection { stream, refusal }) = parting {
                let may_linger = lingering.try_acquire();
                let longest = if may_linger.is_ok() { LINGER } else { BRIEF_LINGER };
                part(stream, refusal, longest).await;
            }
        });
    }
    drop(listener);
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, finish).await.is_err() {
        tasks.shutdown().await;
    }
}

/// The place of a connection, released however its task ends.
struct ConnectionSlot {
    connection: Arc<Connection>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connection.all().leave(&self.connection);
    }
}

async fn slot(
    slots: &Arc<Semaphore>,
    connections: &Connections,
    stop: &mut watch::Receiver<bool>,
) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return Some(slot);
        }
        connections.make_room();
        tokio::select! {
            slot = slots.clone().acquire_owned() => return slot.ok(),
            () = tokio::time::sleep(ROOM) => {}
            () = stopped(stop) => return None,
        }
    }
}

fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// What a driver does with its connection.
enum Verdict {
    GoOn,
    /// Finish the current request and accept no other.
    Finish,
    /// Close at once.
    Leave,
}

/// Watches the deadlines of one connection, and whether others need its place.
struct Watcher {
    connection: Arc<Connection>,
    signals: Arc<Signals>,
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Fires at the next deadline or earlier.
    timer: Pin<Box<Sleep>>,
}

impl Watcher {
    fn new(connection: &Arc<Connection>, signals: &Arc<Signals>, mut stop: watch::Receiver<bool>) -> Watcher {
        let stopped = Box::pin(async move { stopped(&mut stop).await });
        let timer = Box::pin(tokio::time::sleep(connection.all().limits.keep_alive));
        Watcher { connection: connection.clone(), signals: signals.clone(), stopped: Some(stopped), timer }
    }

    fn deadline(&self) -> Option<Instant> {
        let since = self.connection.since();
        let waits = match self.connection.phase() {
            ConnectionPhase::Idle => Some(since + self.connection.all().limits.keep_alive),
            ConnectionPhase::Head => Some(since + HEADER_TIMEOUT),
            ConnectionPhase::Body | ConnectionPhase::Answering | ConnectionPhase::Writing => None,
        };
        [waits, self.signals.stall_ends()].into_iter().flatten().min().map(Instant::from_std)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Verdict {
        if self.connection.is_evicted(cx.waker()) {
            match self.connection.phase() {
                // The reader of the body refuses it.
                ConnectionPhase::Body => {}
                // A request has come meanwhile.
                ConnectionPhase::Answering => self.connection.keeps_its_place(),
                ConnectionPhase::Idle | ConnectionPhase::Head | ConnectionPhase::Writing => return Verdict::Leave,
            }
        }
        if self.signals.is_refused() {
            return Verdict::Finish;
        }
        if self.stopped.as_mut().is_some_and(|stopped| stopped.as_mut().poll(cx).is_ready()) {
            self.stopped = None;
        }
        if self.stopped.is_none() {
            return Verdict::Finish;
        }
        loop {
            let deadline = self.deadline();
            if let Some(deadline) = deadline.filter(|deadline| *deadline < self.timer.deadline()) {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Verdict::GoOn;
            }
            let now = Instant::now();
            match deadline.filter(|deadline| *deadline <= now) {
                // The timer was set for an earlier time.
                None => self.timer.as_mut().reset(deadline.unwrap_or(now + HEADER_TIMEOUT)),
                Some(_) if self.signals.stall_ends().is_some_and(|ends| Instant::from_std(ends) <= now) => {
                    if self.signals.is_given_up() {
                        return Verdict::Leave;
                    }
                }
                Some(_) if self.connection.phase() == ConnectionPhase::Head => {
                    self.signals.refuse(TOO_SLOW);
                    return Verdict::Finish;
                }
                Some(_) => return Verdict::Finish,
            }
        }
    }
}

/// A connection to be closed, with the reason if the client is to get one.
struct ClosingConnection {
    stream: TcpStream,
    refusal: Option<Refusal>,
}

/// Serves a connection until it ends; returns it if it ended in order.
async fn drive(
    stream: TcpStream,
    app: Arc<App>,
    surface: Surface,
    builder: http1::Builder,
    stop: watch::Receiver<bool>,
    connection: &Arc<Connection>,
) -> Option<ClosingConnection> {
    let signals = Arc::new(Signals::default());
    let mut gate = Gate::new(stream, connection.clone(), signals.clone());
    let mut watcher = Watcher::new(connection, &signals, stop);
    // A client that sends nothing costs only this.
    let first = poll_fn(|cx| match gate.poll_ready(cx) {
        Poll::Ready(ready) => Poll::Ready(ready.unwrap_or(HeadOutcome::Closed)),
        Poll::Pending => match watcher.poll(cx) {
            Verdict::GoOn => Poll::Pending,
            Verdict::Finish if signals.is_refused() => Poll::Ready(HeadOutcome::Refused),
            Verdict::Finish | Verdict::Leave => Poll::Ready(HeadOutcome::Closed),
        },
    });
    match first.await {
        HeadOutcome::Passed => {}
        HeadOutcome::Refused => {
            return Some(ClosingConnection { stream: gate.into_stream(), refusal: signals.refusal() });
        }
        HeadOutcome::Closed => return None,
    }
    let (own, serving) = (connection.clone(), app.clone());
    let asked_before = AtomicBool::new(false);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (app, connection) = (serving.clone(), own.clone());
        if asked_before.swap(true, Ordering::Relaxed) {
            // HTTP/1.1: the previous request was answered.
            askwhen_process::fault::point("answered");
        }
        Box::pin(async move {
            connection.enter(ConnectionPhase::Answering);
            // It was to leave while it was idle, and has asked in the meantime.
            connection.keeps_its_place();
            let answering = AssertUnwindSafe(app.handle(surface, request, &connection)).catch_unwind();
            let answer = answering.await.unwrap_or_else(|_| panicked());
            connection.enter(ConnectionPhase::Writing);
            Ok::<_, Infallible>(answer)
        })
    });
    let mut http = builder.serve_connection(gate, service);
    let (mut finishing, mut was_idle, mut refusal) = (false, false, None);
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = http.poll_without_shutdown(cx) {
                return Poll::Ready(ended.is_ok());
            }
            match watcher.poll(cx) {
                Verdict::Finish if !finishing => {
                    finishing = true;
                    if matches!(connection.phase(), ConnectionPhase::Idle | ConnectionPhase::Head) {
                        was_idle = true;
                        refusal = signals.refusal();
                    }
                    Pin::new(&mut http).graceful_shutdown();
                }
                Verdict::Finish | Verdict::GoOn => return Poll::Pending,
                Verdict::Leave => return Poll::Ready(false),
            }
        }
    });
    if ended.await {
        // A process that stops does not wait for clients without a request.
        if watcher.stopped.is_none() && was_idle && refusal.is_none() {
            return None;
        }
        return Some(ClosingConnection { stream: http.into_parts().io.into_stream(), refusal });
    } else if connection.phase() == ConnectionPhase::Writing {
        // Also discards what the system still holds for a client that does not read.
        let stream = http.into_parts().io.into_stream();
        drop(stream.set_zero_linger());
    }
    None
}

/// Sends the reason and waits until it was read: closing a socket with unread bytes would
/// discard the answer.
async fn part(mut stream: TcpStream, refusal: Option<Refusal>, longest: Duration) {
    let parting = async {
        if let Some(Refusal { status, code, detail }) = refusal {
            let request_id = uuid::Uuid::new_v4().simple().to_string();
            let metrics = askwhen_process::metrics::get();
            metrics.bridge_requests.with_label_values(&["none", &status.to_string()]).inc();
            let retry_after = (status == 503).then_some(Duration::from_secs(1));
            let problem = Problem { close: true, retry_after, ..Problem::new(status, code, detail) };
            let (status, code) = (problem.status.as_u16(), problem.code.as_str());
            tracing::info!(target: "askwhen::access", request_id, status, code, "request");
            stream.write_all(&problem.raw(&request_id)).await?;
        }
        stream.shutdown().await?;
        let mut rest = [0; 4_096];
        let mut taken = 0;
        while taken < LINGER_BYTES {
            match stream.read(&mut rest).await? {
                0 => break,
                read => taken += read,
            }
        }
        std::io::Result::Ok(())
    };
    // The client may be gone.
    drop(tokio::time::timeout(longest, parting).await);
}

/// The answer to a request whose handler panicked.
fn panicked() -> Answer {
    let problem = Problem::new(500, "internal", "the request could not be answered; the log says where");
    Problem { close: true, ..problem }.answer(&uuid::Uuid::new_v4().simple().to_string())
}
