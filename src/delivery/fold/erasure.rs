//! What waits about a user that is erased.

use std::collections::BTreeMap;

use super::index::due_key;
use super::{Error, Fold, Heard, Phase, Round, Row};
use crate::domain::endpoint::EventType;
use crate::store::Family;
use crate::wire::output::Source;

impl Fold {
    /// Looks at all that waits: erasures are rare, and an index over users would
    /// cost every delivery.
    pub(super) fn cancel_user(
        &mut self,
        (project, user_id): (&str, &str),
        erased: Option<Source>,
        round: &mut Round,
    ) -> Result<(), Error> {
        if crate::fault::mutant("erase_leaves_deliveries") {
            return Ok(());
        }
        // A copy that comes late finds what the user has been told since.
        let since = |row: &Row| {
            let source = Source::parse(row.source.as_bytes());
            source
                .zip(erased)
                .is_some_and(|(row, erased)| row.partition == erased.partition && row.offset > erased.offset)
        };
        let concerned = |row: &Row| {
            let theirs = row.delivery.project == project && row.delivery.user_id == user_id;
            let waits = matches!(row.phase, Phase::Due | Phase::RetryOwed { .. });
            theirs && waits && !since(row) && row.delivery.message.kind != EventType::Erased
        };
        let mut rows = BTreeMap::new();
        self.each_row(|row| {
            if concerned(&row) {
                rows.insert(row.delivery.delivery_id.clone(), row);
            }
        })?;
        // What this very round has changed is newer than what is stored.
        for (id, changed) in &round.rows {
            rows.remove(id);
            if let Some(row) = changed.as_ref().filter(|row| concerned(row)) {
                rows.insert(id.clone(), row.clone());
            }
        }
        round.heard.push(Heard::Cancelled { delivery_ids: rows.keys().cloned().collect() });
        for (id, row) in rows {
            round.batch.delete(Family::Due, due_key(&row));
            let phase = Phase::CancelOwed { reason: "user_erased".into() };
            round.rows.insert(id, Some(Row { phase, ..row }));
        }
        Ok(())
    }
}
