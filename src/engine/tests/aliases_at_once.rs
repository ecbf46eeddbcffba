//! Names that become aliases of each other at once, each on a partition of its own, in every
//! order in which the partitions may come to their records: in the end they are one user,
//! and whatever came under them before, between and after has counted once.

use super::aliases::{Told, plain};
use super::*;
use askwhen_domain::user::User;

/// The first name of each partition.
fn one_of_each(partitions: u32) -> Vec<String> {
    let first = |partition: u32| {
        let mut all = (0..).map(|n| format!("name{n}"));
        all.find(|name| id::partition_of(name, partitions) == partition).expect("there are many")
    };
    (0..partitions).map(first).collect()
}

/// What has come under the names so far.
#[derive(Default)]
struct Sent {
    records: Vec<(String, serde_json::Value)>,
    triggers: Vec<String>,
    /// The offer that each name had before.
    offers: Vec<String>,
}

impl Sent {
    /// An event, an attribute and a trigger of each name, with ids of their own, and a
    /// display of what it was offered before.
    fn round(&mut self, told: &mut Told, names: &[String]) {
        for (i, name) in names.iter().enumerate() {
            let n = self.triggers.len();
            self.triggers.push(format!("t{n}."));
            let mut records = vec![
                json!({"user_id": name, "event_name": "woke", "event_id": format!("e{n}.")}),
                json!({"type": "attributes", "user_id": name, "attributes": {format!("a{n}"): n}}),
                json!({"type": "trigger", "user_id": name, "trigger": "Main", "event_id": format!("t{n}.")}),
            ];
            let displayed = |offer: &String| json!({"type": "displayed", "user_id": name, "offer_id": offer});
            records.extend(self.offers.get(i).map(displayed));
            for record in records {
                told.wait(1);
                told.world.user(name, record.clone(), false);
                self.records.push((name.clone(), record));
            }
        }
        told.world.log.sync();
    }

    /// Copies of all that has an id.
    fn again(&self, told: &mut Told) {
        for (name, record) in self.records.iter().filter(|(_, record)| record["event_id"].is_string()) {
            told.world.user(name, record.clone(), false);
        }
        told.world.settle();
    }

