//! Merges the state of an alias into that of its user, as far as no rule of a survey is
//! involved: names, attributes, offers, sessions, event ids, answers, remembered events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    APART, Activated, Alias, Extension, Identity, MAX_ATTRIBUTES_BYTES, MAX_RECENT_IDS, MAX_SESSIONS, MERGED,
    RememberedEvent, SeenId, Session, User,
};
use crate::json::Json;
use crate::time::Millis;

impl User {
    /// The user of whom this name is an alias.
    pub fn alias_of(&self) -> Option<&str> {
        self.identity.as_ref()?.alias_of.as_deref()
    }

    /// The user's aliases, in the order in which they were added.
    pub fn aliases(&self) -> &[Alias] {
        self.identity.as_ref().map_or(&[], |identity| &identity.aliases)
    }

    /// Whether this is one of the user's aliases.
    pub fn is_known_as(&self, name: &str) -> bool {
        self.aliases().iter().any(|alias| alias.name == name)
    }

    pub fn identity_mut(&mut self) -> &mut Identity {
        Arc::make_mut(self.identity.get_or_insert_default())
    }

    /// The state that stays under an alias: records are passed on to its user. The event
    /// ids that it has seen are in the store's table.
    #[must_use]
    pub fn alias(of: &str) -> User {
        let identity = Identity { alias_of: Some(of.to_owned()), ..Identity::default() };
        User { identity: Some(identity.into()), overflowed: true, ..User::default() }.summarized()
    }

    /// Gives the events of this state new offsets behind those that `into` uses, in the
    /// same order: they are of another journal, whose offsets mean other events.
    pub fn renumber(&mut self, into: &User) {
        let mut last = None;
        let merged = |offset: u64| (offset & MERGED != 0).then_some(offset & !APART);
        into.clone().each_offset(&mut |offset| last = last.max(merged(*offset)));
        let mut known = BTreeSet::new();
        self.each_offset(&mut |offset| known.extend([*offset]));
        let first = last.map_or(MERGED, |last| last + 1);
        let places: BTreeMap<u64, u64> = known.into_iter().zip(first..).collect();
        self.each_offset(&mut |offset| *offset = places[offset]);
    }

    /// Gives events that `into` also has, by event id, the offsets that they have there, so
    /// that each counts once.
    pub fn know_again(&mut self, into: &User) {
        let known: BTreeMap<&str, u64> =
            into.activated().map(|event| (event.event_id.as_str(), event.offset)).collect();
        let again = |event: &Activated| Some((event.offset, *known.get(event.event_id.as_str())?));
        let again: BTreeMap<u64, u64> = self.activated().filter_map(again).collect();
        if !again.is_empty() {
            self.each_offset(&mut |offset| *offset = again.get(offset).copied().unwrap_or(*offset));
        }
    }

    /// The events that take part in any activation.
    fn activated(&self) -> impl Iterator<Item = &Activated> {
        let matched = self.extension.iter().flat_map(|extension| extension.surveys.values());
        let matched = matched.flat_map(|survey| &survey.matched).flat_map(|one| &one.state.facts);
        let whole = self.surveys.iter().flat_map(|(_, survey)| &survey.facts);
        whole.chain(matched).map(|fact| &*fact.event)
    }

    /// Merges everything but the history and windows of surveys. Returns the event ids, and
    /// the names of attributes, that no longer fit.
    pub fn absorb(&mut self, theirs: User, now: Millis, remembered: Millis) -> (Vec<SeenId>, Vec<String>) {
        let left_out = self.absorb_attributes(&theirs);
        self.absorb_sessions(&theirs.sessions);
        self.last_display_at = self.last_display_at.max(theirs.last_display_at);
        let spilled = self.absorb_ids(&theirs, now, remembered);
        for (survey_id, answers) in theirs.completed.iter() {
            self.keep_answers(survey_id, answers.clone());
        }
        if !theirs.used_links.is_empty() {
            let links = self.used_links.make_mut();
            links.extend(theirs.used_links.iter().map(|(id, expires_at)| (id.clone(), *expires_at)));
        }
        if let Some(extension) = &theirs.extension {
            absorb_extension(self.extension_mut(), extension);
        }
        let aliases = theirs.aliases().to_vec();
        self.identity_mut().aliases.extend(aliases);
        self.offers.extend(theirs.offers);
        self.offers.sort_by_key(|offer| offer.offered_at);
        (spilled, left_out)
    }

