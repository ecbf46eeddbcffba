//! Basics of a running process: its log lines, panics and end, the [`clock`], threads that
//! end with their owners, metrics, and fault injection. Nothing here panics, and no call
//! from a server waits for whoever reads its output. It must never know what a line means.

pub mod clock;
pub mod fault;
pub mod metrics;
pub mod progress;
pub mod thread;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes of log lines that may be queued; further lines are dropped and counted, so that a
/// reader who has stopped cannot fill the server's memory.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// A pipe that is writable takes at least this many bytes (`PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;
/// Pause before a stream that takes nothing is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Exit code after a failure.
const FAILED: i32 = 1;
/// The most open files that are asked for; more have no use.
const MOST_FILES: u64 = 1 << 20;
/// How the message of every `expect` on a lock begins: a panic that held it has left the
/// protected state half changed.
const POISONED: &str = "no panic holds this lock";

/// An inherited stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Error,
}

impl Stream {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Stream::Out => rustix::stdio::stdout(),
            Stream::Error => rustix::stdio::stderr(),
        }
    }
}

/// Writes a line if the stream takes it at once, and drops it otherwise: for lines of a
/// server whose output may have no reader, and for its last message.
pub fn say(stream: Stream, text: &str) {
    let mut line = text.as_bytes()[..text.len().min(PIPE_BYTES - 1)].to_vec();
    line.push(b'\n');
    let mut fds = [PollFd::from_borrowed_fd(stream.fd(), PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0) {
        // There is no other way to report that this failed.
        rustix::io::write(stream.fd(), &line).ok();
    }
}

/// Writes a line to standard error for the caller of a verb.
pub fn complain(text: &str) {
    // Without standard error only the exit code is left.
    writeln!(io::stderr(), "{text}").ok();
}

/// Ends the process at once, without further log lines and without tearing down what other
/// threads use: after a thread that serves has died, the next start restores what it kept
/// consistent.
pub fn end(last_words: &str) -> ! {
    say(Stream::Error, &format!("askwhen: {last_words}"));
    exit(FAILED)
}

/// Exits without tearing anything down that threads still use.
pub fn exit(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

/// Makes writes beyond the file size limit (`ulimit -f`) fail like those to a full disk, in
/// place of the signal that ends the process.
///
/// # Errors
/// When the system refuses the handler.
pub fn survive_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map(drop)
}

/// Makes panics report their place on standard error, if that takes it, and makes panics
/// that have poisoned a lock end the process.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        // The metrics are not created here, because the panic may come from creating them.
        if let Some(metrics) = crate::metrics::known() {
            metrics.process_panics.inc();
        }
        say(Stream::Error, &describe(info));
        if info.payload_as_str().is_some_and(|text| text.starts_with(POISONED)) {
            end("a lock was left by a panic: the process ends, the next start goes on from what is written down");
        }
    }));
}

/// The panic as one JSON line like those of the log. A formatted message may contain users'
/// data, so it is included only on request.
fn describe(info: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let fixed = info.payload().downcast_ref::<&str>().copied();
    let asked_for = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let message = match (fixed, asked_for) {
        (Some(text), _) => text,
        (None, true) => info.payload_as_str().unwrap_or_default(),
        (None, false) => "its message may hold users' data: set RUST_BACKTRACE=1 to see it",
    };
    let line = serde_json::json!({
        "level": "ERROR",
        "fields": {"message": "a panic", "thread": thread.name(), "place": place, "detail": message},
        "target": "askwhen::process",
    });
    line.to_string()
}

/// Raises the limit of open files to what this process may have; returns it.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST_FILES).min(MOST_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        // If that is refused, the given limit has to do.
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).ok();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(MOST_FILES)
}

/// How many files, sockets and the like are open now.
pub fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Resident memory of this process in bytes, as the system counts it.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size()
}

/// Memory of this machine in bytes, or what its control group may use of it.
pub fn machine_memory_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10);
    let groups = read("/proc/self/cgroup");
    let mut least = total;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            named if named.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // A group's limit applies to all groups below it.
        for above in std::path::Path::new(group).ancestors() {
            let path = format!("{root}{}/{file}", above.display().to_string().trim_end_matches('/'));
            least = least.min(read(&path).trim().parse().unwrap_or(u64::MAX));
        }
    }
    least
}

/// Why a log line was dropped.
#[derive(Debug, Clone, Copy)]
enum DropReason {
    /// The queue was full.
    Overflow,
    /// The stream did not take it.
    Failed,
}