    fn decided(&self, told: &Told) -> Vec<String> {
        let found = told.world.outputs().0;
        let decisions = found.iter().filter(|((topic, _), _)| *topic == "decisions");
        let read = decisions.map(|(_, text)| serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        let mut decided: Vec<String> = read.map(|one| one["event_id"].as_str().expect("an id").to_owned()).collect();
        decided.sort();
        decided
    }

    /// Every trigger has been decided once.
    fn check_decided(&self, told: &Told, about: &str) {
        let mut expected = self.triggers.clone();
        expected.sort();
        assert_eq!(self.decided(told), expected, "{about}");
    }
}

/// Users and aliases, by their places among the names.
type Requests<'a> = &'a [(usize, usize)];

/// One order: the partition that comes to its records next, again and again. After the
/// last of these steps, `erased` is erased.
fn perform(names: &[String], requests: Requests<'_>, order: &[usize], erased: Option<&str>) -> (Told, Sent) {
    let counted = json!({"targeting": {"event": "woke", "at_least": 1, "within": "1h"}});
    let mut told = Told::of(names.len() as u32, &plain(&counted));
    let mut sent = Sent::default();
    sent.round(&mut told, names);
    told.world.settle();
    sent.offers = names.iter().map(|name| told.world.last_offer(name).expect("an offer")).collect();
    for (n, (user, alias)) in requests.iter().enumerate() {
        told.world.alias(&names[*user], &names[*alias], told.now, &format!("at-once-{n}"));
    }
    told.world.log.sync();
    let crash = order.iter().sum::<usize>() % order.len();
    for (n, partition) in order.iter().enumerate() {
        told.world.process.parts[*partition].step().expect("it steps");
        told.world.log.sync();
        sent.round(&mut told, names);
        // One partition remembers what it has done, and all others do it again.
        if n == crash {
            told.world.checkpoint(*partition);
            told.world.crash();
        }
    }
    if let Some(name) = erased {
        told.world.erase(name, told.now, "erased");
    }
    told.world.settle();
    (told, sent)
}

fn check(names: &[String], requests: Requests<'_>, order: &[usize]) {
    let about = format!("{requests:?} in the order {order:?}");
    let (mut told, mut sent) = perform(names, requests, order, None);
    sent.again(&mut told);
    sent.round(&mut told, names);
    sent.again(&mut told);
    sent.check_decided(&told, &about);

    let states: Vec<User> = names.iter().map(|name| told.state(name)).collect();
    let users: Vec<usize> = (0..names.len()).filter(|n| states[*n].alias_of().is_none()).collect();
    assert_eq!(users.len(), 1, "{about}: one of them is the user");
    let user = &states[users[0]];
    let mut known: Vec<&String> = user.aliases().iter().map(|alias| &alias.name).collect();
    known.push(&names[users[0]]);
    known.sort();
    let mut all: Vec<&String> = names.iter().collect();
    all.sort();
    assert_eq!(known, all, "{about}");
    assert_eq!(user.attributes.len(), sent.triggers.len(), "{about}: attributes");
    let counted = user.extension.as_ref().map_or(0, |extension| extension.events["woke"].len());
    assert_eq!(counted, sent.triggers.len(), "{about}: events");
    assert_eq!(told.refusals(), [""; 0], "{about}");

    // By whatever name they are forgotten, nothing is left, and no copy brings anyone back.
    told.erase(&names[order[0]]);
    sent.again(&mut told);
    sent.check_decided(&told, &about);
    for name in names {
        let state = told.state(name);
        assert!(
            state.surveys.is_empty() && state.attributes.is_empty() && state.extension.is_none(),
            "{about}: {name}"
        );
    }
}

/// An erasure in the middle of it takes what came under that name before, at least.
fn check_erasure(names: &[String], requests: Requests<'_>, order: &[usize]) {
    for name in names {
        let about = format!("{requests:?} in the order {order:?}, then {name} is erased");
        let (mut told, sent) = perform(names, requests, order, Some(name));
        sent.again(&mut told);
        let erased = sent.records.iter().filter(|(whose, _)| whose == name);
        let erased: Vec<&String> =
            erased.filter_map(|(_, record)| record["attributes"].as_object()?.keys().next()).collect();
        for other in names {
            let state = told.state(other);
            let left: Vec<_> = erased.iter().filter(|attribute| state.attributes.contains_key(**attribute)).collect();
            assert!(left.is_empty(), "{about}: {left:?} are left under {other}");
        }
        let mut decided = sent.decided(&told);
        let all = decided.len();
        decided.dedup();
        assert_eq!(decided.len(), all, "{about}: none is decided twice");
    }
}

/// Every sequence of so many choices among so many.
fn sequences(of: usize, length: u32) -> impl Iterator<Item = Vec<usize>> {
    let digits = move |n: usize| (0..length).map(|place| n / of.pow(place) % of).collect();
    (0..of.pow(length)).map(digits)
}

#[test]
fn two_become_aliases_of_each_other() {
    let names = one_of_each(2);
    for order in sequences(2, 7) {
        check(&names, &[(0, 1), (1, 0)], &order);
    }
}

#[test]
fn three_become_aliases_of_each_other() {
    let names = one_of_each(3);
    for order in sequences(3, 4) {
        for requests in [
            &[(1, 0), (2, 1), (0, 2)][..],
            &[(0, 1), (1, 2), (2, 0)],
            &[(1, 0), (2, 1), (1, 2)],
            &[(1, 0), (0, 1), (2, 1), (1, 2)],
        ] {
            check(&names, requests, &order);
        }
    }
}

#[test]
fn those_who_become_aliases_of_each_other_are_erased() {
    for length in 1..6 {
        let names = one_of_each(2);
        for order in sequences(2, length) {
            check_erasure(&names, &[(0, 1), (1, 0)], &order);
        }
    }
    let names = one_of_each(3);
    for order in sequences(3, 4) {
        check_erasure(&names, &[(1, 0), (2, 1), (0, 2)], &order);
    }
}
