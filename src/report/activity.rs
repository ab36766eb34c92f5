//! What each thread of a job is busy with at this moment: one byte a thread, stored before and after whatever may take
//! long, and how many operations it has in flight beside that; looked at a few times a second by whoever asks what
//! limits the job (limits.rs).
//!
//! ```text
//! thread of system calls   its byte: the call it stands in
//! ring                     its byte, and reads and writes in flight; it waits for what it has most of
//! lane                     tasks: each waits for a request, or for a file, memory or the limits in place of it
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

/// What a thread is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Its own computing, or nothing that takes long.
    Computing,
    /// There is nothing to do.
    NoWork,
    /// Bytes of the source.
    ReadSource,
    /// Bytes of the destination, or their way to the device.
    WriteDest,
    /// Names and attributes of the source.
    SourceNames,
    /// Names and attributes of the destination.
    DestNames,
    /// Requests to a server.
    Requests,
    /// A limit that the user set.
    Limit,
}

impl Activity {
    /// The file system that is waited for, if one is.
    pub fn storage(self) -> Option<Storage> {
        match self {
            Activity::ReadSource | Activity::SourceNames => Some(Storage::Source),
            Activity::WriteDest | Activity::DestNames => Some(Storage::Dest),
            Activity::Computing | Activity::NoWork | Activity::Requests | Activity::Limit => None,
        }
    }

    /// All of them, in the order of their numbers.
    pub const ALL: [Activity; 8] = [
        Activity::Computing,
        Activity::NoWork,
        Activity::ReadSource,
        Activity::WriteDest,
        Activity::SourceNames,
        Activity::DestNames,
        Activity::Requests,
        Activity::Limit,
    ];
}

/// The file system that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// The source's.
    Source,
    /// The destination's.
    Dest,
}

/// A thread's byte, what it has in flight, and how often a storage has answered it.
#[derive(Debug, Default)]
pub struct Busy {
    /// The [`Activity`]'s number.
    now: AtomicU8,
    /// Operations in flight that it does not stand still for, by [`Activity`].
    afloat: [AtomicU32; Activity::ALL.len()],
    /// Answers, by [`Storage`].
    answers: [AtomicU64; 2],
}

/// What the threads of a job have from a storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Answers so far, of the threads that are there.
    pub count: u64,
    /// Threads that wait for one.
    pub waiting: usize,
}

