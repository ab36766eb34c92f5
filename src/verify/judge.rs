//! What differs in what the two sides of such a comparison tell of an object.

use super::compare::{Aspect, Aspects, Measure};
use super::ends::Seen;
use crate::config::Attributes;
use crate::plan::same_time;
use crate::provider::xattrs::{self, Trust};
use crate::ring::Kind;

/// What differs in what both sides know, besides content and links.
pub(super) fn compare(source: &Seen, dest: &Seen, measure: &Measure, has_special_bits: bool) -> Aspects {
    let mut aspects = Aspects::default();
    if let Some(broken) = source.broken.or(dest.broken) {
        return Aspects::only(broken);
    }
    if source.kind.zip(dest.kind).is_some_and(|(a, b)| a != b)
        || (source.kind.is_none() && dest.kind == Some(Kind::Dir))
    {
        return Aspects::only(Aspect::Type);
    }
    let mask = if has_special_bits { 0o7777 } else { 0o1777 };
    let mut note = |is_different: bool, aspect| {
        if is_different {
            aspects.add(aspect);
        }
    };
    note(differ(source.size, dest.size), Aspect::Size);
    note(differ(source.rdev, dest.rdev), Aspect::Device);
    if measure.has_owner_and_mode {
        let is_other = |mode: Option<u32>| differ(mode.map(|mode| mode & mask), dest.mode.map(|mode| mode & mask));
        let is_bare = source.bare_mode.is_some_and(|mode| !is_other(Some(mode)));
        note(is_other(source.mode) && !is_bare, Aspect::Mode);
        note(differ(source.owner, dest.owner), Aspect::Owner);
    }
    let is_moved = source.mtime.zip(dest.mtime).is_some_and(|(a, b)| !same_time(a, b, measure.granularity_nanos));
    note(is_moved, Aspect::Mtime);
    aspects.extend(compare_attributes(source, dest, measure.attributes, has_special_bits));
    aspects
}

/// What differs in attributes, where the source's are known: a directory that has no object of its own has none, and a
/// device's are nobody's business.
fn compare_attributes(source: &Seen, dest: &Seen, wanted: Attributes, has_special_bits: bool) -> Aspects {
    let mut aspects = Aspects::default();
    let none = (dest.kind == Some(Kind::Dir)).then(Vec::new);
    let both = source.told.as_ref().zip(dest.told.as_ref().or(none.as_ref()));
    let Some((from, to)) = both.filter(|_| wanted != Attributes::None) else { return aspects };
    // What comes out of a bucket is not believed to privilege anything.
    let trust = if has_special_bits { Trust::Full } else { Trust::UserOnly };
    let difference = xattrs::compare_told(from, to, wanted, trust);
    let found = [(difference.xattrs, Aspect::Xattrs), (difference.acls, Aspect::Acls)];
    found.into_iter().filter(|(differs, _)| *differs).for_each(|(_, aspect)| aspects.add(aspect));
    aspects.extend(source.excess);
    aspects.extend(dest.excess);
    aspects
}

/// Whether both are known, and not the same.
fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}
