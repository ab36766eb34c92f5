//! Extended attributes and POSIX ACLs: which of them are kept, in which order, and what becomes of those that a
//! destination cannot hold.
//!
//! ```text
//! --xattrs  user.* trusted.* security.*        set where they differ; removed where the source has none of that name
//! --acls    system.posix_acl_access, _default  last: an ACL may forbid what comes before it, and the default ACL of a
//!                                              directory would be inherited by what is created in it (I9)
//! ```
//! They come after owner and mode, and before the seal. The kernel drops a file's capabilities when it is written to or
//! gets another owner, so they are safe from here on. One value at a time is in memory, of 64 KiB at most (I4). The
//! model is `rsync -X -A`; what the system gives its files by itself (labels, measurements) is set where the source has
//! it and never removed. The ACLs of NFSv4 and SMB are none of these, and cannot be kept: where a source that knows no
//! POSIX ACLs has one that says more than the mode, that is a loss.

use std::ffi::CStr;

use crate::config::Attributes;
use crate::error::Errno;
use crate::provider::posix::{Posix, Verb};
use crate::report::{Loss, LossSet};
use crate::ring::{Handle, Kind, Name, Stat};

/// The ACL that decides about access.
pub const ACCESS: &CStr = c"system.posix_acl_access";
/// The ACL that a directory hands on.
pub const DEFAULT: &CStr = c"system.posix_acl_default";
/// The ACL of an object on an NFSv4 mount (fs/nfs/nfs4proc.c), and on an SMB mount (fs/smb/client/xattr.c).
const NFS4: &CStr = c"system.nfs4_acl";
const SMB: &CStr = c"system.cifs_acl";
/// What makes a program privileged.
const CAPABILITY: &CStr = c"security.capability";

/// Most bytes of all attributes of an object that are in memory together.
const READ_BYTES_MAX: usize = 64 << 10;

/// One object whose attributes are asked for or set.
#[derive(Clone, Copy)]
pub struct Thing<'a> {
    /// Its side.
    posix: Posix<'a>,
    /// A directory, or the object itself if `name` is empty.
    at: &'a Handle,
    /// Its name in the directory.
    name: &'a Name,
}

/// Attributes and their values.
pub type Told = Vec<(Name, Vec<u8>)>;

/// Where the attributes of a copy come from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// The object that was copied.
    Object(Thing<'a>),
    /// What was told of it.
    Told(&'a [(Name, Vec<u8>)]),
}

/// Whether a copy may have attributes already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was created just now: none but what the system gave it.
    New,
    /// It was there.
    Before,
}

/// How far an origin is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As far as the user who runs this is.
    Full,
    /// The copy has another owner or mode than its source: it may not be privileged as its source was (I9).
    NoCapabilities,
    /// Whoever may write to a bucket has made it up: nothing that the system itself believes.
    UserOnly,
}

/// The copy that gets attributes.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The object.
    pub thing: Thing<'a>,
    /// What it is.
    pub kind: Kind,
    /// The permission bits it has by now.
    pub permissions: u32,
    /// Whether it may have any already.
    pub made: Made,
    /// How far the origin is trusted.
    pub trust: Trust,
}

/// Why attributes could not be kept, where it is no loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The source could not be asked.
    Source(Errno),
    /// The destination could not be asked, or is full.
    Dest(Errno),
}

/// What differs between two objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Whether extended attributes do.
    pub xattrs: bool,
    /// Whether ACLs do.
    pub acls: bool,
}