impl Busy {
    /// Says what the thread does from now on: what it waited for until now has answered. Relaxed: a sample may miss it,
    /// and nothing depends on one.
    pub fn set(&self, activity: Activity) {
        if let Some(storage) = self.now().storage() {
            self.answers[storage as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.now.store(activity as u8, Ordering::Relaxed);
    }

    /// Says what the thread does from now on, though nothing has answered: it begins to wait, or the time is over that
    /// it waits at once.
    pub fn note(&self, activity: Activity) {
        self.now.store(activity as u8, Ordering::Relaxed);
    }

    /// What the thread does. One that waits for requests has tasks, which may wait for something else: what most of
    /// them wait for is what it waits for.
    pub fn now(&self) -> Activity {
        match self.told() {
            Activity::Requests => {
                let kinds = [Activity::Limit, Activity::ReadSource, Activity::WriteDest, Activity::Requests];
                // Of as many the last, which is the usual one.
                kinds.into_iter().max_by_key(|&kind| self.afloat(kind)).unwrap_or(Activity::Requests)
            }
            told => told,
        }
    }

    fn told(&self) -> Activity {
        Activity::ALL[usize::from(self.now.load(Ordering::Relaxed)) % Activity::ALL.len()]
    }

    /// Operations of a kind that are in flight. A task that waits in another thread's place than the one it began in
    /// takes that one's count below zero meanwhile.
    fn afloat(&self, kind: Activity) -> u32 {
        self.afloat[kind as usize].load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
    }

    /// Says how many operations of a kind are in flight.
    pub fn set_afloat(&self, kind: Activity, count: usize) {
        self.afloat[kind as usize].store(u32::try_from(count).unwrap_or(u32::MAX / 2), Ordering::Relaxed);
    }

    /// One more operation of a kind is in flight, until what comes back is dropped.
    pub fn begin(self: &Arc<Busy>, kind: Activity) -> Afloat {
        self.afloat[kind as usize].fetch_add(1, Ordering::Relaxed);
        Afloat { busy: self.clone(), kind, place: None }
    }

    /// A task that has begun [`Activity::Requests`] waits for something else, until what comes back is dropped.
    pub fn turn_to(self: &Arc<Busy>, kind: Activity) -> Afloat {
        let mut begun = self.begin(kind);
        self.afloat[Activity::Requests as usize].fetch_sub(1, Ordering::Relaxed);
        begun.place = Some(Activity::Requests);
        begun
    }

    /// Operations of storages and servers in flight, the one that the thread stands in included.
    fn in_flight(&self) -> u32 {
        let counts = |kind: &Activity| kind.storage().is_some() || *kind == Activity::Requests;
        let afloat = Activity::ALL.iter().filter(|kind| counts(kind)).map(|&kind| self.afloat(kind)).sum();
        let told = self.told();
        // What a ring or a lane waits for is afloat already.
        let is_afloat = self.afloat(told) > 0 || (told == Activity::Requests && afloat > 0);
        let stands = counts(&told) && !is_afloat;
        u32::saturating_add(afloat, stands.into())
    }
}

/// An operation in flight, as long as it is held.
#[derive(Debug)]
pub struct Afloat {
    /// Whose.
    busy: Arc<Busy>,
    /// Of which kind.
    kind: Activity,
    /// What goes on when it is over.
    place: Option<Activity>,
}

impl Drop for Afloat {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.busy.afloat[place as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.busy.afloat[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads of a job.
#[derive(Debug, Default)]
pub struct Crowd {
    /// Their bytes; those of threads that have ended are nobody else's any more.
    threads: Mutex<Vec<Arc<Busy>>>,
    /// Those of threads that help another one, which says for them what it does: only answers are counted.
    helpers: Mutex<Vec<Arc<Busy>>>,
}

impl Crowd {
    /// The byte of one more thread; given up by dropping it.
    pub fn enlist(&self) -> Arc<Busy> {
        let busy = Arc::new(Busy::default());
        let mut threads = self.threads.lock();
        threads.retain(|thread| Arc::strong_count(thread) > 1);
        threads.push(busy.clone());
        busy
    }

    /// The byte that helpers of a thread share.
    pub fn enlist_helpers(&self) -> Arc<Busy> {
        let busy = Arc::new(Busy::default());
        self.helpers.lock().push(busy.clone());
        busy
    }

    /// What they have from a storage.
    pub fn answers(&self, storage: Storage) -> Answers {
        let (threads, helpers) = (self.threads.lock(), self.helpers.lock());
        let mut answers = Answers::default();
        for busy in threads.iter().filter(|thread| Arc::strong_count(thread) > 1).chain(helpers.iter()) {
            answers.count += busy.answers[storage as usize].load(Ordering::Relaxed);
            answers.waiting += usize::from(busy.now().storage() == Some(storage));
        }
        answers
    }

    /// Operations in flight, of all of them together.
    pub fn in_flight(&self) -> u32 {
        let threads = self.threads.lock();
        let counted = threads.iter().filter(|thread| Arc::strong_count(thread) > 1).map(|thread| thread.in_flight());
        counted.fold(0, u32::saturating_add)
    }

    /// What each of them is busy with.
    pub fn look(&self) -> Vec<Activity> {
        let threads = self.threads.lock();
        threads.iter().filter(|thread| Arc::strong_count(thread) > 1).map(|thread| thread.now()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activity_is_told_as_it_was_set() {
        let busy = Busy::default();
        for activity in Activity::ALL {
            busy.set(activity);
            assert_eq!(busy.now(), activity);
        }
    }

    #[test]
    fn what_is_waited_for_has_answered_when_the_thread_goes_on() {
        let crowd = Crowd::default();
        let (thread, helpers) = (crowd.enlist(), crowd.enlist_helpers());
        thread.set(Activity::WriteDest);
        helpers.set(Activity::DestNames);
        assert_eq!(crowd.answers(Storage::Dest), Answers { count: 0, waiting: 2 });
        helpers.set(Activity::Computing);
        assert_eq!(crowd.answers(Storage::Dest), Answers { count: 1, waiting: 1 });
        assert_eq!((crowd.answers(Storage::Source), crowd.look()), (Answers::default(), vec![Activity::WriteDest]));
    }

    #[test]
    fn time_is_no_answer() {
        let crowd = Crowd::default();
        let thread = crowd.enlist();
        for _ in 0..3 {
            thread.note(Activity::WriteDest);
            assert_eq!(crowd.answers(Storage::Dest), Answers { count: 0, waiting: 1 });
        }
        thread.note(Activity::Computing);
        assert_eq!(crowd.answers(Storage::Dest), Answers::default());
    }

    #[test]
    fn a_lane_waits_for_what_most_of_its_tasks_wait_for() {
        let crowd = Crowd::default();
        let lane = crowd.enlist();
        lane.set(Activity::Requests);
        let tasks = [Activity::Requests; 3].map(|kind| lane.begin(kind));
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::Requests, 3));
        let reading = [lane.turn_to(Activity::ReadSource), lane.turn_to(Activity::ReadSource)];
        let starved = lane.turn_to(Activity::NoWork);
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::ReadSource, 2), "memory is no storage's");
        lane.set(Activity::SourceNames);
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::SourceNames, 3), "a call holds up all of them");
        lane.set(Activity::Requests);
        drop((reading, starved));
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::Requests, 3));
        drop(tasks);
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::Requests, 1), "a listing is none of its tasks");
        // Its task was begun by another lane.
        let (helped, _waits) = (lane.begin(Activity::ReadSource), lane.turn_to(Activity::NoWork));
        assert_eq!((lane.now(), crowd.in_flight()), (Activity::ReadSource, 1), "less than none is none");
        drop(helped);
    }

    #[test]
    fn what_a_ring_waits_for_is_counted_once() {
        let crowd = Crowd::default();
        let (ring, other) = (crowd.enlist(), crowd.enlist());
        ring.set_afloat(Activity::ReadSource, 12);
        ring.set_afloat(Activity::WriteDest, 3);
        ring.set(Activity::ReadSource);
        other.set(Activity::DestNames);
        assert_eq!(crowd.in_flight(), 16);
        ring.set(Activity::DestNames);
        assert_eq!(crowd.in_flight(), 17);
    }

    #[test]
    fn threads_that_have_ended_are_not_looked_at() {
        let crowd = Crowd::default();
        let (one, other) = (crowd.enlist(), crowd.enlist());
        one.set(Activity::Requests);
        assert_eq!(crowd.look(), [Activity::Requests, Activity::Computing]);
        drop(other);
        assert_eq!(crowd.look(), [Activity::Requests]);
    }
}
