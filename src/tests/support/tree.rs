//! Source trees, made from a seed: everything a POSIX tree can hold, with the sizes, names and dates that break
//! copiers.
//!
//! Everything is made relative to directory fds, so names and depth are not limited by PATH_MAX. Directories get their
//! mode and times last, for creating entries would change them again.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown, ftruncate, futimens,
    linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};

use super::Rng;

/// Sizes at the boundaries of the engine: page, small-file limit, block, and one either side.
pub const SIZES: [u64; 18] = [
    0, 1, 511, 4095, 4096, 4097, 8191, 65_536, 262_143, 262_144, 262_145, 300_001, 1_048_575, 1_048_576, 1_048_577,
    2_097_152, 3_145_745, 4_198_401,
];
/// Permission bits of files: none, read-only, set-id and sticky among them.
const FILE_MODES: [u32; 11] = [0o644, 0o644, 0o600, 0o444, 0o000, 0o755, 0o666, 0o4755, 0o2755, 0o1644, 0o6711];
/// Permission bits of directories.
const DIR_MODES: [u32; 7] = [0o755, 0o755, 0o700, 0o555, 0o1777, 0o2775, 0o000];
/// Owners, known to the system and not.
const OWNERS: [(u32, u32); 5] = [(0, 0), (1000, 1000), (65_534, 65_534), (4_000_000_000, 12_345), (12, 0)];
/// Seconds since 1970 of modification times: 1901, before and at the epoch, the year 2038 and 2400.
const TIMES: [i64; 8] = [-2_147_483_000, -31_536_000, -1, 0, 1, 2_147_483_648, 4_294_967_296, 13_569_465_600];

/// An open directory of the tree under construction.
struct Place {
    fd: OwnedFd,
    mode: u32,
}

/// Makes a tree of about `files` files below `root`, which must exist: all kinds of objects, all kinds of names.
pub fn mixed(root: &Path, seed: u64, files: u32) {
    let mut rng = Rng::new(seed);
    let mut serial = 0;
    let places = skeleton(root, &mut rng, &mut serial, files);
    for _ in 0..files {
        let at = &places[rng.below(places.len() as u64) as usize].fd;
        let name = name(&mut rng, &mut serial);
        let size = if rng.below(3) == 0 { rng.pick(&SIZES) } else { rng.below(20_000) };
        regular(&mut rng, at, &name, size);
    }
    for (index, size) in SIZES.iter().enumerate() {
        let name = CString::new(format!("size-{index}-{size}")).unwrap();
        regular(&mut rng, &places[index % places.len()].fd, &name, *size);
    }
    sparse_files(&places[1].fd, &mut rng);
    symlinks(&places[2].fd, &mut rng);
    hard_links(&places, &mut rng);
    specials(&places[3].fd, &mut rng);
    for place in &places[1..] {
        finish_dir(&mut rng, place);
    }
    finish_dir(&mut rng, &Place { fd: open_dir(root), mode: 0o755 });
}

/// The directories: a flat and bushy part, a chain of 60 with long names (a path of about 12 KB), some left empty.
fn skeleton(root: &Path, rng: &mut Rng, serial: &mut u32, files: u32) -> Vec<Place> {
    let mut places = vec![Place { fd: open_dir(root), mode: 0o755 }];
    for _ in 0..8 + (files / 10).min(60) {
        let parent = rng.below(places.len() as u64) as usize;
        let name = name(rng, serial);
        let place = make_dir(&places[parent].fd, &name, rng.pick(&DIR_MODES));
        places.push(place);
    }
    let mut tip = make_dir(&places[0].fd, c"chain", 0o755);
    for level in 0..60 {
        let name = CString::new(format!("{level:0>200}")).unwrap();
        let below = make_dir(&tip.fd, &name, 0o755);
        places.push(std::mem::replace(&mut tip, below));
    }
    places.push(tip);
    for (index, parent) in places.iter().take(4).enumerate() {
        let name = CString::new(format!("empty-{index}")).unwrap();
        let place = make_dir(&parent.fd, &name, rng.pick(&DIR_MODES));
        finish_dir(rng, &place);
    }
    places
}

/// A file of `size` bytes of noise with mode, owner and times of its own.
pub fn regular(rng: &mut Rng, at: &OwnedFd, name: &CStr, size: u64) {
    let file = create(at, name);
    write_noise(rng, &file, 0, size);
    finish_file(rng, &file);
}

