//! Names under which things are made before they get their own, and which of them this run still needs.
//!
//! ```text
//! .gfast-JJJJJJJJ-HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH    JJJJJJJJ  low half of the job's random id, to know it by
//!                                                     H...      128 bits of SHA-256 over the whole id and the name
//! .gfast-JJJJJJJJ-HHHHHHHHHHHHHHHH                    as older versions had it (FNV-1a): only ever removed
//! ```
//! One name is the same in every run of the job, so that a resume finds and replaces what was left. Nothing that a
//! crash could change goes in, such as the directory's number. Two names never have one: FNV-1a, which anybody can make
//! clash, gave one file the content of another. What a run has made itself, and not yet renamed, it never removes to
//! make room (I2). What older versions left is not taken up either: it may be another file's.

use std::collections::HashSet;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::catalog::DirId;
use crate::provider::posix::Posix;
use crate::ring::{Handle, Name};

/// The temporary names of a job.
#[derive(Debug)]
pub struct Temporaries {
    /// The job's random id.
    job_id: u64,
    /// Those that this run has made something under and still needs: as many as there are objects in flight, or that
    /// wait for a checkpoint (I4).
    held: Mutex<HashSet<(DirId, Name)>>,
}

impl Temporaries {
    /// Those of the job of this id; none is held.
    pub fn new(job_id: u64) -> Temporaries {
        Temporaries { job_id, held: Mutex::default() }
    }

    /// The one that stands for `name`, in whichever directory. Short, so that a 255-byte name has one too.
    pub fn of(&self, name: &Name) -> Name {
        self.of_bytes(name.as_bytes())
    }

    /// What a thing is called on its way from another name of its to this one.
    pub fn between(&self, dir: DirId, name: &Name) -> Name {
        let temp = self.of(name);
        // No name has the other one, for no name holds a slash.
        if self.is_held(dir, &temp) { self.of_bytes(&[b"/", name.as_bytes()].concat()) } else { temp }
    }

    /// What the destination is tried under where its kind does not tell what it does. No name's either.
    pub fn probe(&self) -> Name {
        self.of_bytes(b"/probe")
    }

    /// A directory in which the destination is shown a name, to see what it makes of it. No name's either.
    pub fn trial(&self) -> Name {
        self.of_bytes(b"/trial")
    }

    /// Removes what an interrupted run may have left of `name`, and this one does not need. Best effort.
    pub fn remove_leftovers(&self, dest: &Posix, (at, dir): (&Handle, DirId), name: &Name) {
        let temp = self.of(name);
        if !self.is_held(dir, &temp) {
            let _ = dest.unlink(at, &temp);
        }
        let _ = dest.unlink(at, &self.former_of(name));
    }

    /// What an older version left of `name`.
    pub fn former_of(&self, name: &Name) -> Name {
        self.former(name.as_bytes())
    }

    /// What an older version tried the destination under.
    pub fn former_probe(&self) -> Name {
        self.former(b"/probe")
    }

    /// Something is about to be made under a temporary name, or was found there: false if this run has made something
    /// there already.
    #[must_use]
    pub fn hold(&self, dir: DirId, temp: &Name) -> bool {
        self.held.lock().insert((dir, temp.clone()))
    }

    /// Whether this run needs what is there.
    pub fn is_held(&self, dir: DirId, temp: &Name) -> bool {
        self.held.lock().contains(&(dir, temp.clone()))
    }

    /// It has its own name now, or is not needed any more.
    pub fn release(&self, dir: DirId, temp: &Name) {
        self.held.lock().remove(&(dir, temp.clone()));
    }

    fn of_bytes(&self, bytes: &[u8]) -> Name {
        let digest = Sha256::new().chain_update(self.job_id.to_le_bytes()).chain_update(bytes).finalize();
        let hash = digest[..16].iter().fold(0, |hash: u128, byte| hash << 8 | u128::from(*byte));
        self.tagged(&format!("{hash:032x}"))
    }

    fn former(&self, bytes: &[u8]) -> Name {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
        self.tagged(&format!("{hash:016x}"))
    }

    fn tagged(&self, hash: &str) -> Name {
        Name::new(format!(".gfast-{:08x}-{hash}", self.job_id as u32)).expect("I8: hexadecimal digits hold no NUL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_in_each_job() {
        let (one, other) = (Temporaries::new(0x1234_5678_9abc_def0), Temporaries::new(0x1234_5679_9abc_def0));
        let clash = [c"8yn0iYCKYHlIj4-BwPqk".to_owned(), c"GReLUrM4wMqfg9yzV3KQ".to_owned()];
        assert_eq!(one.former_of(&clash[0]), one.former_of(&clash[1]), "they are known for it");
        assert_ne!(one.of(&clash[0]), one.of(&clash[1]));
        assert_ne!(one.of(&clash[0]), other.of(&clash[0]), "the whole id goes in");
        assert_eq!(one.of(&c"a".to_owned()).as_bytes().len(), b".gfast-9abcdef0-".len() + 32);
        assert_ne!(one.probe(), one.of(&c"probe".to_owned()));
    }

    #[test]
    fn what_is_held_is_held_once_until_it_is_released() {
        let temporaries = Temporaries::new(7);
        let temp = temporaries.of(&c"name".to_owned());
        assert!(temporaries.hold(DirId(1), &temp) && !temporaries.hold(DirId(1), &temp));
        assert!(temporaries.hold(DirId(2), &temp), "another directory's");
        let name = c"name".to_owned();
        assert_ne!(temporaries.between(DirId(1), &name), temp, "it would be renamed over");
        assert_eq!(temporaries.between(DirId(3), &name), temp);
        temporaries.release(DirId(1), &temp);
        assert!(!temporaries.is_held(DirId(1), &temp) && temporaries.is_held(DirId(2), &temp));
    }
}
