//! Counts how many users have an open window of a survey, for whoever is about to change
//! it. Counting reads the users of a project, so one count runs at a time and its result is
//! reused for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::problem::Problem;
use askwhen_domain::refs::{SurveyKey, SurveyRef};

/// How long a count is reused: an editor asks at every change.
const HOLDS_FOR: Duration = Duration::from_secs(5);
/// The most surveys whose counts are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// Users with an open window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenWindowCount {
    pub users: u64,
    /// Whether all users were counted; if not, there are at least as many.
    pub is_exact: bool,
}

/// Counts for a survey; blocks for a bounded time.
pub type CountWindows = Box<dyn Fn(SurveyRef<'_>) -> OpenWindowCount + Send + Sync>;

pub struct WindowCounts {
    count: Arc<CountWindows>,
    /// Locked while a count is running.
    known: tokio::sync::Mutex<HashMap<SurveyKey, (Instant, OpenWindowCount)>>,
}

impl WindowCounts {
    pub fn new(count: CountWindows) -> WindowCounts {
        WindowCounts { count: Arc::new(count), known: tokio::sync::Mutex::default() }
    }

    /// The count for a survey.
    ///
    /// # Errors
    /// When counting has panicked.
    pub async fn of(&self, survey: SurveyKey) -> Result<OpenWindowCount, Problem> {
        let mut known = self.known.lock().await;
        if let Some((at, counted)) = known.get(&survey)
            && at.elapsed() < HOLDS_FOR
        {
            return Ok(*counted);
        }
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        let (count, asked) = (self.count.clone(), survey.clone());
        let counting = tokio::task::spawn_blocking(move || count(asked.as_ref()));
        let counted = counting.await.map_err(|error| Problem::new(500, "internal", error.to_string()))?;
        known.insert(survey, (Instant::now(), counted));
        Ok(counted)
    }
}