impl<'a> Thing<'a> {
    /// An open object: `none` is an empty name.
    pub fn open(posix: Posix<'a>, object: &'a Handle, none: &'a Name) -> Thing<'a> {
        debug_assert!(none.is_empty(), "an open object needs no name");
        Thing { posix, at: object, name: none }
    }

    /// A name, itself if it is a symlink.
    pub fn named(posix: Posix<'a>, at: &'a Handle, name: &'a Name) -> Thing<'a> {
        Thing { posix, at, name }
    }

    /// The names of its attributes; none where there is no such thing.
    fn keys(&self) -> Verb<Vec<u8>> {
        match self.posix.list_xattrs(self.at, self.name) {
            Err(errno) if is_unknown(errno) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// The value of an attribute, if it has it.
    fn value(&self, key: &Name) -> Verb<Option<Vec<u8>>> {
        match self.posix.xattr(self.at, self.name, key) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) if is_unknown(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The ACL that decides about access; whether it is one of another kind, which says more than the mode.
    fn access(&self) -> Verb<(Option<Vec<u8>>, bool)> {
        match self.posix.xattr(self.at, self.name, &ACCESS.to_owned()) {
            Ok(acl) => Ok((Some(acl), false)),
            Err(Errno::NODATA) => Ok((None, false)),
            Err(errno) if is_unknown(errno) => {
                let is_other = match self.value(&NFS4.to_owned())? {
                    Some(acl) => !is_like_mode(&acl),
                    None => self.value(&SMB.to_owned())?.is_some_and(|acl| !acl.is_empty()),
                };
                Ok((None, is_other))
            }
            Err(errno) => Err(errno),
        }
    }

    fn set_mode(&self, permissions: u32) -> Verb<()> {
        match self.name.is_empty() {
            true => self.posix.set_mode(self.at, permissions),
            false => self.posix.set_mode_at(self.at, self.name, permissions),
        }
    }
}

impl Origin<'_> {
    fn keys(&self) -> Result<Vec<u8>, Failed> {
        match self {
            Origin::Object(thing) => thing.keys().map_err(Failed::Source),
            Origin::Told(told) => Ok(told.iter().flat_map(|(key, _)| key.to_bytes_with_nul()).copied().collect()),
        }
    }

    fn value(&self, key: &Name) -> Result<Option<Vec<u8>>, Failed> {
        match self {
            Origin::Object(thing) => thing.value(key).map_err(Failed::Source),
            Origin::Told(told) => Ok(told.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())),
        }
    }
}

impl Origin<'_> {
    /// As [`Thing::access`].
    fn access(&self) -> Result<(Option<Vec<u8>>, bool), Failed> {
        match self {
            Origin::Object(thing) => thing.access().map_err(Failed::Source),
            Origin::Told(_) => Ok((self.value(&ACCESS.to_owned())?, false)),
        }
    }
}

/// Gives a copy the attributes of its origin that are `wanted`; what it cannot hold comes back.
pub fn keep(origin: Origin<'_>, target: &Target<'_>, wanted: Attributes) -> Result<LossSet, Failed> {
    let mut losses = LossSet::default();
    if wanted.has_xattrs() {
        target.keep_xattrs(origin, &mut losses)?;
    }
    if wanted.has_acls() && target.kind != Kind::Symlink {
        let (access, is_other) = origin.access()?;
        target.keep_acl(access, ACCESS, &mut losses)?;
        if is_other {
            losses.add(Loss::Acl);
        }
        if target.kind == Kind::Dir {
            target.keep_acl(origin.value(&DEFAULT.to_owned())?, DEFAULT, &mut losses)?;
        }
    }
    Ok(losses)
}

impl Target<'_> {
    fn keep_xattrs(&self, origin: Origin<'_>, losses: &mut LossSet) -> Result<(), Failed> {
        let wanted = origin.keys()?;
        let there = match self.made {
            Made::New => Vec::new(),
            Made::Before => self.thing.keys().map_err(Failed::Dest)?,
        };
        for key in names(&wanted).filter(|key| travels(key)) {
            // Gone since it was listed: the source has changed, which is found out later.
            let Some(value) = origin.value(&key)? else { continue };
            let has_it = has(&there, &key) && self.thing.value(&key).map_err(Failed::Dest)?.as_ref() == Some(&value);
            if has_it {
                continue;
            }
            if !self.trust.allows(&key) {
                losses.add(loss_of(&key));
                continue;
            }
            self.lose_or_fail(self.change(&key, Some(&value)), &key, losses)?;
        }
        for key in names(&there).filter(|key| is_removable(key) && !has(&wanted, key)) {
            match self.change(&key, None) {
                Err(Errno::NODATA) => {}
                removed => self.lose_or_fail(removed, &key, losses)?,
            }
        }
        Ok(())
    }

    fn keep_acl(&self, wanted: Option<Vec<u8>>, key: &CStr, losses: &mut LossSet) -> Result<(), Failed> {
        let key = key.to_owned();
        let there = match self.made {
            Made::New => None,
            Made::Before => self.thing.value(&key).map_err(Failed::Dest)?,
        };
        if wanted == there {
            return Ok(());
        }
        let changed = self.change(&key, wanted.as_deref());
        let is_lost = changed.is_err();
        self.lose_or_fail(changed, &key, losses)?;
        match wanted.filter(|_| is_lost && *key == *ACCESS).and_then(|acl| owning_group(&acl)) {
            // I9: the mode shows the mask where the group stands; without the ACL the group would have all of it.
            Some(group) => {
                let narrow = (self.permissions & !0o070) | (self.permissions & 0o070 & group << 3);
                self.thing.set_mode(narrow).map_err(Failed::Dest)
            }
            None => Ok(()),
        }
    }

    /// Sets or removes an attribute. Those of users need the right to write, which a file's mode may withhold from its
    /// own owner.
    fn change(&self, key: &Name, value: Option<&[u8]>) -> Verb<()> {
        let Thing { posix, at, name } = self.thing;
        let change = || match value {
            Some(value) => posix.set_xattr(at, name, key, value),
            None => posix.remove_xattr(at, name, key),
        };
        match change() {
            Err(Errno::ACCESS) if self.permissions & 0o200 == 0 && self.kind != Kind::Symlink => {
                self.thing.set_mode(self.permissions | 0o200)?;
                let changed = change();
                self.thing.set_mode(self.permissions)?;
                changed
            }
            changed => changed,
        }
    }

    /// What a destination cannot hold, or this user may not set, is a loss. Only a full one is not: there is no room
    /// for anything else either.
    fn lose_or_fail(&self, changed: Verb<()>, key: &CStr, losses: &mut LossSet) -> Result<(), Failed> {
        let Err(errno) = changed else { return Ok(()) };
        let is_loss = match errno {
            Errno::NOSPC => self.thing.posix.has_room(self.thing.at).map_err(Failed::Dest)?,
            errno => {
                let refused = [Errno::PERM, Errno::ACCESS, Errno::TOOBIG, Errno::INVAL, Errno::RANGE];
                is_unknown(errno) || refused.contains(&errno) || errno == Errno::NAMETOOLONG
            }
        };
        if !is_loss {
            return Err(Failed::Dest(errno));
        }
        losses.add(loss_of(key));
        Ok(())
    }
}

impl Trust {
    fn allows(self, key: &CStr) -> bool {
        match self {
            Trust::Full => true,
            Trust::NoCapabilities => key != CAPABILITY,
            Trust::UserOnly => key.to_bytes().starts_with(b"user."),
        }
    }
}

/// What of the attributes that are `wanted` a source and its copy do not share.
pub fn compare(source: Thing<'_>, dest: Thing<'_>, kind: Kind, wanted: Attributes) -> Result<Difference, Failed> {
    let mut difference = Difference::default();
    let differs = |key: &Name| {
        let (source, dest) = (source.value(key).map_err(Failed::Source)?, dest.value(key).map_err(Failed::Dest)?);
        Ok(source != dest)
    };
    if wanted.has_xattrs() {
        let (wanted, there) = (source.keys().map_err(Failed::Source)?, dest.keys().map_err(Failed::Dest)?);
        difference.xattrs = names(&there).any(|key| is_removable(&key) && !has(&wanted, &key));
        for key in names(&wanted).filter(|key| travels(key)) {
            difference.xattrs = difference.xattrs || differs(&key)?;
        }
    }
    if wanted.has_acls() && kind != Kind::Symlink {
        difference.acls = differs(&ACCESS.to_owned())? || (kind == Kind::Dir && differs(&DEFAULT.to_owned())?);
    }
    Ok(difference)
}

/// The same of what was told of either. A source that is not trusted is not missed where it is not believed.
pub fn compare_told(
    source: &[(Name, Vec<u8>)],
    dest: &[(Name, Vec<u8>)],
    wanted: Attributes,
    trust: Trust,
) -> Difference {
    let value = |told: &[(Name, Vec<u8>)], key: &CStr| {
        told.iter().find(|(there, _)| **there == *key).map(|(_, value)| value.clone())
    };
    let is_missed =
        |key: &Name, wanted: &Vec<u8>| travels(key) && trust.allows(key) && value(dest, key).as_ref() != Some(wanted);
    let is_extra = |key: &Name| is_removable(key) && value(source, key).is_none();
    let xattrs = source.iter().any(|(key, value)| is_missed(key, value)) || dest.iter().any(|(key, _)| is_extra(key));
    let acls = [ACCESS, DEFAULT].into_iter().any(|key| value(source, key) != value(dest, key));
    Difference { xattrs: xattrs && wanted.has_xattrs(), acls: acls && wanted.has_acls() }
}

/// A source as it may be shown by a mode alone (I9). Where an object has an ACL, the group's bits of its mode are the
/// mask, and what the owning group may is an entry: a copy without the ACL gives the group no more than that. Only an
/// object whose mode gives its group what it does not give to all is asked for an ACL (1.3 us where a stat takes as
/// much): with most trees, none is.
pub fn without_acl(thing: Thing<'_>, stat: Stat) -> Verb<Stat> {
    let is_asked = stat.mode >> 3 & !stat.mode & 7 != 0 && stat.kind() != Kind::Symlink;
    let acl = if is_asked { thing.value(&ACCESS.to_owned())? } else { None };
    let group = acl.and_then(|acl| owning_group(&acl)).unwrap_or(7);
    Ok(Stat { mode: stat.mode & !(0o070 & !(group << 3)), ..stat })
}

/// Which attributes an object has: extended ones that somebody gave it, ACLs.
pub fn found(thing: Thing<'_>) -> Attributes {
    let keys = thing.keys().unwrap_or_default();
    let is_acl = |key: &Name| **key == *ACCESS || **key == *DEFAULT;
    Attributes::of(names(&keys).any(|key| is_removable(&key)), names(&keys).any(|key| is_acl(&key)))
}

/// All that is `wanted` of an object's attributes and takes no more than `bytes_max` each, ACLs first; those that take
/// more, or come when a lot is there already, are losses.
pub fn read(thing: Thing<'_>, kind: Kind, wanted: Attributes, bytes_max: usize) -> Verb<(Told, LossSet)> {
    let (mut found, mut losses, mut total) = (Vec::new(), LossSet::default(), 0);
    let acls = [ACCESS, DEFAULT].map(CStr::to_owned);
    let acls = acls.into_iter().filter(|key| wanted.has_acls() && kind != Kind::Symlink && has_acl(kind, key));
    let listed = if wanted.has_xattrs() { thing.keys()? } else { Vec::new() };
    for key in acls.chain(names(&listed).filter(|key| travels(key))) {
        let value = match *key == *ACCESS {
            true => {
                let (access, is_other) = thing.access()?;
                if is_other {
                    losses.add(Loss::Acl);
                }
                access
            }
            false => thing.value(&key)?,
        };
        let Some(value) = value else { continue };
        let bytes = key.count_bytes() + value.len();
        total += bytes;
        match bytes <= bytes_max && total <= READ_BYTES_MAX {
            true => found.push((key, value)),
            false => losses.add(loss_of(&key)),
        }
    }
    Ok((found, losses))
}

fn has_acl(kind: Kind, key: &CStr) -> bool {
    key == ACCESS || kind == Kind::Dir
}

/// What the loss of an attribute is called.
pub fn loss_of(key: &CStr) -> Loss {
    match key {
        key if key == CAPABILITY => Loss::Capabilities,
        key if key == ACCESS || key == DEFAULT => Loss::Acl,
        _ => Loss::Xattrs,
    }
}

/// "There are no such attributes here", in the words of file systems that have none.
fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY)
}

