//! Syncs files concurrently, because a disk merges requests that wait together.

use std::io;
use std::sync::{Arc, Mutex, mpsc};

use super::super::disk::DiskFile;
use crate::error::Error;
use askwhen_process::thread::Thread;

/// Threads of each writer's syncer.
const THREADS: usize = 4;

type Job = (Arc<DiskFile>, mpsc::Sender<io::Result<()>>);

/// Who syncs files. The threads end with the writer that owns them.
pub enum Syncer {
    /// The calling thread, one file after the other: for tests in one thread.
    Inline,
    Threads {
        // Dropped before the threads, which it keeps running.
        jobs: mpsc::Sender<Job>,
        _threads: Vec<Thread>,
    },
}

impl Syncer {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> io::Result<Syncer> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for n in 0..THREADS {
            let queue = queue.clone();
            threads.push(Thread::spawn(format!("log-sync-{n}"), move || {
                loop {
                    let job = queue.lock().expect("no panic holds this lock").recv();
                    let Ok((file, done)) = job else { return };
                    // The writer waits for every result.
                    done.send(file.sync_data()).ok();
                }
            })?);
        }
        Ok(Syncer::Threads { jobs, _threads: threads })
    }

    /// Begins to sync all files; without threads they are synced before it returns.
    pub fn begin(&self, files: impl Iterator<Item = Arc<DiskFile>>) -> Syncing {
        let jobs = match self {
            Syncer::Inline => {
                let synced = files.map(|file| file.sync_data()).fold(Ok(()), io::Result::and);
                return Syncing { asked: 0, done: synced.map_err(context), answers: mpsc::channel().1 };
            }
            Syncer::Threads { jobs, .. } => jobs,
        };
        let (done, answers) = mpsc::channel();
        let (mut asked, mut closed) = (0, Ok(()));
        for file in files {
            match jobs.send((file, done.clone())) {
                Ok(()) => asked += 1,
                Err(_) => closed = Err(Error::Closed),
            }
        }
        Syncing { asked, done: closed, answers }
    }

    /// Syncs all files, even after an error.
    ///
    /// # Errors
    /// The first error; then it is unknown what is durable.
    pub fn sync_all<'a>(&self, mut files: impl Iterator<Item = &'a Arc<DiskFile>>) -> Result<(), Error> {
        if let Syncer::Inline = self {
            return files.try_for_each(|file| file.sync_data()).map_err(context);
        }
        let Some(first) = files.next() else { return Ok(()) };
        let others = self.begin(files.cloned());
        let own = first.sync_data().map_err(context);
        own.and(others.wait())
    }
}

fn context(error: io::Error) -> Error {
    Error::io("syncing the log", error)
}

/// Files that are being synced.
#[derive(Debug)]
pub struct Syncing {
    asked: usize,
    /// The result of those that were synced at once.
    done: Result<(), Error>,
    answers: mpsc::Receiver<io::Result<()>>,
}

impl Syncing {
    /// Waits until all are synced, even after an error.
    ///
    /// # Errors
    /// The first error; then it is unknown what is durable.
    pub fn wait(self) -> Result<(), Error> {
        let (mut all, mut answered) = (self.done, 0);
        for answer in self.answers {
            answered += 1;
            all = all.and(answer.map_err(context));
        }
        // A thread that died without a result has synced nothing.
        all.and(if answered == self.asked { Ok(()) } else { Err(Error::Unknown("a sync was not answered".into())) })
    }
}
