//! An object that is at the destination and not yet final: what its checkpoint has to know of it.

use crate::catalog::{Checksum, Owner, Proof, Stamp};
use crate::job::Job;
use crate::links::LinkKey;
use crate::report::Count;
use crate::ring::{Name, Stat, Time};

/// A copied object, as the checkpoint needs it.
#[derive(Debug)]
pub struct Copied {
    /// The source's state that was copied.
    pub stamp: Stamp,
    /// The destination's inode ([`Job::dest_id`]).
    pub dest_ino: u64,
    /// The destination's device.
    pub dest_dev: u64,
    /// What seals it.
    pub seal: Seal,
    /// Bytes written for it and not yet counted towards a checkpoint.
    pub bytes: u64,
    /// What to count it as.
    pub count: Count,
    /// Its group if it has several names.
    pub group: Option<LinkKey>,
    /// Key of its ranges in the catalog; 0 for none.
    pub large_id: u64,
    /// Checksum of its content where one was computed.
    pub checksum: Option<Checksum>,
    /// How often it was tried.
    pub attempts: u32,
    /// Whose it is in the source, where that is known ([`crate::catalog::FileRecord::owner`]).
    pub owner: Option<Owner>,
}

impl Copied {
    /// Whether the destination held it, content and mtime, before this run.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.count, Count::Adopted | Count::Refreshed)
    }

    /// Whether what its name has now, as it was written, is still that. A user-space daemon may have given its inode
    /// another number meanwhile; its size tells most others.
    pub(crate) fn is_in(&self, job: &Job, now: &Stat) -> bool {
        let is_same = job.dest_id(now) == self.dest_ino;
        now.dev == self.dest_dev && (is_same || !job.dest.inodes.is_lasting() && now.size == self.stamp.size)
    }

    /// What its checksum proves, to be counted; nothing if that was proved by an earlier pass.
    pub(crate) fn proved(&self) -> Option<Count> {
        let checksum = self.checksum.filter(|_| self.count != Count::Refreshed)?;
        Some(match checksum.proof {
            Proof::Server => Count::ProvedByServer,
            Proof::ReadBack => Count::ProvedByReading,
            Proof::Length => Count::ProvedByLength,
            Proof::Written => Count::ChecksumsKept,
        })
    }

    /// The name it was written under; `name` is the one it gets.
    pub(crate) fn written_name<'a>(&'a self, name: &'a Name) -> &'a Name {
        match &self.seal {
            Seal::Rename { temp, .. } => temp,
            Seal::Times { .. } | Seal::None => name,
        }
    }
}

/// What makes a copied object final, once its data is durable (I2).
#[derive(Debug)]
pub enum Seal {
    /// Set these times on the name.
    Times {
        /// The source's atime.
        atime: Time,
        /// The source's mtime: the seal.
        mtime: Time,
    },
    /// Set these times on the temporary name, then rename it.
    Rename {
        /// The temporary name.
        temp: Name,
        /// The source's atime.
        atime: Time,
        /// The source's mtime: the seal.
        mtime: Time,
    },
    /// Nothing: symlinks and device nodes are complete as they are made.
    None,
}
