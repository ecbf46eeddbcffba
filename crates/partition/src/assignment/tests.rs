//! A partition of a role that does nothing, with openings that end when they are told.

use super::*;
use std::io;
use std::sync::Mutex;

/// Closed when it is dropped.
struct Opened {
    status: Arc<Status>,
    closed: Arc<Mutex<Vec<Phase>>>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.closed.lock().unwrap().push(self.status.phase());
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("a person has to look")]
    Refused,
    #[error("it may pass")]
    Retry,
    #[error("the clock is behind")]
    Clock,
    #[error("no thread: {0}")]
    Thread(io::Error),
}

impl PartitionError for Failed {
    fn class(&self) -> Class {
        if matches!(self, Failed::Refused) { Class::Refuse } else { Class::Retry }
    }

    fn waits_on(&self) -> Option<WaitReason> {
        matches!(self, Failed::Clock).then_some(WaitReason::Clock)
    }

    fn no_thread(error: io::Error) -> Failed {
        Failed::Thread(error)
    }
}

struct World {
    assignments: Assignments<Opened, Failed>,
    /// How the next opening ends.
    outcome: mpsc::Sender<Result<(), Failed>>,
    /// The phases in which what was open was closed.
    closed: Arc<Mutex<Vec<Phase>>>,
    notify: Arc<Notify>,
}

const OPTIONS: AssignmentOptions =
    AssignmentOptions { role: "test", openings: Openings::Threads("open-t"), opening_grace: Duration::ZERO };

impl World {
    /// Openings end when they are told how.
    fn new() -> World {
        let (outcome, outcomes) = mpsc::channel();
        let (outcomes, closed, notify) = (Mutex::new(outcomes), Arc::default(), Arc::default());
        let list: Arc<Mutex<Vec<Phase>>> = Arc::clone(&closed);
        let open: Opener<Opened, Failed> = Arc::new(move |_, _, status| {
            let outcome: Result<(), Failed> = outcomes.lock().unwrap().recv().unwrap_or(Ok(()));
            outcome.map(|()| Opened { status, closed: list.clone() })
        });
        let statuses = vec![Arc::default(), Arc::default()];
        let assignments = Assignments::new(open, OPTIONS, statuses, Arc::clone(&notify));
        World { assignments, outcome, closed, notify }
    }

    /// Has the opening that is going on end so, and takes what came of it.
    fn opened(&mut self, outcome: Result<(), Failed>) -> Option<Result<Opened, Failed>> {
        self.outcome.send(outcome).unwrap();
        for _ in 0..1_000 {
            self.notify.wait(Duration::from_millis(10));
            if let Some((partition, outcome)) = self.assignments.next_opened() {
                assert_eq!(partition, 0);
                return Some(outcome);
            }
            if self.assignments.strays.iter().all(|(_, stray)| stray.is_over()) && !self.assignments.any_opening() {
                return None;
            }
        }
        panic!("the opening does not end");
    }

    fn run(&mut self, now: Duration) {
        self.assignments.take(0, now);
        let opened = self.opened(Ok(())).expect("it is wanted").expect("it opens");
        self.assignments.install(0, opened);
        assert_eq!(self.phase(), Phase::Running);
    }

    fn phase(&self) -> Phase {
        self.assignments.status(0).phase()
    }

