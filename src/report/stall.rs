//! Storage that has stopped answering: threads wait for it, and none gets an answer. Pure; told the time.

use std::time::{Duration, Instant};

use super::activity::Answers;

/// Watches one storage.
#[derive(Clone, Debug)]
pub struct Stall {
    /// How long it may be silent.
    patience: Duration,
    /// What was seen last.
    seen: Answers,
    /// Since when threads wait without an answer.
    since: Option<Instant>,
    /// The silence that is told next.
    due: Duration,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has been silent for so long.
    Silent(Duration),
    /// It answers again, after it was silent for so long.
    Answers(Duration),
}

impl Stall {
    /// Silent for no longer than `patience`.
    pub fn new(patience: Duration) -> Stall {
        Stall { patience, seen: Answers::default(), since: None, due: patience }
    }

    /// Looks at it. A silence is told when it has lasted as long as it may, and each time it has doubled.
    pub fn look(&mut self, now: Instant, answers: Answers) -> Option<Told> {
        let is_moving = answers.count != self.seen.count || answers.waiting == 0;
        self.seen = answers;
        if is_moving {
            let silent = self.silence(now);
            (self.since, self.due) = ((answers.waiting > 0).then_some(now), self.patience);
            return silent.map(Told::Answers);
        }
        let silent = now.saturating_duration_since(*self.since.get_or_insert(now));
        if silent < self.due {
            return None;
        }
        self.due = silent * 2;
        Some(Told::Silent(silent))
    }

    /// How long it is silent, if that is longer than it may be.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.since?);
        (silent >= self.patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_in_time_and_each_time_it_has_doubled() {
        let (start, mut stall) = (Instant::now(), Stall::new(Duration::from_secs(30)));
        let mut look = |secs, count, waiting| stall.look(start + Duration::from_secs(secs), Answers { count, waiting });
        assert_eq!((look(0, 5, 2), look(20, 6, 2), look(49, 6, 2)), (None, None, None));
        assert_eq!(look(50, 6, 2), Some(Told::Silent(Duration::from_secs(30))));
        assert_eq!((look(60, 6, 2), look(79, 6, 3)), (None, None));
        assert_eq!(look(80, 6, 2), Some(Told::Silent(Duration::from_secs(60))));
        assert_eq!(look(120, 7, 2), Some(Told::Answers(Duration::from_secs(100))));
        // Nobody waits: there is nothing to answer.
        assert_eq!((look(130, 7, 0), look(300, 7, 0), look(301, 7, 1), look(330, 7, 1)), (None, None, None, None));
        assert_eq!(look(331, 7, 1), Some(Told::Silent(Duration::from_secs(30))));
    }
}
