//! What each thread of a job is busy with at this moment: one byte a thread, stored before and after whatever may take
//! long, and looked at a few times a second by whoever asks what limits the job (limits.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

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

/// A thread's byte.
#[derive(Debug, Default)]
pub struct Busy {
    /// The [`Activity`]'s number.
    now: AtomicU8,
}

impl Busy {
    /// Says what the thread does from now on. One relaxed store: a sample may miss it, and nothing depends on one.
    pub fn set(&self, activity: Activity) {
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
    fn threads_that_have_ended_are_not_looked_at() {
        let crowd = Crowd::default();
        let (one, other) = (crowd.enlist(), crowd.enlist());
        one.set(Activity::Requests);
        assert_eq!(crowd.look(), [Activity::Requests, Activity::Computing]);
        drop(other);
        assert_eq!(crowd.look(), [Activity::Requests]);
    }
}
