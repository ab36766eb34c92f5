//! Where a simulated life takes place: trees, what the destination held before, changes between passes, troubles.

use super::machine::{CatalogAt, Machine, Order, Style};
use crate::config::{Attributes, Retry};
use crate::error::Errno;
use crate::ring::sim::{Disk, EntryKind, Failure, Faults, Random, Shape, Target, Verb};
use crate::ring::{Kind, Side, Time};

/// The machine of `seed`.
pub fn machine(seed: u64, style: Style, random: &mut Random) -> Machine {
    let shape = Shape {
        dirs: random.index(14),
        objects: 5 + random.index(45),
        file_bytes_max: [3000, 20_000, 60_000, 150_000][random.index(4)],
    };
    let is_one_file_system = random.chance(150);
    let mut source = Disk::random(1001, seed, shape);
    let mut dest = Disk::new(if is_one_file_system { 1001 } else { 1002 });
    (source.can_clone, dest.can_clone) = (is_one_file_system, is_one_file_system && random.chance(700));
    source.direct_align = [0, 512, 512, 4096][random.index(4)];
    dest.direct_align = [0, 512, 512, 4096][random.index(4)];
    if random.chance(400) {
        populate(&source, &mut dest, random);
    }
    if style.attributes == Attributes::All {
        decorate(&mut source, &mut Random::new(seed ^ 0x0a77));
    }
    Machine::new(seed, source, dest, style)
}

/// Gives half of all objects attributes and ACLs.
fn decorate(source: &mut Disk, random: &mut Random) {
    for (path, entry) in source.dump() {
        let keys: &[&[u8]] = match entry.kind {
            EntryKind::File { .. } => &[b"user.a", b"user.b", b"security.capability", b"system.posix_acl_access"],
            EntryKind::Dir => &[b"user.a", b"system.posix_acl_access", b"system.posix_acl_default"],
            _ => &[b"trusted.a"],
        };
        for key in keys.iter().filter(|_| random.chance(300)).collect::<Vec<_>>() {
            let len = 1 + random.index(40);
            source.add_xattr(&path, key, &random.bytes(len));
        }
    }
}

/// Puts things where the copy is to go: older versions, copies, objects of another kind.
fn populate(source: &Disk, dest: &mut Disk, random: &mut Random) {
    for (path, entry) in source.dump() {
        let parent = path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
        let has_parent = dest.stat_path(parent).is_some_and(|stat| stat.mode & libc::S_IFMT == libc::S_IFDIR);
        if path.is_empty() || !has_parent || random.chance(400) {
            continue;
        }
        match (&entry.kind, random.below(8)) {
            (EntryKind::Dir, 0) => dest.add_file(&path, b"no directory"),
            (EntryKind::Dir, choice) => {
                dest.add_dir(&path);
                if choice == 1 {
                    dest.add_default_acl(&path);
                }
            }
            (_, 0) => dest.add_symlink(&path, b"elsewhere"),
            (_, 1) => dest.add_dir(&path),
            (EntryKind::File { .. }, 2..=4) => {
                let bytes = source.read_path(&path).expect("it is a file");
                dest.add_file(&path, &bytes);
                dest.set_attrs(&path, 7, 7, 0o640, entry.mtime);
            }
            _ => {
                let size = random.below(9000) as usize;
                dest.add_file(&path, &random.bytes(size));
            }
        }
    }
}