    /// An attribute that both have keeps the value of the user whose attributes are older. Returns
    /// the names of those that no longer fit: the merged user has the same bound as every user.
    fn absorb_attributes(&mut self, theirs: &User) -> Vec<String> {
        let mut left_out = Vec::new();
        if theirs.attributes.is_empty() {
            return left_out;
        }
        let since = |user: &User| user.identity.as_ref().and_then(|identity| identity.attributes_since);
        let (our_since, their_since) = (since(self), since(theirs));
        let is_ours_older = !self.attributes.is_empty() && our_since <= their_since;
        let (older, newer) =
            if is_ours_older { (&self.attributes, &theirs.attributes) } else { (&theirs.attributes, &self.attributes) };
        let mut merged = (**older).clone();
        let size = |(name, value): (&String, &Json)| name.len() + value.len_bytes() + 4;
        let mut bytes: usize = merged.iter().map(size).sum();
        for (name, value) in newer.iter() {
            if merged.contains_key(name) {
                continue;
            }
            let more = size((name, value));
            if bytes + more > MAX_ATTRIBUTES_BYTES {
                left_out.push(name.clone());
                continue;
            }
            bytes += more;
            merged.insert(name.clone(), value.clone());
        }
        self.attributes = merged.into();
        self.identity_mut().attributes_since = if is_ours_older { our_since } else { their_since };
        left_out
    }

    /// A session of both names is one session; its displays are added up.
    fn absorb_sessions(&mut self, theirs: &[Session]) {
        if theirs.is_empty() {
            return;
        }
        let ours = self.sessions.make_mut();
        let mut all: Vec<Session> = Vec::new();
        for session in theirs {
            match ours.iter_mut().find(|known| known.session_id == session.session_id) {
                Some(known) => known.displays = known.displays.saturating_add(session.displays),
                None => all.push(session.clone()),
            }
        }
        all.append(ours);
        let too_many = all.len().saturating_sub(MAX_SESSIONS);
        *ours = all.split_off(too_many);
    }

    fn absorb_ids(&mut self, theirs: &User, now: Millis, remembered: Millis) -> Vec<SeenId> {
        if theirs.recent.is_empty() {
            return Vec::new();
        }
        self.recent.merge(&theirs.recent);
        while self.recent.oldest().is_some_and(|(_, seen)| seen.saturating_add(remembered) <= now) {
            self.recent.pop();
        }
        let too_many = self.recent.len().saturating_sub(MAX_RECENT_IDS);
        self.overflowed |= too_many > 0;
        (0..too_many).filter_map(|_| self.recent.pop()).collect()
    }
}

fn absorb_extension(ours: &mut Extension, theirs: &Extension) {
    for (name, events) in &theirs.events {
        let is_known = |event: &&RememberedEvent| ours.knows(name, event.offset);
        let news: Vec<RememberedEvent> = events.iter().filter(|event| !is_known(event)).cloned().collect();
        news.into_iter().for_each(|event| ours.remember(name, event));
    }
    for (experiment, arm) in &theirs.arms {
        ours.arms.entry(experiment.clone()).or_insert_with(|| arm.clone());
    }
    ours.caps.extend(theirs.caps.iter().map(|(offer_id, pins)| (offer_id.clone(), pins.clone())));
    for (session_id, heard_at) in &theirs.sessions {
        let ours = ours.sessions.entry(session_id.clone()).or_insert(*heard_at);
        *ours = (*ours).max(*heard_at);
    }
}
