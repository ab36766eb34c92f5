//! Random operations asked of the kernel ([`Kernel`]) and of the simulator, and their answers compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{CLOCK_START_SECS, Disk, Faults, Random, Sim};
use crate::error::Errno;
use crate::filesystem::FileSystem;
use crate::ring::syscalls::Kernel;
use crate::ring::{
    Access, Answer, Asked, Completion, FixedBuffers, Handle, Interpreter, Kind, Lease, Name, Op, Side, Stat, Time,
    WritePath,
};

/// Bytes of the lease that reads and writes use.
const LEASE_BYTES: usize = 32 << 10;

/// A directory that goes with its value.
struct TempDir(PathBuf);

impl TempDir {
    fn new(seed: u64) -> TempDir {
        let path = std::env::temp_dir().join(format!("gfast-model-{}-{seed}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the real file system lets us compare.
struct Terms {
    /// Alignment of direct I/O; 0 where it cannot be compared.
    direct_align: u32,
    /// Whether a directory counts its subdirectories.
    dirs_count_links: bool,
    /// Whether FICLONE works.
    can_clone: bool,
    /// When the run started, real time, in seconds.
    start_secs: i64,
}

/// One random run on both.
struct Pair {
    real: Kernel,
    sim: Sim,
    buffers: [FixedBuffers; 2],
    leases: [Option<Lease>; 2],
    /// The same directory on both; the first is the root.
    dirs: Vec<[Handle; 2]>,
    /// The same open file (or directory opened as one) on both.
    files: Vec<[Handle; 2]>,
    /// Simulated to real inode numbers.
    inos: HashMap<u64, u64>,
    /// Offset and simulated inode of the last NextData.
    extent_of: Option<(u64, u64)>,
    terms: Terms,
    random: Random,
    /// What was asked, for the message.
    log: Vec<String>,
    /// What succeeded, by operation, on both.
    succeeded: BTreeMap<String, u32>,
}

/// Every random value of one operation, so that both get the same.
struct Draw {
    sort: u64,
    dir: usize,
    dir2: usize,
    file: usize,
    file2: usize,
    name: Name,
    name2: Name,
    mode: u32,
    uid: u32,
    gid: u32,
    offset: u64,
    len: usize,
    atime: Time,
    mtime: Time,
    access: Access,
}

impl Pair {
    fn new(seed: u64, dir: &TempDir) -> Pair {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let root: Handle = Arc::new(rustix::fs::open(&dir.0, flags, rustix::fs::Mode::empty()).unwrap());
        rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let buffers = [(); 2].map(|()| FixedBuffers::new(1, LEASE_BYTES, LEASE_BYTES).unwrap());
        let mut real = Kernel::new(buffers[0].arena().clone());
        let terms = Terms::probe(&mut real, &root);
        let mut disk = Disk::new(1);
        disk.direct_align = terms.direct_align;
        disk.can_clone = terms.can_clone;
        let faults = Faults { late_permille: 300, ..Faults::none() };
        let sim = Sim::new(seed, faults, Disk::new(2), disk, buffers[1].arena().clone());
        let dirs = vec![[root, sim.root(Side::Dest)]];
        let mut buffers = buffers;
        let leases = [0, 1].map(|which: usize| buffers[which].acquire(LEASE_BYTES));
        let (inos, random) = (HashMap::new(), Random::new(seed));
        Pair {
            succeeded: BTreeMap::new(),
            real,
            sim,
            buffers,
            leases,
            dirs,
            files: Vec::new(),
            inos,
            extent_of: None,
            terms,
            random,
            log: Vec::new(),
        }
    }

    fn draw(&mut self) -> Draw {
        let random = &mut self.random;
        // `..` would leave the temporary directory; only OpenDir refuses to.
        let mut name = || {
            let names = ["a", "b", "c", "d", "e", "f", "a", "b", "c", "d", "e", "f", "\u{fc}", "", ".", "g"];
            let name = match random.below(60) {
                0 => "n".repeat(256),
                1 => "n".repeat(255),
                _ => names[random.index(names.len())].to_owned(),
            };
            CString::new(name).unwrap()
        };
        let (name, name2) = (name(), name());
        let types = [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG, libc::S_IFCHR, libc::S_IFDIR, libc::S_IFREG];
        let ids = [0, 1, 1000, 65534, u32::MAX];
        let (uid, gid) = (ids[random.index(5)], ids[random.index(5)]);
        let unaligned = if random.chance(500) { random.below(1000) } else { 0 };
        let mut time = || Time { secs: random.below(1_900_000_000) as i64, nanos: random.below(1_000_000_000) as u32 };
        let (atime, mtime) = (time(), time());
        let accesses = [Access::Read, Access::Read, Access::Write, Access::ReadDirect, Access::WriteDirect];
        let access = accesses[random.index(if self.terms.direct_align == 0 { 3 } else { 5 })];
        Draw {
            sort: random.below(35),
            dir: random.index(self.dirs.len()),
            dir2: random.index(self.dirs.len()),
            file: random.index(self.files.len().max(1)),
            file2: random.index(self.files.len().max(1)),
            name,
            name2,
            mode: types[random.index(types.len())] | random.below(0o10000) as u32,
            uid,
            gid,
            offset: 4096 * random.below(6) + unaligned,
            len: if random.chance(500) { 4096 * random.index(5) } else { random.index(9000) },
            atime,
            mtime,
            access,
        }
    }

    /// The operation for one of the two; `None` while there is no open file to do it on.
    fn op(&mut self, draw: &Draw, which: usize) -> Option<Op> {
        let at = self.dirs[draw.dir][which].clone();
        let file = self.files.get(draw.file).map(|pair| pair[which].clone());
        let other = self.files.get(draw.file2).map(|pair| pair[which].clone());
        let Draw { mode, uid, gid, offset, len, atime, mtime, access, .. } = *draw;
        let (name, name2) = (draw.name.clone(), draw.name2.clone());
        let permissions = mode & 0o7777;
        let is_device = mode & libc::S_IFMT == libc::S_IFCHR;
        Some(match draw.sort {
            0 => Op::OpenDir { at, path: draw.path() },
            1 | 2 => Op::MakeDir { at, name, mode: permissions },
            3..=5 => Op::Stat { at, name },
            6 => Op::StatHandle { file: file? },
            7 => Op::ReadWhole { at, name, access: Access::Read, lease: self.leases[which].take()?, len: len.max(1) },
            8..=10 => Op::Open { at, name, access: Access::Create, mode: permissions },
            11 | 12 => Op::Open { at, name, access, mode: 0 },
            13 => Op::Read { file: file?, lease: self.leases[which].take()?, start: 0, len, offset },
            14 | 15 => {
                let path = WritePath::Buffered;
                Op::Write { file: file?, lease: self.leases[which].take()?, start: 0, len, offset, path }
            }
            16 => Op::Allocate { file: file?, len: len as u64 },
            17 => Op::Truncate { file: file?, len: offset },
            18 => Op::NextData { file: file?, from: offset },
            19 => Op::Clone { from: other?, to: file? },
            20 => Op::SetOwner { file: file?, uid, gid },
            21 => Op::SetMode { file: file?, mode: permissions },
            22 => Op::SetTimes { file: file?, atime, mtime },
            23 => Op::SetOwnerAt { at, name, uid, gid },
            24 => Op::SetTimesAt { at, name, atime, mtime },
            25 => Op::ReadLink { at, name },
            26 => Op::MakeSymlink { at, name, target: name2 },
            27 => Op::MakeNode { at, name, mode, rdev: if is_device { 0x0103 } else { 0 } },
            28 => Op::Link { from_at: self.dirs[draw.dir2][which].clone(), from: name2, at, name },
            29 | 30 => Op::Rename { at, from: name, to: name2 },
            31 => Op::Unlink { at, name },
            32 => Op::RemoveDir { at, name },
            33 => Op::SetModeAt { at, name, mode: permissions },
            _ => match len % 20 {
                0 => Op::SyncFile { file: file? },
                1..=8 => Op::HasDefaultAcl { dir: file? },
                _ => Op::DropAcls { file: file? },
            },
        })
    }

    /// Asks both and compares. Returns whether it was asked at all.
    fn step(&mut self) {
        let draw = self.draw();
        if self.is_undetermined(&draw) {
            return;
        }
        if matches!(draw.sort, 14 | 15) {
            let bytes = self.random.bytes(LEASE_BYTES);
            for (buffers, lease) in self.buffers.iter().zip(&mut self.leases) {
                buffers.arena().bytes_mut(lease.as_mut().unwrap()).copy_from_slice(&bytes);
            }
        }
        let (Some(real), Some(sim)) = (self.op(&draw, 0), self.op(&draw, 1)) else { return };
        self.log.push(format!("{real:?}"));
        let (real, sim) = (self.finish(0, real), self.finish(1, sim));
        self.compare(real, sim);
        while self.files.len() > 8 {
            let closed = self.files.swap_remove(self.random.index(self.files.len()));
            for (which, file) in closed.into_iter().enumerate() {
                assert!(matches!(self.finish(which, Op::Close { file }), Ok(Answer::Done)));
            }
        }
        if self.dirs.len() > 8 {
            let index = 1 + self.random.index(self.dirs.len() - 1);
            self.dirs.swap_remove(index);
        }
    }

    /// What the two are not meant to agree on: opening a device, writing to a FIFO that may have a reader, a run of
    /// data of what is no regular file, a direct write that is not aligned (EINVAL, but ext4 sets mtime and may have
    /// written a part of it), and reading from what was just created, which nobody does and the simulator forbids.
    fn is_undetermined(&mut self, draw: &Draw) -> bool {
        match draw.sort {
            7 | 11 | 12 => {
                let op = Op::Stat { at: self.dirs[draw.dir][1].clone(), name: draw.name.clone() };
                let Ok(Answer::Stat(stat)) = self.finish(1, op) else { return false };
                let kind = stat.mode & libc::S_IFMT;
                kind == libc::S_IFCHR || (kind == libc::S_IFIFO && draw.access != Access::Read)
            }
            14 | 15 if !self.files.is_empty() => {
                let world = self.sim.world.lock();
                let access = world.opened(&self.files[draw.file][1]).ok().and_then(|opened| opened.access);
                access == Some(Access::WriteDirect) && !(draw.len as u64 | draw.offset).is_multiple_of(4096)
            }
            13 | 19 if !self.files.is_empty() => {
                let from = if draw.sort == 13 { draw.file } else { draw.file2 };
                let world = self.sim.world.lock();
                let access = world.opened(&self.files[from][1]).ok().and_then(|opened| opened.access);
                access == Some(Access::Create)
            }
            18 if !self.files.is_empty() => {
                let op = Op::StatHandle { file: self.files[draw.file][1].clone() };
                let Ok(Answer::Stat(stat)) = self.finish(1, op) else { return true };
                self.extent_of = Some((draw.offset, stat.ino));
                stat.kind() != Kind::File
            }
            _ => false,
        }
    }

    /// Asks one of the two and waits for the answer.
    fn finish(&mut self, which: usize, op: Op) -> Result<Answer, Errno> {
        let interpreter: &mut dyn Interpreter = if which == 0 { &mut self.real } else { &mut self.sim };
        let mut completions = Vec::new();
        match interpreter.ask(7, Side::Dest, op) {
            Asked::Answered(completion) => completions.push(completion),
            Asked::Pending => interpreter.wait(1, Duration::ZERO, &mut completions),
        }
        let Completion { op, result, .. } = completions.pop().unwrap();
        if let Op::Read { lease, .. } | Op::ReadWhole { lease, .. } | Op::Write { lease, .. } = op {
            self.leases[which] = Some(lease);
        }
        result
    }

    fn compare(&mut self, real: Result<Answer, Errno>, sim: Result<Answer, Errno>) {
        let is_same = match (&real, &sim) {
            // rename(2) allows either for a directory that is not empty; xfs says EEXIST.
            (Err(Errno::EXIST), Err(Errno::NOTEMPTY)) => true,
            (Err(real), Err(sim)) => real == sim,
            (Ok(Answer::Done), Ok(Answer::Done)) => true,
            (Ok(Answer::Count(real)), Ok(Answer::Count(sim))) => {
                let bytes =
                    |which: usize| &self.buffers[which].arena().bytes(self.leases[which].as_ref().unwrap())[..*sim];
                real == sim && bytes(0) == bytes(1)
            }
            (Ok(Answer::Handle(real)), Ok(Answer::Handle(sim))) => {
                let handles = [real.clone(), sim.clone()];
                let is_dir = self.log.last().unwrap().starts_with("OpenDir");
                if is_dir {
                    self.dirs.push(handles)
                } else {
                    self.files.push(handles)
                }
                true
            }
            (Ok(Answer::Stat(real)), Ok(Answer::Stat(sim))) => self.is_same_stat(real, sim),
            (Ok(Answer::Target(real)), Ok(Answer::Target(sim))) => real == sim,
            (Ok(Answer::Extent(real)), Ok(Answer::Extent(sim))) => {
                let (from, ino) = self.extent_of.expect("kept when it was asked");
                self.is_same_extent(from, *real, *sim, ino)
            }
            (Ok(Answer::Flag(real)), Ok(Answer::Flag(sim))) => real == sim,
            // Direct and not aligned: over a hole, ext4 reads all the same.
            (Ok(Answer::Count(_)), Err(Errno::INVAL)) => self.log.last().unwrap().starts_with("Read {"),
            _ => false,
        };
        if real.is_ok() {
            let words = self.log.last().unwrap().split([' ', '{']).next().unwrap();
            *self.succeeded.entry(words.to_owned()).or_default() += 1;
        }
        let last = &self.log[self.log.len().saturating_sub(100)..];
        assert!(is_same, "kernel {real:?}\nsimulator {sim:?}\nafter {last:#?}");
    }

    fn is_same_stat(&mut self, real: &Stat, sim: &Stat) -> bool {
        let time = |real: Time, sim: Time| match sim.secs < CLOCK_START_SECS {
            true => real == sim,
            false => real.secs >= self.terms.start_secs,
        };
        let is_dir = sim.kind() == Kind::Dir;
        let times = time(real.mtime, sim.mtime)
            && (sim.kind() != Kind::File || time(real.atime, sim.atime))
            && time(real.ctime, sim.ctime);
        let links = real.nlink == sim.nlink || (is_dir && !self.terms.dirs_count_links);
        let owners = (real.mode, real.uid, real.gid, real.rdev) == (sim.mode, sim.uid, sim.gid, sim.rdev);
        // xfs asks for more once a file shares blocks.
        let aligns = real.direct_align == sim.direct_align || self.terms.can_clone;
        let ino = *self.inos.entry(sim.ino).or_insert(real.ino);
        times && links && owners && aligns && (is_dir || real.size == sim.size) && ino == real.ino
    }

    /// The kernel may tell more data than was written (preallocation, zeroed neighbours), never less; and what only the
    /// kernel takes for data reads as zeros.
    fn is_same_extent(&self, from: u64, real: Option<(u64, u64)>, sim: Option<(u64, u64)>, ino: u64) -> bool {
        let start = |extent: Option<(u64, u64)>| extent.map_or(u64::MAX, |(start, _)| start);
        let hole = self.sim.with_disk(Side::Dest, |disk| {
            let end = start(sim).min(disk.stat(ino).size);
            let mut bytes = vec![1; end.saturating_sub(from) as usize];
            disk.read(ino, from, &mut bytes);
            bytes
        });
        start(real) <= start(sim) && hole.iter().all(|&byte| byte == 0)
    }

    /// Both trees in full.
    fn compare_trees(&mut self) {
        let mut open = vec![self.dirs[0].clone()];
        while let Some(dirs) = open.pop() {
            let listings = [0, 1].map(|which| self.list(which, &dirs[which]));
            assert_eq!(listings[0], listings[1], "kernel, simulator, after {:#?}", self.log);
            for (name, kind) in listings[1].iter().filter(|(name, _)| name != b"..") {
                let name = CString::new(name.clone()).unwrap();
                let at = |which: usize| (dirs[which].clone(), name.clone());
                self.compare_both("Stat", |which| Op::Stat { at: at(which).0, name: at(which).1 });
                match *kind {
                    libc::DT_DIR if name.to_bytes() != b"." => {
                        self.compare_both("OpenDir", |which| Op::OpenDir { at: at(which).0, path: at(which).1 });
                        open.extend(self.dirs.pop());
                    }
                    libc::DT_LNK => {
                        self.compare_both("ReadLink", |which| Op::ReadLink { at: at(which).0, name: at(which).1 });
                    }
                    libc::DT_REG => {
                        let mut leases = [0, 1].map(|which: usize| self.leases[which].take());
                        let len = LEASE_BYTES;
                        self.compare_both("ReadWhole", |which| {
                            let ((at, name), lease) = (at(which), leases[which].take().unwrap());
                            Op::ReadWhole { at, name, access: Access::Read, lease, len }
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    fn compare_both(&mut self, what: &str, mut op: impl FnMut(usize) -> Op) {
        self.log.push(what.to_owned());
        let [real, sim] = [0, 1].map(|which| self.finish(which, op(which)));
        self.compare(real, sim);
    }

    /// A whole listing, sorted: names and types. The buffer is so small that it takes several calls.
    fn list(&mut self, which: usize, dir: &Handle) -> Vec<(Vec<u8>, u8)> {
        let open = Op::OpenDir { at: dir.clone(), path: c".".to_owned() };
        let Ok(Answer::Handle(dir)) = self.finish(which, open) else { panic!("`.` opens") };
        let mut names = Vec::new();
        loop {
            let op = Op::ReadDir { dir: dir.clone(), buffer: vec![0; 304] };
            let interpreter: &mut dyn Interpreter = if which == 0 { &mut self.real } else { &mut self.sim };
            let mut completions = Vec::new();
            match interpreter.ask(7, Side::Dest, op) {
                Asked::Answered(completion) => completions.push(completion),
                Asked::Pending => interpreter.wait(1, Duration::ZERO, &mut completions),
            }
            let completion = completions.pop().unwrap();
            let (Ok(Answer::Count(filled)), Op::ReadDir { buffer, .. }) = (completion.result, completion.op) else {
                panic!("a directory that is named lists");
            };
            if filled == 0 {
                names.sort();
                return names;
            }
            names.extend(records(&buffer[..filled]));
        }
    }
}

impl Draw {
    /// A path for OpenDir: mostly one name, at times several, at times out of the tree.
    fn path(&self) -> Name {
        let (name, name2) = (self.name.to_bytes(), self.name2.to_bytes());
        let path = match self.len % 8 {
            0 => [name, b"/", name2].concat(),
            1 => [name, b"/../", name2].concat(),
            2 => [b"/", name].concat(),
            3 => [name, b"/"].concat(),
            4 => b".".to_vec(),
            _ => name.to_vec(),
        };
        CString::new(path).unwrap()
    }
}

impl Terms {
    fn probe(real: &mut Kernel, root: &Handle) -> Terms {
        let kind = FileSystem::of(root).unwrap();
        let name = c"probe".to_owned();
        let mut ask = |op: Op| match real.ask(0, Side::Dest, op) {
            Asked::Answered(completion) => completion.result.unwrap(),
            Asked::Pending => unreachable!("answered on the spot"),
        };
        let create = Op::Open { at: root.clone(), name: name.clone(), access: Access::Create, mode: 0o600 };
        let Answer::Handle(file) = ask(create) else { unreachable!("an open answers a handle") };
        let Answer::Stat(stat) = ask(Op::StatHandle { file: file.clone() }) else { unreachable!("a stat") };
        let read = Op::Open { at: root.clone(), name: name.clone(), access: Access::Read, mode: 0 };
        let Answer::Handle(from) = ask(read) else { unreachable!("an open answers a handle") };
        let can_clone = rustix::fs::ioctl_ficlone(&file, &from).is_ok();
        let _ = ask(Op::Unlink { at: root.clone(), name });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Terms {
            direct_align: stat.direct_align,
            dirs_count_links: matches!(kind, FileSystem::Ext | FileSystem::Xfs | FileSystem::Tmpfs),
            can_clone,
            start_secs: now.as_secs() as i64 - 1,
        }
    }
}

/// Names and types in a buffer of `linux_dirent64`.
pub(super) fn records(mut buffer: &[u8]) -> Vec<(Vec<u8>, u8)> {
    let mut names = Vec::new();
    while !buffer.is_empty() {
        let len = usize::from(u16::from_ne_bytes([buffer[16], buffer[17]]));
        let name = buffer[19..len].split(|&byte| byte == 0).next().unwrap();
        names.push((name.to_vec(), buffer[18]));
        buffer = &buffer[len..];
    }
    names
}

/// 200 seeds, 400 operations each.
#[test]
fn the_simulator_answers_as_the_kernel_does() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for owners and device nodes");
        return;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut succeeded: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..200 {
        let dir = TempDir::new(seed);
        let mut pair = Pair::new(seed, &dir);
        for _ in 0..400 {
            pair.step();
        }
        pair.compare_trees();
        for (buffers, lease) in pair.buffers.iter_mut().zip(&mut pair.leases) {
            lease.take().into_iter().for_each(|lease| buffers.release(lease));
        }
        for (op, count) in std::mem::take(&mut pair.succeeded) {
            *succeeded.entry(op).or_default() += count;
        }
    }
    println!("succeeded: {succeeded:?}");
    assert!(succeeded.len() >= 26 && succeeded.values().all(|&count| count >= 20), "too little was compared");
}
