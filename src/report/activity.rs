//! What each thread of a job is busy with at this moment: one byte a thread, stored before and after whatever may take
//! long, and looked at a few times a second by whoever asks what limits the job (limits.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

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

/// A thread's byte, and how often a storage has answered it.
#[derive(Debug, Default)]
pub struct Busy {
    /// The [`Activity`]'s number.
    now: AtomicU8,
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

    /// What the thread does.
    pub fn now(&self) -> Activity {
        Activity::ALL[usize::from(self.now.load(Ordering::Relaxed)) % Activity::ALL.len()]
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
    fn threads_that_have_ended_are_not_looked_at() {
        let crowd = Crowd::default();
        let (one, other) = (crowd.enlist(), crowd.enlist());
        one.set(Activity::Requests);
        assert_eq!(crowd.look(), [Activity::Requests, Activity::Computing]);
        drop(other);
        assert_eq!(crowd.look(), [Activity::Requests]);
    }
}