/// Holes at the start, in the middle, at the end, off every boundary, everywhere, and a file that is nothing else.
fn sparse_files(at: &OwnedFd, rng: &mut Rng) {
    const MIB: u64 = 1 << 20;
    sparse(rng, at, c"hole-start", &[(8 * MIB, 4097)], 8 * MIB + 4097);
    sparse(rng, at, c"hole-middle", &[(0, 5000), (16 * MIB, 70_000)], 16 * MIB + 70_000);
    sparse(rng, at, c"hole-end", &[(0, 4096)], 12 * MIB + 1);
    sparse(rng, at, c"hole-only", &[], 6 * MIB + 123);
    sparse(rng, at, c"hole-unaligned", &[(1, 10), (9 * MIB + 7, 100)], 20 * MIB + 3);
    sparse(rng, at, c"hole-large", &[(0, 1), (40 * MIB, 1)], 40 * MIB + 1);
    let teeth: Vec<(u64, u64)> = (0..40).map(|tooth| (tooth * MIB / 2, 4096)).collect();
    sparse(rng, at, c"hole-comb", &teeth, 20 * MIB);
}

/// A file of `size` bytes with noise at these offsets and lengths, and nothing between them.
pub fn sparse(rng: &mut Rng, at: &OwnedFd, name: &CStr, extents: &[(u64, u64)], size: u64) {
    let file = create(at, name);
    extents.iter().for_each(|&(offset, len)| write_noise(rng, &file, offset, len));
    ftruncate(&file, size).unwrap();
    finish_file(rng, &file);
}