/// Whether an attribute is copied. What begins otherwise is the system's own (`system.`) or a property of a file system
/// (`btrfs.`). XFS shows root its ACLs a second time, in a form of its own, as attributes of the `trusted.` family: to
/// remove these would remove the ACLs (rsync -X does).
fn travels(key: &CStr) -> bool {
    !key.to_bytes().starts_with(b"trusted.SGI_ACL_")
        && [&b"user."[..], b"trusted.", b"security."].iter().any(|family| key.to_bytes().starts_with(family))
}

/// Whether an attribute goes from a copy whose source has none of this name.
fn is_removable(key: &CStr) -> bool {
    let is_labelled = key.to_bytes().starts_with(b"security.") && key != CAPABILITY;
    travels(key) && !is_labelled
}

/// The names in a list with a NUL behind each.
fn names(list: &[u8]) -> impl Iterator<Item = Name> + '_ {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).filter_map(|name| Name::new(name).ok())
}

fn has(list: &[u8], key: &CStr) -> bool {
    list.split(|byte| *byte == 0).any(|name| name == key.to_bytes())
}

/// What the owning group may do by an ACL as the kernel gives it out: a version (4 bytes), then entries of tag and
/// permissions (2 bytes each) and id (4 bytes), all little endian (linux/posix_acl_xattr.h).
fn owning_group(acl: &[u8]) -> Option<u32> {
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    let entry = |wanted: u16| {
        let entries = acl.get(4..)?.chunks_exact(8);
        let mut found = entries.map(|entry| (u16::from_le_bytes([entry[0], entry[1]]), entry[2]));
        found.find(|(tag, _)| *tag == wanted).map(|(_, permissions)| u32::from(permissions & 7))
    };
    Some(entry(GROUP_OBJ)? & entry(MASK).unwrap_or(7))
}