/// Changes the source between two passes.
pub fn change(machine: &mut Machine, pass: u64, random: &mut Random) {
    machine.keep_source();
    let source = &mut machine.source;
    for count in 0..random.below(8) {
        let paths: Vec<(Vec<u8>, EntryKind)> = source.dump().into_iter().map(|(path, e)| (path, e.kind)).collect();
        let (path, kind) = paths[random.index(paths.len())].clone();
        let is_dir = kind == EntryKind::Dir;
        match random.below(9) {
            0 if !is_dir => source.remove(&path),
            1 if !is_dir => {
                source.remove(&path);
                source.add_dir(&path);
            }
            2 if !is_dir => {
                let name = [&path[..], format!("-link{pass}.{count}").as_bytes()].concat();
                if name.rsplit(|&byte| byte == b'/').next().is_some_and(|name| name.len() <= 255) {
                    source.add_link(&path, &name);
                }
            }
            3 => {
                let mtime = Time { secs: 1_500_000_000 + random.below(1000) as i64, nanos: random.below(999) as u32 };
                let mode = [0o700, 0o4711, 0o600][random.index(3)];
                let mode = if matches!(kind, EntryKind::Symlink(_)) { 0o777 } else { mode };
                source.set_attrs(&path, 1000, 5, mode, mtime);
            }
            4 if is_dir => {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                let size = random.below(30_000) as usize;
                source.add_file(&[&path, slash, format!("new{pass}.{count}").as_bytes()].concat(), &random.bytes(size));
            }
            // Nothing but ctime shows it: a chmod, or an edit that keeps size and mtime.
            choice @ 5..=6 => {
                let Some(stat) = source.stat_path(&path).filter(|stat| stat.kind() == Kind::File) else { continue };
                if choice == 5 && stat.size > 0 {
                    let len = 1 + random.below(stat.size) as usize;
                    let at = random.below(stat.size - len as u64 + 1);
                    source.overwrite(&path, at, &random.bytes(len));
                }
                source.set_attrs(&path, stat.uid, stat.gid, [0o604, 0o2755][random.index(2)], stat.mtime);
            }
            _ => {
                if let EntryKind::File { size, .. } = kind {
                    let len = 1 + random.below(10_000) as usize;
                    source.overwrite(&path, random.below(size + 1), &random.bytes(len));
                }
            }
        }
    }
}

/// A run in which things go wrong; `ops` is what an undisturbed one takes.
pub fn trouble(machine: &mut Machine, seed: u64, ops: u64, random: &mut Random) -> Order {
    let mut faults = match random.chance(500) {
        true => Faults::random(seed, &machine.source),
        false => Faults::harmless(seed),
    };
    let names: Vec<Vec<u8>> = machine.source.dump().into_keys().filter(|path| !path.is_empty()).collect();
    if random.chance(350) && !names.is_empty() {
        for _ in 0..1 + random.below(3) {
            faults.failures.push(failure(&names[random.index(names.len())], random));
        }
    }
    if random.chance(60) {
        let target = Target::From(1 + random.below(40) as u32);
        let failure = Failure { side: Side::Dest, verb: Verb::Write, target, errno: Errno::NOSPC, times: u32::MAX };
        faults.failures.push(failure);
    }
    if random.chance(100) {
        let bytes: u64 = machine.source.dump().values().map(|entry| size_of(&entry.kind)).sum();
        machine.dest.capacity_bytes = Some(random.below(bytes + 4096));
    }
    faults.crash_at = random.chance(750).then(|| 1 + random.below(ops));
    let stop_at = random.chance(150).then(|| random.below(ops) as u32);
    let catalog_at = [CatalogAt::SameMachine, CatalogAt::Elsewhere][random.index(2)];
    // No draw of its own: the lives of all seeds stay what they were.
    let retry = if seed.is_multiple_of(2) { Retry::FailedOnly } else { Retry::WithAll };
    Order { seed, faults, stop_at, catalog_at, retry }
}

fn size_of(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::File { size, .. } => *size,
        _ => 0,
    }
}

/// A failure of one object that [`Faults::random`] does not draw: directories, and every sort of change.
fn failure(path: &[u8], random: &mut Random) -> Failure {
    let (side, verb) = [
        (Side::Source, Verb::List),
        (Side::Source, Verb::Open),
        (Side::Dest, Verb::Open),
        (Side::Dest, Verb::Stat),
        (Side::Dest, Verb::Create),
        (Side::Dest, Verb::Rename),
        (Side::Dest, Verb::Attributes),
        (Side::Dest, Verb::Write),
    ][random.index(8)];
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
    let times = [1, 1, 2, u32::MAX][random.index(4)];
    // At the destination EACCES may mean a loss, which is no failure.
    let errno = if side == Side::Source { [Errno::IO, Errno::ACCESS][random.index(2)] } else { Errno::IO };
    Failure { side, verb, target: Target::Name(name), errno, times }
}

/// A run in which nothing goes wrong that matters.
pub fn calm(seed: u64) -> Order {
    let faults = Faults::harmless(seed);
    Order { seed, faults, stop_at: None, catalog_at: CatalogAt::SameMachine, retry: Retry::WithAll }
}
