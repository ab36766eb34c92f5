//! In which form a destination keeps names: mostly as they are given, but HFS+ normalises them, vfat drops a dot at
//! their end, and some servers know one case only.
//!
//! No call tells it. So a file of the name is made in a directory of its own, and what that lists is the form.

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

use crate::dirents::each_name;
use crate::error::Errno;
use crate::job::Job;
use crate::provider::posix::{Posix, Verb};
use crate::ring::{Caller, Handle, Name, Side};
use crate::walk::DirNode;

/// Names of which each is kept in another form somewhere; the first is the plainest. Those of eight letters at most are
/// short names to vfat.
const TRIED: [&str; 6] = ["gfast", "GFAST", "gf\u{e9}", "gfe\u{301}", "gf.", "gf "];

/// The name that the destination gives what is made under `name`.
pub(crate) fn kept_as(job: &Job, caller: &dyn Caller, at: (&DirNode, &Handle), name: &Name) -> Verb<Name> {
    in_trial(job, caller, at, |dest, within| kept(dest, within, name))
}

/// Whether the destination keeps names in another form than it is given, as far as is known: tried once for each of its
/// file systems. Where it cannot be tried, it may.
pub(crate) fn changes_names(job: &Job, caller: &dyn Caller, dir: &DirNode, at: &Handle) -> bool {
    let Ok(there) = Posix::new(caller, Side::Dest).stat_handle(at) else { return true };
    if there.dev == job.dest.stat.dev && job.dest_file_system.tells_names_apart() {
        return false;
    }
    let mut known = job.forms.lock();
    if let Some(changes) = known.get(&there.dev) {
        return *changes;
    }
    let mut has_tried = false;
    let tried = in_trial(job, caller, (dir, at), |dest, within| {
        for tried in TRIED {
            let name = Name::new(tried).expect("I8: a constant without a NUL");
            match kept(dest, within, &name) {
                Ok(kept) if kept == name => {}
                Ok(_) => return Ok(true),
                // It holds no such names.
                Err(errno) if has_tried && (is_of_name(errno) || errno == Errno::ACCESS) => {}
                Err(errno) => return Err(errno),
            }
            has_tried = true;
        }
        Ok(false)
    });
    let changes = tried.unwrap_or(true);
    // What has answered for one name will not answer otherwise for the next directory.
    if tried.is_ok() || has_tried {
        known.insert(there.dev, changes);
    }
    changes
}

/// Tries something in a directory that is made for it. One at a time: they have one name.
fn in_trial<T>(
    job: &Job,
    caller: &dyn Caller,
    (dir, at): (&DirNode, &Handle),
    try_it: impl FnOnce(Posix<'_>, &Handle) -> Verb<T>,
) -> Verb<T> {
    let _turn = job.link_changes.lock();
    let (dest, trial) = (Posix::new(caller, Side::Dest), job.temporaries.trial());
    match dest.make_dir(at, &trial, 0o700) {
        Ok(()) | Err(Errno::EXIST) => dir.touch(),
        Err(errno) => return Err(errno),
    }
    let within = dest.open_dir(at, &trial)?;
    // What an interrupted run left.
    clear(dest, &within)?;
    let tried = try_it(dest, &within);
    clear(dest, &within)?;
    dest.remove_dir(at, &trial)?;
    tried
}

/// The name that an empty directory lists once something is made in it under `name`.
fn kept(dest: Posix<'_>, within: &Handle, name: &Name) -> Verb<Name> {
    drop(dest.create(within, name, 0o600)?);
    let mut kept = None;
    each_name(dest, within, |name, _| {
        kept = Name::new(name).ok();
        Ok(())
    })?;
    clear(dest, within)?;
    // Somebody has removed it: that tells nothing.
    kept.ok_or(Errno::IO)
}

/// Another spelling of a name, of those that the destination keeps as `listed`.
pub(crate) fn variant(
    job: &Job,
    caller: &dyn Caller,
    at: (&DirNode, &Handle),
    (name, listed): (&Name, &Name),
) -> Verb<Option<Name>> {
    let bytes = name.to_bytes();
    let mut variants: Vec<Name> = other_case(name).into_iter().collect();
    if let Ok(text) = std::str::from_utf8(bytes) {
        let composed = ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned();
        let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(text).into_owned();
        variants.extend([composed, decomposed].into_iter().flat_map(Name::new));
    }
    variants.extend(Name::new([bytes, b"."].concat()));
    for variant in variants.into_iter().filter(|variant| variant != name) {
        match kept_as(job, caller, at, &variant) {
            Ok(kept) if kept == *listed => return Ok(Some(variant)),
            Err(errno) if !is_of_name(errno) => return Err(errno),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Whether a name is too long, or cannot be held.
fn is_of_name(errno: Errno) -> bool {
    matches!(errno, Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ | Errno::NOENT)
}

/// Removes what an interrupted run may have left of a trial. Best effort.
pub(crate) fn remove_trial(job: &Job, caller: &dyn Caller, at: &Handle) {
    let (dest, trial) = (Posix::new(caller, Side::Dest), job.temporaries.trial());
    if dest.stat(at, &trial).is_err() {
        return;
    }
    let _turn = job.link_changes.lock();
    if let Ok(within) = dest.open_dir(at, &trial) {
        let _ = clear(dest, &within).and_then(|()| dest.remove_dir(at, &trial));
    }
}

/// Removes the file that a directory was made for.
fn clear(dest: Posix<'_>, within: &Handle) -> Verb<()> {
    let mut left = None;
    each_name(dest, within, |name, _| {
        left = Name::new(name).ok();
        Ok(())
    })?;
    left.map_or(Ok(()), |left| dest.unlink(within, &left))
}

/// The name with all its ASCII letters in the other case; `None` without any.
pub(crate) fn other_case(name: &Name) -> Option<Name> {
    let flip =
        |byte: &u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    let flipped: Vec<u8> = name.to_bytes().iter().map(flip).collect();
    Name::new(flipped).ok().filter(|flipped| flipped != name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_letters_has_no_other_case() {
        assert_eq!(other_case(&c"Foo-1".to_owned()), Some(c"fOO-1".to_owned()));
        assert_eq!(other_case(&c"123 \xff".to_owned()), None);
    }
}
