//! Progress on standard error, and only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::context::Failure;
use super::serve;
use crate::replay::Progress;
use crate::supervisor::Error;

/// Runs a blocking function on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| Failure::failed(e.to_string()))?;
    done.map_err(serve::failure)
}

/// A bar that counts so and so, with their rate and the remaining time.
pub fn bar(doing: &'static str, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = format!("{{prefix}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
    let style = ProgressStyle::with_template(&template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(doing);
    bar
}

/// Runs a function that reads the journal, with a bar of its records, their rate and the
/// remaining time.
pub async fn over_records<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
) -> Result<T, Failure> {
    let bar = bar(doing, "records");
    let progress = Arc::new(Progress::default());
    let counted = progress.clone();
    let done = tokio::select! {
        done = blocking(move || work(&counted)) => done,
        never = show(&bar, &progress) => match never {},
    };
    bar.finish_and_clear();
    done
}

/// Updates the bar until it is cancelled.
async fn show(bar: &ProgressBar, progress: &Progress) -> Infallible {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bar.set_length(progress.all.load(Ordering::Relaxed));
        bar.set_position(progress.records.load(Ordering::Relaxed));
    }
}