    fn closed(&self) -> usize {
        self.closed.lock().unwrap().len()
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn one_that_is_given_up_goes_when_it_is_settled_or_its_time_is_over() {
    for (settles_at, gone_at) in [(2, 2), (9, 5)] {
        let mut world = World::new();
        world.run(at(0));
        let (done, gone) = WaitGroup::new();
        assert!(world.assignments.release(0, true, Some(done), at(0)).is_some());
        for second in 0..gone_at {
            let is_settled = |_: Option<&mut Opened>, patience: Patience| patience.is_late || second >= settles_at;
            assert!(!world.assignments.let_go(0, at(second), is_settled));
            assert!(matches!(gone.try_recv(), Err(mpsc::TryRecvError::Empty)));
        }
        assert!(world.assignments.let_go(0, at(gone_at), |_, patience| patience.is_late || gone_at >= settles_at));
        assert!(matches!(gone.try_recv(), Err(mpsc::TryRecvError::Disconnected)));
        assert_eq!((world.phase(), world.assignments.len()), (Phase::NotOwned, 0));
        assert_eq!(*world.closed.lock().unwrap(), [Phase::Running], "it was closed before anyone heard of it");
    }
}

#[test]
fn one_that_is_given_back_before_it_is_gone_is_opened_again() {
    let mut world = World::new();
    world.run(at(0));
    world.assignments.release(0, true, None, at(1));
    world.assignments.take(0, at(1));
    assert!(world.assignments.let_go(0, at(2), |_, _| true));
    assert!(world.assignments.any_opening() && world.assignments.status(0).is_wanted());
    // And once more: what was taken back last counts.
    world.assignments.release(0, true, None, at(3));
    world.assignments.take(0, at(3));
    world.assignments.release(0, true, None, at(3));
    assert!(world.opened(Ok(())).is_none(), "nobody wants it");
    assert!(world.assignments.let_go(0, at(3), |_, _| true));
    assert_eq!((world.assignments.len(), world.closed()), (0, 2));
}

#[test]
fn nothing_is_opened_beside_an_opening_that_was_given_up() {
    let mut world = World::new();
    world.assignments.take(0, at(0));
    world.assignments.release(0, true, None, at(0));
    assert!(!world.assignments.status(0).is_wanted());
    assert!(!world.assignments.let_go(0, at(4), |_, _| true), "it has heard of it, and may give up");
    assert!(world.assignments.let_go(0, at(5), |_, _| true));
    world.assignments.take(0, at(6));
    assert!(!world.assignments.any_opening() && !world.assignments.reopen(0, at(6)));
    assert!(world.assignments.reopen(0, at(7)));
    assert!(!world.assignments.any_opening(), "the stray goes on");
    assert!(world.opened(Ok(())).is_none(), "what it brings is of no use");
    assert!(world.assignments.reopen(0, at(8)));
    assert!(world.opened(Ok(())).expect("it is wanted").is_ok());
}

#[test]
fn a_failure_is_tried_again_after_a_pause_unless_a_person_has_to_look() {
    for (error, reopens_at) in [(Failed::Retry, Some(1)), (Failed::Clock, Some(2)), (Failed::Refused, None)] {
        let mut world = World::new();
        world.assignments.take(0, at(0));
        let refused = matches!(error, Failed::Refused);
        let error = world.opened(Err(error)).expect("it is wanted").err().expect("it fails");
        world.assignments.fail(0, &error, at(0));
        assert_eq!(world.phase(), Phase::Stopped { why: error.to_string(), refused });
        let reopens = (0..100).find(|second| world.assignments.reopen(0, at(*second)));
        assert_eq!(reopens, reopens_at);
        assert_eq!(world.assignments.any_opening(), reopens_at.is_some());
        drop(world.outcome.send(Ok(())));
    }
}

#[test]
fn one_that_fails_while_it_runs_is_closed_at_once() {
    let mut world = World::new();
    world.run(at(0));
    world.assignments.fail(0, &Failed::Retry, at(1));
    assert_eq!((world.closed(), world.assignments.get(0).is_some()), (1, false));
    world.assignments.release(0, true, None, at(1));
    assert!(!world.assignments.reopen(0, at(9)), "it is given up");
    assert!(world.assignments.let_go(0, at(1), |open, _| open.is_none()));
}

#[test]
fn inline_openings_are_over_at_once() {
    let mut world = World::new();
    world.assignments.options.openings = Openings::Inline;
    world.outcome.send(Ok(())).unwrap();
    world.assignments.take(0, at(0));
    assert!(matches!(world.assignments.next_opened(), Some((0, Ok(_)))));
}
