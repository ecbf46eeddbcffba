//! Files synced side by side, because a disk merges what waits together.

use std::sync::{Arc, Mutex, mpsc};

use super::super::disk::DiskFile;
use crate::error::Error;
use askwhen_process::thread::Thread;

/// Files synced side by side, by each writer.
const THREADS: usize = 4;

type Job = (Arc<DiskFile>, mpsc::Sender<std::io::Result<()>>);

/// Who syncs. The threads end with the writer that owns them.
pub enum Syncer {
    /// Whoever asks, one file after the other: for tests in one thread.
    Inline,
    Threads {
        // Dropped before the threads that it keeps alive.
        jobs: mpsc::Sender<Job>,
        _threads: Vec<Thread>,
    },
}

impl Syncer {
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> std::io::Result<Syncer> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for n in 0..THREADS {
            let queue = queue.clone();
            threads.push(Thread::spawn(format!("log-sync-{n}"), move || {
                loop {
                    let job = queue.lock().expect("no panic holds this lock").recv();
                    let Ok((file, done)) = job else { return };
                    // The writer waits for every answer; it is there.
                    done.send(file.sync_data()).ok();
                }
            })?);
        }
        Ok(Syncer::Threads { jobs, _threads: threads })
    }

    /// Syncs all of them, whatever one says.
    ///
    /// # Errors
    /// The first one; what is durable is not known then.
    pub fn sync_all<'a>(&self, mut files: impl Iterator<Item = &'a Arc<DiskFile>>) -> Result<(), Error> {
        let context = |e: std::io::Error| Error::io("syncing the log", e);
        let jobs = match self {
            Syncer::Inline => return files.try_for_each(|file| file.sync_data()).map_err(context),
            Syncer::Threads { jobs, .. } => jobs,
        };
        let Some(first) = files.next() else { return Ok(()) };
        let (done, answers) = mpsc::channel();
        let mut others = 0;
        for file in files {
            jobs.send((file.clone(), done.clone())).map_err(|_| Error::Closed)?;
            others += 1;
        }
        drop(done);
        let own = first.sync_data().map_err(context);
        let mut answered = 0;
        let all = answers.iter().fold(own, |all, answer| {
            answered += 1;
            all.and(answer.map_err(context))
        });
        // A thread that died without an answer has synced nothing.
        all.and(if answered == others { Ok(()) } else { Err(Error::Unknown("a sync was not answered".into())) })
    }
}
