//! The watch over both storages of a run: says so when one has stopped answering, and when it answers again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::activity::{Crowd, Storage};
use super::console::Console;
use super::stall::{Stall, Told};
use crate::error::escape;

/// Time between two looks of a [`Lookout`].
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Looks whether storages answer, when it is told to.
pub struct Vigil {
    /// Where it is said.
    console: Arc<Console>,
    /// Who waits for them.
    crowd: Arc<Crowd>,
    /// What they are called, and how long they have been silent.
    watched: Mutex<[(Storage, String, Stall); 2]>,
}

impl Vigil {
    /// Over source and destination, by these names; each may be silent for no longer than `patience`.
    pub fn new(console: Arc<Console>, crowd: Arc<Crowd>, patience: Duration, (source, dest): (&[u8], &[u8])) -> Vigil {
        let watched = [(Storage::Source, source), (Storage::Dest, dest)];
        let watched = watched.map(|(storage, name)| (storage, escape(name), Stall::new(patience)));
        Vigil { console, crowd, watched: Mutex::new(watched) }
    }

    /// Looks at both.
    pub fn look(&self, now: Instant) {
        for (storage, name, stall) in self.watched.lock().iter_mut() {
            match stall.look(now, self.crowd.answers(*storage)) {
                None => {}
                Some(Told::Silent(silent)) => {
                    self.console.note(&format!("gfast: no progress on {name} for {} s", silent.as_secs()));
                }
                Some(Told::Answers(silent)) => {
                    self.console.note(&format!("gfast: {name} answers again, after {} s", silent.as_secs()));
                }
            }
        }
    }

    /// Who has been silent for longer than it may be, and for how long.
    pub fn silences(&self, now: Instant) -> Vec<(String, Duration)> {
        let watched = self.watched.lock();
        watched.iter().filter_map(|(_, name, stall)| Some((name.clone(), stall.silence(now)?))).collect()
    }
}

/// A thread that looks, as long as it is held: for work whose own threads may all stand in a question that is not
/// answered.
pub struct Lookout {
    /// Whether it is to end.
    is_over: Arc<AtomicBool>,
    /// The thread; without one nobody looks, and nothing else changes.
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    /// Begins to look.
    pub fn start(vigil: Vigil) -> Lookout {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = is_over.clone();
        let look = move || {
            while !seen.load(Ordering::Acquire) {
                vigil.look(Instant::now());
                std::thread::park_timeout(LOOK_INTERVAL);
            }
            // Whoever was told of a silence is told of its end.
            vigil.look(Instant::now());
        };
        let thread = std::thread::Builder::new().name("lookout".to_owned()).spawn(look).ok();
        Lookout { is_over, thread }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panics has ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::Activity;
    use super::super::console::{Screen, tests::Kept};
    use super::*;

    #[test]
    fn who_is_waited_for_is_named() {
        let (kept, crowd, start) = (Kept::default(), Arc::new(Crowd::default()), Instant::now());
        let console = Arc::new(Console::new(Screen::Log, Box::new(kept.clone())));
        let vigil = Vigil::new(console, crowd.clone(), Duration::from_secs(30), (b"/a", b"/b\xff"));
        let busy = crowd.enlist();
        busy.set(Activity::DestNames);
        [0, 29, 31].iter().for_each(|&secs| vigil.look(start + Duration::from_secs(secs)));
        let now = start + Duration::from_secs(32);
        assert_eq!(vigil.silences(now), [("/b\\xff".to_owned(), Duration::from_secs(32))]);
        busy.set(Activity::Computing);
        vigil.look(now);
        let said = "gfast: no progress on /b\\xff for 31 s\ngfast: /b\\xff answers again, after 32 s\n";
        assert_eq!(kept.text(), said);
    }
}