fn count_lost(loss: DropReason, lines: usize) {
    let reason = match loss {
        DropReason::Overflow => "overflow",
        DropReason::Failed => "failed",
    };
    crate::metrics::get().process_lost_log_lines.with_label_values(&[reason]).inc_by(lines as u64);
}

/// The queue of log lines to standard error. A thread that logs adds a line and goes on;
/// one thread writes them, however long the stream takes.
#[derive(Debug, Default)]
pub struct LogLines {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether lines are being written that are no longer in the queue.
    writing: bool,
    /// Lines dropped since the last line that was written.
    lost: usize,
}

static LINES: OnceLock<LogLines> = OnceLock::new();

impl LogLines {
    /// The process's log lines, and the thread that writes them.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> io::Result<&'static LogLines> {
        if let Some(lines) = LINES.get() {
            return Ok(lines);
        }
        let lines = LINES.get_or_init(LogLines::default);
        // The only thread that may be left behind at the end: it waits in the system for a
        // reader, and uses nothing that is torn down.
        #[expect(clippy::disallowed_methods, reason = "it may be left behind, see above")]
        std::thread::Builder::new().name("log-lines".into()).spawn(|| {
            loop {
                lines.write_some(Stream::Error.fd());
            }
        })?;
        Ok(lines)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > MAX_QUEUED_BYTES {
            queue.lost += 1;
            drop(queue);
            return count_lost(DropReason::Overflow, 1);
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits for lines and writes those that are queued.
    fn write_some(&self, to: BorrowedFd<'_>) {
        let mut queue = self.lock();
        while queue.lines.is_empty() {
            queue.writing = false;
            self.changed.notify_all();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let lines = std::mem::take(&mut queue.lines);
        let lost = std::mem::take(&mut queue.lost);
        queue.bytes = 0;
        queue.writing = true;
        drop(queue);
        let mut text = Vec::with_capacity(lines.iter().map(Vec::len).sum::<usize>() + 128);
        if lost > 0 {
            let line = serde_json::json!({
                "level": "WARN",
                "fields": {"message": "log lines were lost: nobody took them in time", "lines": lost},
                "target": "askwhen::process",
            });
            text.extend(format!("{line}\n").into_bytes());
        }
        lines.iter().for_each(|line| text.extend(line));
        if write_all(to, &text).is_err() {
            self.lock().lost += lines.len() + lost;
            count_lost(DropReason::Failed, lines.len());
        }
    }

    /// Waits until everything is written, but no longer than `longest`.
    pub fn flush(&self, longest: Duration) {
        let deadline = Instant::now() + longest;
        let mut queue = self.lock();
        while !queue.lines.is_empty() || queue.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let (next, _) = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
            queue = next;
        }
    }
}

/// Waits until the log lines of this process are written, but no longer than `longest`.
pub fn flush_log_lines(longest: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(longest);
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(rustix::io::Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Another process that shares the stream has made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One line of the log.
#[derive(Debug)]
pub struct Line(&'static LogLines);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for &'static LogLines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn lines_beyond_the_bound_are_counted_and_the_rest_comes_in_order() {
        let lines = LogLines::default();
        let line = [b'x'; 1_000];
        for _ in 0..2_000 {
            lines.push(&line);
        }
        let (queued, lost) = {
            let queue = lines.lock();
            (queue.bytes, queue.lost)
        };
        assert!(queued <= MAX_QUEUED_BYTES && lost == 2_000 - queued / 1_000, "{queued} bytes, {lost} lost");
        let (mut reader, writer) = io::pipe().unwrap();
        #[expect(clippy::disallowed_methods, reason = "it is joined below")]
        let read = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            all
        });
        lines.write_some(writer.as_fd());
        drop(writer);
        let all = read.join().unwrap();
        assert!(
            all.starts_with("{\"level\":\"WARN\"") && all.contains(&format!("\"lines\":{lost}")),
            "{}",
            &all[..200]
        );
        assert_eq!(all.lines().next().map_or(0, str::len) + 1 + queued, all.len());
    }

    #[test]
    fn a_stream_that_fails_costs_its_lines_and_nothing_else() {
        let lines = LogLines::default();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        lines.push(b"one\n");
        lines.write_some(full.as_fd());
        assert_eq!(lines.lock().lost, 1);
        lines.lock().writing = false;
        lines.flush(Duration::ZERO);
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        lines.push(b"two\n");
        lines.write_some(writer.as_fd());
        assert_eq!(lines.lock().lost, 2, "nobody reads that pipe");
    }
}