/// Whether an ACL of NFSv4 is about nobody but those that a mode is about: their number, then of each its type, flags
/// and rights (4 bytes each) and its name (length and bytes, up to a multiple of 4), all big endian (RFC 7530, 6.2.1).
fn is_like_mode(acl: &[u8]) -> bool {
    let names = [&b"OWNER@"[..], b"GROUP@", b"EVERYONE@"];
    let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let (Some(mut count), mut rest) = (number(acl.get(..4)), acl.get(4..).unwrap_or_default()) else { return false };
    // Ends: each turn takes an entry of 16 bytes at least.
    while let Some(len) = number(rest.get(12..16)).map(|len| len as usize) {
        let is_one = rest.get(16..).and_then(|rest| rest.get(..len)).is_some_and(|name| names.contains(&name));
        let Some(next) = rest.get(16 + len.next_multiple_of(4)..).filter(|_| is_one && count > 0) else { return false };
        (count, rest) = (count - 1, next);
    }
    count == 0 && rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// user::rw- user:1000:rwx group::--- mask::rwx other::---
    const ACL: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 7,
        0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];

    #[test]
    fn the_group_of_an_acl_is_not_its_mask() {
        assert_eq!(owning_group(&ACL), Some(0));
        let mut shared = ACL;
        shared[22] = 5;
        assert_eq!(owning_group(&shared), Some(5));
        shared[30] = 4;
        assert_eq!(owning_group(&shared), Some(4), "the mask limits the group");
        assert_eq!(owning_group(&ACL[..20]), None);
        assert_eq!(owning_group(&[]), None);
    }

    #[test]
    fn an_acl_of_nfs4_that_names_somebody_says_more_than_a_mode() {
        let acl = |names: &[&str]| {
            let mut bytes = (names.len() as u32).to_be_bytes().to_vec();
            for name in names {
                bytes.extend([0; 12]);
                bytes.extend((name.len() as u32).to_be_bytes());
                bytes.extend(name.as_bytes());
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            bytes
        };
        assert!(is_like_mode(&acl(&["OWNER@", "GROUP@", "EVERYONE@"])) && is_like_mode(&acl(&[])));
        assert!(!is_like_mode(&acl(&["OWNER@", "ann@example.org", "EVERYONE@"])));
        let cut = acl(&["OWNER@", "GROUP@"]);
        assert!((0..cut.len()).all(|len| !is_like_mode(&cut[..len])));
        assert!(!is_like_mode(&[]) && !is_like_mode(&[0xff; 40]));
    }

    #[test]
    fn what_the_system_gives_its_files_is_set_and_never_removed() {
        for (key, is_copied, is_removed) in [
            (c"user.note", true, true),
            (c"trusted.overlay.opaque", true, true),
            (c"security.capability", true, true),
            (c"security.selinux", true, false),
            (c"system.posix_acl_access", false, false),
            (c"trusted.SGI_ACL_FILE", false, false),
            (c"btrfs.compression", false, false),
        ] {
            assert_eq!((travels(key), is_removable(key)), (is_copied, is_removed), "{key:?}");
        }
        assert_eq!(names(b"user.a\0user.b\0").collect::<Vec<_>>(), [c"user.a".to_owned(), c"user.b".to_owned()]);
        assert!(has(b"user.a\0user.ab\0", c"user.ab") && !has(b"user.ab\0", c"user.a"));
    }
}
