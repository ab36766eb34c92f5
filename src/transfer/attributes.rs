//! What an object is given before its seal: owner, mode, then extended attributes and ACLs (I9).
//!
//! The source is asked for its attributes by name, as the copy gets them, and described once more behind that: ctime
//! tells whether they were changed meanwhile, and then the object is copied again (I8).

use super::{Work, restat_source, source_error};
use crate::config::{Attributes, SpecialBits};
use crate::error::Result;
use crate::job::Job;
use crate::provider::metadata;
use crate::provider::posix::Posix;
use crate::provider::xattrs::{self, Failed, Made, Origin, Target, Thing, Trust};
use crate::report::{Loss, LossSet};
use crate::ring::{Caller, Handle, Name, Side, Stat};

/// What an object's owner and mode have come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// The permission bits it has now.
    pub permissions: u32,
    /// Whether it may be as privileged as its source.
    pub trust: Trust,
}

impl Kept {
    /// What is left after these losses of owner and mode.
    pub(super) fn after(losses: LossSet, source: &Stat) -> Kept {
        match losses.has(Loss::Owner) {
            false => Kept { permissions: source.permissions(), trust: Trust::Full },
            true => Kept { permissions: source.permissions() & !0o6000, trust: Trust::NoCapabilities },
        }
    }
}

/// Says so if the source's root has attributes that are not asked for: nobody looks at those of what lies below it. A
/// user-space daemon is not asked what nobody wants to know: smbnetfs 0.6.3 answers nothing for 6 s after a listxattr.
/// Of a device the content is copied, and nothing of its node.
pub(crate) fn note_unasked(job: &Job, caller: &dyn Caller) {
    if job.source.bucket.is_some() || job.source.device.is_some() || !job.source.inodes.is_lasting() {
        return;
    }
    let none = Name::default();
    let name = job.single.as_ref().map_or(&none, |(name, _)| name);
    let found = xattrs::found(Thing::named(Posix::new(caller, Side::Source), &job.source.handle, name));
    let kept = job.config.attributes;
    for (is_there, is_kept, what, option) in [
        (found.has_xattrs(), kept.has_xattrs(), "extended attributes", "--xattrs"),
        (found.has_acls(), kept.has_acls(), "an ACL", "--acls"),
    ] {
        if is_there && !is_kept {
            job.console.note(&format!("gfast: the source has {what}, and no such thing is kept without {option}"));
        }
    }
}

impl Work<'_> {
    /// Owner and mode of an open object that `now` describes.
    pub(super) fn keep_metadata(&self, file: &Handle, now: &Stat) -> Result<Kept> {
        if !self.keeps_metadata() {
            return Ok(Kept { permissions: now.permissions(), trust: Trust::NoCapabilities });
        }
        let losses = metadata::keep_owner_and_mode(&self.dest(), file, self.stat, now, self.job.dest_reach())
            .map_err(|errno| self.error("set owner and mode of", errno))?;
        losses.iter().try_for_each(|loss| self.job.lose(self.place, loss))?;
        Ok(Kept::after(losses, self.stat))
    }

    /// Extended attributes and ACLs of an open object, as far as they are asked for.
    pub(super) fn keep_attributes_of(&self, file: &Handle, kept: Kept, made: Made) -> Result<()> {
        if self.job.config.attributes == Attributes::None {
            return Ok(());
        }
        let none = Name::default();
        self.keep_attributes(Thing::open(self.dest(), file, &none), kept, made)
    }

    /// The same of a name, itself if it is a symlink.
    pub(super) fn keep_attributes_at(&self, name: &Name, kept: Kept, made: Made) -> Result<()> {
        if self.job.config.attributes == Attributes::None {
            return Ok(());
        }
        self.keep_attributes(Thing::named(self.dest(), self.dest_dir(), name), kept, made)
    }

    fn keep_attributes(&self, thing: Thing<'_>, kept: Kept, made: Made) -> Result<()> {
        // Nothing of a device's node is kept.
        if self.job.device(Side::Source).is_some() {
            return Ok(());
        }
        let origin = match self.told {
            Some(told) => Origin::Told(told),
            None => Origin::Object(Thing::named(self.source(), &self.place.open.source, &self.place.name)),
        };
        let trust = match (self.told, self.job.config.special_bits) {
            (Some(_), SpecialBits::Leave) => Trust::UserOnly,
            _ => kept.trust,
        };
        let target = Target { thing, kind: self.stat.kind(), permissions: kept.permissions, made, trust };
        let losses = xattrs::keep(origin, &target, self.job.config.attributes).map_err(|failed| match failed {
            Failed::Source(errno) => source_error(self.job, self.place, "read the attributes of", errno),
            Failed::Dest(errno) => self.error("set the attributes of", errno),
        })?;
        losses.iter().try_for_each(|loss| self.job.lose(self.place, loss))?;
        match self.told {
            Some(_) => Ok(()),
            None => match restat_source(self.job, self.caller, self.place)? {
                after if self.stat.is_unchanged_in(&after) => Ok(()),
                _ => Err(self.unstable(1)),
            },
        }
    }
}
