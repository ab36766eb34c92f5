//! Extended attributes and ACLs of both sides, compared where they are asked for.

use super::audit::Audit;
use super::compare::{Aspect, Aspects, compare};
use crate::config::Attributes;
use crate::provider::posix::Posix;
use crate::provider::xattrs::{self, Failed, Thing};
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::walk::{DirNode, DirPair};

impl Audit {
    /// What tells two objects apart by their descriptions. A copy without the ACL of its source may give the group less
    /// than the source's mode shows.
    pub(super) fn compare_stats(
        &self,
        caller: &dyn Caller,
        (at, name): (&Handle, &Name),
        source: &Stat,
        dest: &Stat,
    ) -> Aspects {
        let aspects = compare(source, dest, &self.measure);
        if !aspects.has(Aspect::Mode) || self.measure.attributes.has_acls() || self.has_device() {
            return aspects;
        }
        let thing = Thing::named(Posix::new(caller, Side::Source), at, name);
        xattrs::without_acl(thing, *source).map_or(aspects, |shown| compare(&shown, dest, &self.measure))
    }

    /// What two objects of one type do not share; what cannot be compared is said.
    pub(super) fn compare_attributes(
        &self,
        caller: &dyn Caller,
        (dir, open): (&DirNode, &DirPair),
        name: &Name,
        kind: Kind,
    ) -> Aspects {
        let mut aspects = Aspects::default();
        if self.measure.attributes == Attributes::None {
            return aspects;
        }
        let source = Thing::named(Posix::new(caller, Side::Source), &open.source, name);
        let dest_name = if name.is_empty() { name } else { self.dest_name(dir, name) };
        let dest = Thing::named(Posix::new(caller, Side::Dest), &open.dest, dest_name);
        match xattrs::compare(source, dest, kind, self.measure.attributes) {
            Ok(difference) => {
                let found = [(difference.xattrs, Aspect::Xattrs), (difference.acls, Aspect::Acls)];
                found.into_iter().filter(|(differs, _)| *differs).for_each(|(_, aspect)| aspects.add(aspect));
            }
            Err(Failed::Source(errno)) => self.fail(Side::Source, dir, name, "read the attributes of", errno),
            Err(Failed::Dest(errno)) => self.fail(Side::Dest, dir, name, "read the attributes of", errno),
        }
        aspects
    }
}
