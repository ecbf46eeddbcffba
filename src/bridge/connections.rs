//! The open connections, what each is doing, and which of them is closed when places or
//! bytes run out. While there is room none is; behind a proxy all come from one address.
//! Then connections of the address with the most are closed first, and of these the least
//! useful.

use futures_util::task::AtomicWaker;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::budget::Budget;

/// A head or body without progress for this long may be closed when bytes run out.
const STALLED: Duration = Duration::from_millis(100);
/// A new connection without a request may be closed after this time.
const UNFINISHED: Duration = Duration::from_millis(250);
/// One in this many places is freed at a time, so that searching costs little and new
/// connections do not wait long.
const CLEARED_SHARE: usize = 16;
/// The pause between two searches for bytes.
const SEARCH_PAUSE_MS: u64 = 10;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectionPhase {
    /// Nothing of the next request has come.
    Idle,
    Head,
    Body,
    /// A request is being handled; closing the connection would do harm.
    Answering,
    /// The answer is being written.
    Writing,
}

impl ConnectionPhase {
    fn of(byte: u8) -> ConnectionPhase {
        [
            ConnectionPhase::Idle,
            ConnectionPhase::Head,
            ConnectionPhase::Body,
            ConnectionPhase::Answering,
            ConnectionPhase::Writing,
        ][usize::from(byte)]
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    all: Arc<Connections>,
    number: u64,
    address: IpAddr,
    phase: AtomicU8,
    /// When it entered its phase and when bytes last moved, in milliseconds of
    /// [`Connections::now_ms`].
    since_ms: AtomicU64,
    moved_ms: AtomicU64,
    answered: AtomicU32,
    held_bytes: AtomicUsize,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Connection {
    pub fn all(&self) -> &Arc<Connections> {
        &self.all
    }

    pub fn phase(&self) -> ConnectionPhase {
        ConnectionPhase::of(self.phase.load(Ordering::Acquire))
    }

    pub fn enter(&self, phase: ConnectionPhase) {
        if self.phase.swap(phase as u8, Ordering::AcqRel) != phase as u8 {
            let now = self.all.now_ms();
            self.since_ms.store(now, Ordering::Release);
            self.moved_ms.store(now, Ordering::Release);
            if phase == ConnectionPhase::Writing {
                self.answered.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Notes that bytes were read or written.
    pub fn moved(&self) {
        self.moved_ms.store(self.all.now_ms(), Ordering::Release);
    }

    /// When it entered its phase.
    pub fn since(&self) -> Instant {
        self.all.began + Duration::from_millis(self.since_ms.load(Ordering::Acquire))
    }

    /// When bytes were last read or written.
    pub fn last_moved(&self) -> Instant {
        self.all.began + Duration::from_millis(self.moved_ms.load(Ordering::Acquire))
    }

    /// Whether others need its place or its bytes. `waker` is woken when that changes.
    pub fn is_evicted(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.evicted.load(Ordering::Acquire)
    }

    /// Cancels its eviction, because it has a request by now.
    pub fn keeps_its_place(&self) {
        self.evicted.store(false, Ordering::Release);
    }

    fn evict(&self, reason: &str) {
        if !self.evicted.swap(true, Ordering::AcqRel) {
            askwhen_process::metrics::get().bridge_evictions.with_label_values(&[reason]).inc();
        }
        self.waker.wake();
    }

    pub(super) fn holds(&self, bytes: usize) {
        self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn holds_no_longer(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// The order in which it is closed, lowest first; `None` while it must be kept.
    fn rank(&self, now_ms: u64) -> Option<(u8, u64)> {
        let since = self.since_ms.load(Ordering::Acquire);
        let moved = self.moved_ms.load(Ordering::Acquire);
        let (age, still) = (now_ms.saturating_sub(since), now_ms.saturating_sub(moved));
        let fresh = self.answered.load(Ordering::Acquire) == 0;
        let (unfinished, stalled) = (UNFINISHED.as_millis() as u64, STALLED.as_millis() as u64);
        match self.phase() {
            // It has never sent a request.
            ConnectionPhase::Idle | ConnectionPhase::Head if fresh && age >= unfinished => Some((0, since)),
            ConnectionPhase::Idle => Some((1, since)),
            ConnectionPhase::Head | ConnectionPhase::Body if age >= unfinished => Some((2, since)),
            ConnectionPhase::Writing if still >= unfinished => Some((3, moved)),
            // It is young, and makes no progress.
            ConnectionPhase::Head | ConnectionPhase::Body if still >= stalled => Some((4, since)),
            _ => None,
        }
    }

    /// Bytes that it holds without making progress.
    fn idle_bytes(&self, now_ms: u64) -> usize {
        let still = now_ms.saturating_sub(self.moved_ms.load(Ordering::Acquire));
        let takes_part =
            matches!(self.phase(), ConnectionPhase::Head | ConnectionPhase::Body | ConnectionPhase::Writing);
        let stalled = takes_part && still >= STALLED.as_millis() as u64;
        if stalled { self.held_bytes.load(Ordering::Acquire) } else { 0 }
    }
}

/// Bounds of connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_connections: usize,
    /// The most of one address; `None` for no bound.
    pub max_per_address: Option<usize>,
    /// How long a connection is kept open without a request.
    pub keep_alive: Duration,
}

#[derive(Debug)]
pub struct Connections {
    pub limits: Limits,
    pub budget: Arc<Budget>,
    began: Instant,
    open: Mutex<OpenConnections>,
    searched_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct OpenConnections {
    connections: HashMap<u64, Arc<Connection>>,
    by_address: HashMap<IpAddr, usize>,
    next: u64,
}

impl Connections {
    pub fn new(limits: Limits, budget: Arc<Budget>) -> Arc<Connections> {
        let (began, searched_ms) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Connections { limits, budget, began, open: Mutex::default(), searched_ms })
    }

    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Adds a connection; `None` when its address has its share and none of these can be
    /// closed.
    pub fn join(self: &Arc<Connections>, from: IpAddr) -> Option<Arc<Connection>> {
        let address = network(from);
        let now = self.now_ms();
        let mut open = self.open.lock().expect("no panic holds this lock");
        let there = open.by_address.get(&address).copied().unwrap_or(0);
        if self.limits.max_per_address.is_some_and(|most| there >= most) {
            let own = open.connections.values().filter(|one| one.address == address);
            let victim = own.filter_map(|one| Some((one.rank(now)?, one))).min_by_key(|(rank, _)| *rank)?.1.clone();
            // For a moment both are open.
            victim.evict("connections");
        }
        open.next += 1;
        let number = open.next;
        let connection = Arc::new(Connection {
            all: self.clone(),
            number,
            address,
            phase: AtomicU8::new(ConnectionPhase::Idle as u8),
            since_ms: AtomicU64::new(now),
            moved_ms: AtomicU64::new(now),
            answered: AtomicU32::new(0),
            held_bytes: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        open.connections.insert(number, connection.clone());
        askwhen_process::metrics::get().bridge_connections.inc();
        *open.by_address.entry(address).or_default() += 1;
        Some(connection)
    }

    pub fn leave(&self, connection: &Connection) {
        let mut open = self.open.lock().expect("no panic holds this lock");
        if open.connections.remove(&connection.number).is_some() {
            askwhen_process::metrics::get().bridge_connections.dec();
        }
        if let Some(count) = open.by_address.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&connection.address);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.open.lock().expect("no panic holds this lock").connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes some connections so that others can be accepted.
    pub fn make_room(&self) {
        let now = self.now_ms();
        let open = self.open.lock().expect("no panic holds this lock");
        let mut ranked: Vec<_> = open
            .connections
            .values()
            .filter(|one| !one.evicted.load(Ordering::Acquire))
            .filter_map(|one| Some((one.rank(now)?, one)))
            .collect();
        // Those of the addresses with the most connections first, and of these the least
        // useful.
        let crowd = |one: &Connection| open.by_address.get(&one.address).copied().unwrap_or(0);
        ranked.sort_by_key(|(rank, one)| (std::cmp::Reverse(crowd(one)), *rank));
        let many = (self.limits.max_connections / CLEARED_SHARE).max(1);
        ranked.into_iter().take(many).for_each(|(_, one)| one.evict("connections"));
    }

    /// Evicts connections that hold the most bytes without making progress.
    pub(super) fn free_bytes(&self) {
        let now = self.now_ms();
        let before = self.searched_ms.load(Ordering::Acquire);
        let searched = self.searched_ms.compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire);
        if now.saturating_sub(before) < SEARCH_PAUSE_MS || searched.is_err() {
            return;
        }
        let open = self.open.lock().expect("no panic holds this lock");
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        let mut idle: Vec<(usize, &Arc<Connection>)> = Vec::new();
        for one in open.connections.values() {
            let bytes = one.idle_bytes(now);
            if bytes > 0 {
                *by_address.entry(one.address).or_default() += bytes;
                idle.push((bytes, one));
            }
        }
        idle.sort_by_key(|(bytes, one)| std::cmp::Reverse((by_address[&one.address], *bytes)));
        let wanted = self.budget.limit_bytes() / 8;
        let mut freed = 0;
        for (bytes, one) in idle {
            if freed >= wanted {
                break;
            }
            freed += bytes;
            one.evict("memory");
        }
    }
}

/// The /64 network of an IPv6 address: who has one address of it has all.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => {
                let mut octets = v6.octets();
                octets[8..].fill(0);
                octets.into()
            }
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn all(max_connections: usize, max_per_address: Option<usize>) -> Arc<Connections> {
        let limits = Limits { max_connections, max_per_address, keep_alive: Duration::from_secs(75) };
        Connections::new(limits, Arc::new(Budget::new(1 << 20)))
    }

    fn old(connection: &Connection, by: Duration) {
        // The clock of these tests began long ago.
        let then = connection.all.now_ms().saturating_sub(by.as_millis() as u64);
        connection.since_ms.store(then, Ordering::Release);
        connection.moved_ms.store(then, Ordering::Release);
    }

    fn evicted(connection: &Connection) -> bool {
        connection.is_evicted(&noop_waker())
    }

    fn long_ago(all: &Connections) -> Connections {
        let began = Instant::now().checked_sub(Duration::from_secs(1_000)).unwrap();
        Connections {
            limits: all.limits,
            budget: all.budget.clone(),
            began,
            open: Mutex::default(),
            searched_ms: AtomicU64::new(0),
        }
    }

    #[test]
    fn the_address_with_most_gives_way_and_what_works_never_does() {
        let all = Arc::new(long_ago(&all(16, None)));
        let crowd: Vec<_> = (0..5).map(|_| all.join([10, 0, 0, 1].into()).unwrap()).collect();
        let alone = all.join([10, 0, 0, 2].into()).unwrap();
        crowd[0].enter(ConnectionPhase::Answering);
        crowd[1].enter(ConnectionPhase::Writing);
        crowd[1].enter(ConnectionPhase::Idle);
        crowd[2].enter(ConnectionPhase::Writing);
        crowd[2].enter(ConnectionPhase::Body);
        crowd[3].enter(ConnectionPhase::Head);
        for one in crowd.iter().chain([&alone]) {
            old(one, Duration::from_secs(30));
        }
        let mut order = Vec::new();
        for _ in 0..6 {
            all.make_room();
            let left = crowd.iter().chain([&alone]).position(|one| evicted(one));
            let Some(left) = left else { break };
            let one = if left < 5 { &crowd[left] } else { &alone };
            one.enter(ConnectionPhase::Answering);
            one.keeps_its_place();
            order.push(left);
        }
        // Never asked for anything, idle, unfinished; then whoever is alone.
        assert!(order == [3, 4, 1, 2, 5] || order == [4, 3, 1, 2, 5], "{order:?}");
    }

    #[test]
    fn an_address_keeps_to_its_own_bound() {
        let all = Arc::new(long_ago(&all(16, Some(2))));
        let first = all.join([10, 0, 0, 1].into()).unwrap();
        let second = all.join("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        first.enter(ConnectionPhase::Answering);
        second.enter(ConnectionPhase::Answering);
        assert!(all.join([10, 0, 0, 1].into()).is_none(), "none of them can be taken away");
        assert!(all.join([10, 0, 0, 2].into()).is_some());
        first.enter(ConnectionPhase::Writing);
        first.enter(ConnectionPhase::Idle);
        assert!(all.join([10, 0, 0, 1].into()).is_some() && evicted(&first) && !evicted(&second));
        all.leave(&first);
        all.leave(&second);
        assert_eq!(all.len(), 2);
        let a = network("2001:db8::1".parse().unwrap());
        assert_eq!(a, network("2001:db8::ffff:1".parse().unwrap()), "a network is one address");
    }

    #[tokio::test]
    async fn bytes_are_given_back_and_those_who_do_not_move_lose_theirs() {
        use crate::bridge::budget::BudgetExhausted;
        use crate::bridge::held_bytes::HeldBytes;
        let all = Arc::new(long_ago(&all(16, None)));
        let (stuck, small) = (all.join([10, 0, 0, 1].into()).unwrap(), all.join([10, 0, 0, 2].into()).unwrap());
        stuck.enter(ConnectionPhase::Body);
        let mut much = HeldBytes::none(&stuck);
        much.grow(900_000).await.unwrap();
        assert_eq!(much.grow(100_000).await, Err(BudgetExhausted), "an eighth is for small ones");
        let mut little = HeldBytes::none(&small);
        little.grow(10_000).await.unwrap();
        old(&stuck, Duration::from_secs(1));
        let mut large = HeldBytes::none(&small);
        let waits = tokio::spawn(async move { large.grow(500_000).await.map(|()| large.bytes()) });
        while !evicted(&stuck) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(much);
        assert_eq!(waits.await.unwrap(), Ok(500_000));
        drop(little);
        assert_eq!(all.budget.used_bytes(), 0);
    }
}