/// Dangling, absolute, relative, to a directory, to itself, and of the greatest length.
fn symlinks(at: &OwnedFd, rng: &mut Rng) {
    let longest = vec![b'x'; 1000];
    let targets: [&[u8]; 8] =
        [b"no/such/file", b"/etc/passwd", b"..", b"link-4", b"link-4", b"\xff\n\x1b[0m", b"/", &longest];
    for (index, target) in targets.into_iter().enumerate() {
        let name = CString::new(format!("link-{index}")).unwrap();
        symlinkat(target, at, &name).unwrap();
        let (uid, gid) = rng.pick(&OWNERS);
        if rustix::process::geteuid().is_root() {
            chownat(at, &name, Some(uid_of(uid)), Some(gid_of(gid)), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        utimensat(at, &name, &times(rng), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Groups of two to five names, within a directory and across directories; a symlink and a FIFO with two names too.
fn hard_links(places: &[Place], rng: &mut Rng) {
    for group in 0..12 {
        let first = CString::new(format!("group-{group}-0")).unwrap();
        let home = &places[rng.below(places.len() as u64) as usize].fd;
        let size = rng.pick(&[0, 100, 5000, 300_000, 1_100_000]);
        regular(rng, home, &first, size);
        for link in 1..2 + rng.below(4) {
            let name = CString::new(format!("group-{group}-{link}")).unwrap();
            let at = if group % 2 == 0 { home } else { &places[rng.below(places.len() as u64) as usize].fd };
            linkat(home, &first, at, &name, AtFlags::empty()).unwrap();
        }
    }
    symlinkat("elsewhere", &places[0].fd, c"linked-link").unwrap();
    utimensat(&places[0].fd, c"linked-link", &times(rng), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    linkat(&places[0].fd, c"linked-link", &places[1].fd, c"linked-link-too", AtFlags::empty()).unwrap();
    node(&places[0].fd, c"linked-fifo", FileType::Fifo, 0, rng);
    linkat(&places[0].fd, c"linked-fifo", &places[1].fd, c"linked-fifo-too", AtFlags::empty()).unwrap();
}

/// FIFOs, sockets and, for root, device nodes.
fn specials(at: &OwnedFd, rng: &mut Rng) {
    node(at, c"fifo", FileType::Fifo, 0, rng);
    node(at, c"socket", FileType::Socket, 0, rng);
    if rustix::process::geteuid().is_root() {
        node(at, c"null", FileType::CharacterDevice, rustix::fs::makedev(1, 3), rng);
        node(at, c"disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000), rng);
    }
}

fn node(at: &OwnedFd, name: &CStr, kind: FileType, device: u64, rng: &mut Rng) {
    mknodat(at, name, kind, Mode::from_raw_mode(0o640), device).unwrap();
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = rng.pick(&OWNERS);
        chownat(at, name, Some(uid_of(uid)), Some(gid_of(gid)), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    utimensat(at, name, &times(rng), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A chain of `levels` directories below `root`, each named by `name_len` bytes, with a file at every 1,000th level and
/// one at the bottom. Its path is far longer than PATH_MAX.
pub fn chain(root: &Path, levels: u32, name_len: usize) {
    let mut rng = Rng::new(levels.into());
    let mut at = open_dir(root);
    for level in 1..=levels {
        let name = CString::new(format!("{level:d>name_len$}")).unwrap();
        mkdirat(&at, &name, Mode::from_raw_mode(0o700)).unwrap();
        at = openat(&at, &name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        if level % 1000 == 0 || level == levels {
            regular(&mut rng, &at, c"file", 4097);
        }
    }
}

/// One directory of `count` small files below `root`.
pub fn wide(root: &Path, count: u32) {
    let mut rng = Rng::new(count.into());
    let at = open_dir(root);
    for index in 0..count {
        let name = CString::new(format!("file-{index:07}")).unwrap();
        let file = create(&at, &name);
        write_noise(&mut rng, &file, 0, u64::from(index % 100));
    }
}

/// `pairs` files of a few bytes below `root`, each with a second name in another directory.
pub fn pairs(root: &Path, pairs: u32) {
    let mut rng = Rng::new(pairs.into());
    let root = Place { fd: open_dir(root), mode: 0o755 };
    let dirs: Vec<Place> = (0..1 + pairs / 500)
        .flat_map(|index| [format!("a{index}"), format!("b{index}")])
        .map(|name| make_dir(&root.fd, &CString::new(name).unwrap(), 0o755))
        .collect();
    for index in 0..pairs {
        let name = CString::new(format!("pair-{index}")).unwrap();
        let at = [0, 1].map(|_| &dirs[rng.below(dirs.len() as u64) as usize].fd);
        let file = create(at[0], &name);
        write_noise(&mut rng, &file, 0, 24);
        let second = CString::new(format!("pair-{index}-too")).unwrap();
        linkat(at[0], &name, at[1], &second, AtFlags::empty()).unwrap();
    }
}

/// A name nobody else in this tree has: plain, or of the kinds that break scripts, terminals, encodings and limits.
pub fn name(rng: &mut Rng, serial: &mut u32) -> CString {
    *serial += 1;
    let n = *serial;
    let bytes = match rng.below(14) {
        0 => format!("-rf{n}").into_bytes(),
        1 => format!("new\nline {n}\t").into_bytes(),
        2 => format!("\x1b[31mred{n}\x07").into_bytes(),
        3 => format!("e\u{301}{n} \u{e9} \u{1f4be}").into_bytes(),
        4 => format!("..{n}").into_bytes(),
        5 => format!("$(rm {n})`*?[\\'\"").into_bytes(),
        6 => format!("{n:x>255}").into_bytes(),
        7 => [format!("{n}-").into_bytes(), vec![0xff; 250 - n.to_string().len()]].concat(),
        8 => {
            let from = rng.below(255) as u8;
            let run = (0..40).map(|step| from.wrapping_add(step)).filter(|&b| b != 0 && b != b'/');
            format!("{n}-").into_bytes().into_iter().chain(run).collect()
        }
        9 => format!(" {n} ").into_bytes(),
        _ => format!("file{n}").into_bytes(),
    };
    CString::new(bytes).unwrap()
}

/// Opens a directory by path.
pub fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Creates a file for writing; the name must be free.
pub fn create(at: &OwnedFd, name: &CStr) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::from_raw_mode(0o644)).unwrap()
}

/// Writes `len` bytes of noise from `offset`.
pub fn write_noise(rng: &mut Rng, file: &OwnedFd, offset: u64, len: u64) {
    let mut buffer = vec![0; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(1 << 20) as usize;
        rng.fill(&mut buffer[..part]);
        let mut written = 0;
        while written < part {
            written += rustix::io::pwrite(file, &buffer[written..part], offset + done + written as u64).unwrap();
        }
        done += part as u64;
    }
}

fn make_dir(at: &OwnedFd, name: &CStr, mode: u32) -> Place {
    mkdirat(at, name, Mode::from_raw_mode(0o755)).unwrap();
    let fd = openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    Place { fd, mode }
}

fn finish_dir(rng: &mut Rng, place: &Place) {
    finish(rng, &place.fd, place.mode);
}

fn finish_file(rng: &mut Rng, file: &OwnedFd) {
    let mode = rng.pick(&FILE_MODES);
    finish(rng, file, mode);
}

/// Owner, then mode (chown clears set-id bits), then times.
fn finish(rng: &mut Rng, object: &OwnedFd, mode: u32) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = rng.pick(&OWNERS);
        fchown(object, Some(uid_of(uid)), Some(gid_of(gid))).unwrap();
    }
    fchmod(object, Mode::from_raw_mode(mode)).unwrap();
    futimens(object, &times(rng)).unwrap();
}

/// A time to the nanosecond: mostly of this century, sometimes at the edges.
fn times(rng: &mut Rng) -> Timestamps {
    let seconds = match rng.below(3) {
        0 => rng.pick(&TIMES),
        _ => 1_000_000_000 + rng.below(700_000_000) as i64,
    };
    let nanoseconds = rng.pick(&[0, 1, 999_999_999, 123_456_789, 500_000_000]);
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: Timespec { tv_sec: 1_234_567_890, tv_nsec: 987_654_321 }, last_modification }
}

fn uid_of(uid: u32) -> Uid {
    Uid::from_raw(uid)
}

fn gid_of(gid: u32) -> Gid {
    Gid::from_raw(gid)
}
