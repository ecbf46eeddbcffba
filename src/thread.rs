//! Threads that end with their owners. A process that leaves while a thread
//! still works has its libraries taken down beneath it, so nothing is detached.
//! A thread that panics ends the process at once: what it kept true is not true
//! any more, and a start makes it so again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After so long the same news are told again.
const AGAIN: Duration = Duration::from_secs(60);

/// Wakes a thread that waits for one of several things.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    waiting: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        let mut rung = self.rung.lock().expect("no panic holds this lock");
        if !*rung {
            *rung = true;
            self.waiting.notify_one();
        }
    }

    /// Waits until rung since the last wait, at most `longest`.
    pub fn wait(&self, longest: Duration) {
        let rung = self.rung.lock().expect("no panic holds this lock");
        let (mut rung, _) =
            self.waiting.wait_timeout_while(rung, longest, |rung| !*rung).expect("no panic holds this lock");
        *rung = false;
    }
}

/// A thread that is waited for when it is dropped.
#[derive(Debug)]
pub struct Thread {
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(name: impl Into<String>, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let handle = std::thread::Builder::new().name(name.into()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                let name = std::thread::current();
                tracing::error!(thread = name.name(), "a thread has panicked: the process ends");
                std::process::abort();
            }
        })?;
        Ok(Thread { handle: Some(handle) })
    }

    /// Whether its work is over.
    pub fn is_over(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // A panic has ended the process; there is no other error.
        drop(self.handle.take().map(JoinHandle::join));
    }
}

/// A thread that works until it is dropped.
#[derive(Debug)]
pub struct Service {
    turns: Turns,
    // Dropped, and so waited for, after it was told to end.
    _thread: Thread,
}

/// What the thread of a [`Service`] asks between its turns.
#[derive(Debug, Clone)]
pub struct Turns {
    ended: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl Turns {
    pub fn go_on(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Waits until the bell has rung, at most `longest`.
    pub fn wait(&self, longest: Duration) {
        self.bell.wait(longest);
    }
}

impl Service {
    /// The bell wakes it, for its work and for its end.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        name: impl Into<String>,
        bell: Arc<Bell>,
        work: impl FnOnce(&Turns) + Send + 'static,
    ) -> io::Result<Service> {
        let turns = Turns { ended: Arc::default(), bell };
        let own = turns.clone();
        let thread = Thread::spawn(name, move || work(&own))?;
        Ok(Service { turns, _thread: thread })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.turns.ended.store(true, Ordering::Release);
        self.turns.bell.ring();
    }
}

/// What a loop would say in every turn: the same thing is news once a minute.
#[derive(Debug, Default)]
pub struct News {
    last: Option<(String, Instant)>,
}

impl News {
    pub fn is_new(&mut self, said: &str) -> bool {
        let old = self.last.as_ref().is_some_and(|(last, at)| last == said && at.elapsed() < AGAIN);
        if !old {
            self.last = Some((said.to_owned(), Instant::now()));
        }
        !old
    }
}

/// Dropped, with all its clones, when what it was handed out for is over.
#[derive(Debug, Clone)]
pub struct Token {
    _end: mpsc::Sender<()>,
}

impl Token {
    /// One, and what tells (by being closed) that all its clones are dropped.
    pub fn new() -> (Token, mpsc::Receiver<()>) {
        let (end, over) = mpsc::channel();
        (Token { _end: end }, over)
    }
}

/// Waits until every token handed out is dropped.
pub fn wait_for_tokens(hand_out: impl FnOnce(Token)) {
    let (token, over) = Token::new();
    hand_out(token);
    // Nothing is ever sent: it ends with the last token.
    over.recv().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_ended_when_it_is_dropped() {
        let (turned, bell) = (Arc::new(AtomicBool::new(false)), Arc::new(Bell::default()));
        let mark = turned.clone();
        let service = Service::spawn("test", bell, move |turns| {
            while turns.go_on() {
                turns.wait(Duration::from_secs(60));
            }
            mark.store(true, Ordering::Release);
        });
        drop(service.unwrap());
        assert!(turned.load(Ordering::Acquire));
    }
}
