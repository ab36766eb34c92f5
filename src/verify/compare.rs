//! What may differ between two objects, and which of it does. Pure.

use crate::config::Attributes;
use crate::plan::same_time;
use crate::ring::Stat;

/// One thing that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Aspect {
    /// It is not at the destination.
    Missing,
    /// It is at the destination only.
    Extra,
    /// The job that is recorded has not finished it.
    Unfinished,
    /// A file here, a directory there.
    Type,
    /// Length in bytes.
    Size,
    /// The bytes.
    Content,
    /// What a symlink says.
    Target,
    /// Numbers of a device node.
    Device,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of the last change.
    Mtime,
    /// Which names are one file.
    Links,
    /// A hole in the source is no hole at the destination.
    Holes,
    /// Extended attributes.
    Xattrs,
    /// ACLs.
    Acls,
}

impl Aspect {
    /// All of them, in the order in which they are said.
    pub const ALL: [Aspect; 15] = [
        Aspect::Missing,
        Aspect::Extra,
        Aspect::Unfinished,
        Aspect::Type,
        Aspect::Size,
        Aspect::Content,
        Aspect::Target,
        Aspect::Device,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Mtime,
        Aspect::Links,
        Aspect::Holes,
        Aspect::Xattrs,
        Aspect::Acls,
    ];

    /// Its name in all outputs.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Missing => "missing",
            Aspect::Extra => "extra",
            Aspect::Unfinished => "unfinished",
            Aspect::Type => "type",
            Aspect::Size => "size",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Mtime => "mtime",
            Aspect::Links => "links",
            Aspect::Holes => "holes",
            Aspect::Xattrs => "xattrs",
            Aspect::Acls => "acls",
        }
    }
}

/// A set of aspects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects(u16);

impl Aspects {
    /// This one only.
    pub fn only(aspect: Aspect) -> Aspects {
        Aspects(1 << aspect as u8)
    }

    /// Adds those of another set.
    pub fn extend(&mut self, other: Aspects) {
        self.0 |= other.0;
    }

    /// Adds one.
    pub fn add(&mut self, aspect: Aspect) {
        self.0 |= 1 << aspect as u8;
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub fn has(self, aspect: Aspect) -> bool {
        self.0 & 1 << aspect as u8 != 0
    }

    /// Each of them, in the order of [`Aspect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.has(*aspect))
    }
}

/// What is compared of an object's metadata, and how closely.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Whether owner and mode count.
    pub has_owner_and_mode: bool,
    /// Which attributes count beside them.
    pub attributes: Attributes,
    /// Nanoseconds by which the destination tells times apart.
    pub granularity_nanos: u32,
}

/// What differs in metadata between two objects of one type.
pub fn compare(source: &Stat, dest: &Stat, measure: &Measure) -> Aspects {
    let kind = source.mode & libc::S_IFMT;
    let mut aspects = Aspects::default();
    if kind != dest.mode & libc::S_IFMT {
        return Aspects::only(Aspect::Type);
    }
    if kind == libc::S_IFREG && source.size != dest.size {
        aspects.add(Aspect::Size);
    }
    if matches!(kind, libc::S_IFCHR | libc::S_IFBLK) && source.rdev != dest.rdev {
        aspects.add(Aspect::Device);
    }
    // A symlink's mode is no one's: the system gives it.
    if measure.has_owner_and_mode && kind != libc::S_IFLNK && source.permissions() != dest.permissions() {
        aspects.add(Aspect::Mode);
    }
    if measure.has_owner_and_mode && (source.uid, source.gid) != (dest.uid, dest.gid) {
        aspects.add(Aspect::Owner);
    }
    if !same_time(source.mtime, dest.mtime, measure.granularity_nanos) {
        aspects.add(Aspect::Mtime);
    }
    aspects
}

/// Whether bytes that are a hole in the source take room at the destination. Room is taken in pieces, and by what a
/// file system keeps beside the bytes: an eighth of the file, at least 64 KiB and at most half a MiB, is no difference.
pub fn has_filled_holes(source: &Stat, dest: &Stat) -> bool {
    let slack_bytes = (source.size / 8).clamp(64 << 10, 512 << 10);
    source.blocks * 512 < source.size && dest.blocks > source.blocks + slack_bytes / 512
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Time;

    const MEASURE: Measure = Measure { has_owner_and_mode: true, attributes: Attributes::None, granularity_nanos: 1 };

    #[test]
    fn every_aspect_is_told_by_itself() {
        let file = Stat { mode: libc::S_IFREG | 0o644, size: 7, ..Stat::default() };
        type Change = fn(&mut Stat);
        let changes: [(Aspect, Change); 5] = [
            (Aspect::Type, |stat| stat.mode = libc::S_IFDIR | 0o644),
            (Aspect::Size, |stat| stat.size = 8),
            (Aspect::Mode, |stat| stat.mode |= 0o4000),
            (Aspect::Owner, |stat| stat.gid = 1),
            (Aspect::Mtime, |stat| stat.mtime = Time { secs: 0, nanos: 1 }),
        ];
        assert!(compare(&file, &file, &MEASURE).is_empty());
        for (aspect, change) in changes {
            let mut other = file;
            change(&mut other);
            assert_eq!(compare(&file, &other, &MEASURE), Aspects::only(aspect));
        }
        let loose = Measure { has_owner_and_mode: false, granularity_nanos: 1_000_000_000, ..MEASURE };
        let other = Stat { mode: libc::S_IFREG, uid: 9, mtime: Time { secs: 0, nanos: 9 }, ..file };
        assert!(compare(&file, &other, &loose).is_empty());
    }

    #[test]
    fn a_hole_that_is_most_of_a_file_is_told() {
        let of = |size: u64, blocks: u64| Stat { mode: libc::S_IFREG, size, blocks, ..Stat::default() };
        assert!(has_filled_holes(&of(500 << 10, 0), &of(500 << 10, 1000)));
        assert!(has_filled_holes(&of(16 << 20, 8), &of(16 << 20, 8 + 1025)));
        assert!(!has_filled_holes(&of(16 << 20, 8), &of(16 << 20, 8 + 1024)));
        assert!(!has_filled_holes(&of(8 << 10, 8), &of(8 << 10, 16 + 64)));
        assert!(!has_filled_holes(&of(500 << 10, 1000), &of(500 << 10, 2000)), "no hole");
    }

    #[test]
    fn names_are_said_in_their_order() {
        let mut aspects = Aspects::only(Aspect::Mtime);
        aspects.add(Aspect::Content);
        assert_eq!(aspects.iter().map(Aspect::name).collect::<Vec<_>>(), ["content", "mtime"]);
        assert!(Aspect::ALL.iter().enumerate().all(|(index, aspect)| index == *aspect as usize));
    }
}
