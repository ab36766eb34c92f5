//! The simulator's faults and power cuts: what may be lost is lost at some seed, what must not be lost never is.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ring::{Access, FixedBuffers, Lease, Name, Stat, WritePath};

/// Times a crash is tried with different seeds.
const CRASHES: u64 = 200;

/// A source's mtime.
const SEALED: Time = Time { secs: 1_600_000_000, nanos: 7 };

/// One interpreter with one lease, asked one operation at a time.
struct Shell {
    sim: Sim,
    _buffers: FixedBuffers,
    lease: Option<Lease>,
}

impl Shell {
    fn new(seed: u64, faults: Faults, source: Disk, dest: Disk) -> Shell {
        let mut buffers = FixedBuffers::new(1, 64 << 10, 64 << 10).unwrap();
        let sim = Sim::new(seed, faults, source, dest, buffers.arena().clone());
        let lease = buffers.acquire(64 << 10);
        Shell { sim, _buffers: buffers, lease }
    }

    fn ask(&mut self, side: Side, op: Op) -> Result<Answer, Errno> {
        let mut completions = Vec::new();
        match self.sim.ask(9, side, op) {
            Asked::Answered(completion) => completions.push(completion),
            Asked::Pending => self.sim.wait(1, Duration::ZERO, &mut completions),
        }
        let Completion { token: 9, op, result } = completions.pop().unwrap() else { panic!("another's token") };
        if let Op::Read { lease, .. } | Op::ReadWhole { lease, .. } | Op::Write { lease, .. } = op {
            self.lease = Some(lease);
        }
        result
    }

    fn dest(&mut self, op: Op) {
        assert!(matches!(self.ask(Side::Dest, op), Ok(Answer::Done)));
    }

    fn open(&mut self, side: Side, name: &str, access: Access) -> Handle {
        let at = self.sim.root(side);
        match self.ask(side, Op::Open { at, name: c(name), access, mode: 0o600 }) {
            Ok(Answer::Handle(handle)) => handle,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn stat(&mut self, side: Side, name: &str) -> Result<Stat, Errno> {
        let at = self.sim.root(side);
        match self.ask(side, Op::Stat { at, name: c(name) })? {
            Answer::Stat(stat) => Ok(stat),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn write(&mut self, file: &Handle, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let mut lease = self.lease.take().unwrap();
        self.sim.arena.bytes_mut(&mut lease)[..bytes.len()].copy_from_slice(bytes);
        let (file, len, path) = (file.clone(), bytes.len(), WritePath::Buffered);
        match self.ask(Side::Dest, Op::Write { file, lease, start: 0, len, offset, path })? {
            Answer::Count(count) => Ok(count),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, file: &Handle, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let (lease, file) = (self.lease.take().unwrap(), file.clone());
        match self.ask(Side::Source, Op::Read { file, lease, start: 0, len, offset })? {
            Answer::Count(count) => Ok(self.sim.arena.bytes(self.lease.as_ref().unwrap())[..count].to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn into_dest(self) -> Disk {
        let Shell { sim, .. } = self;
        sim.into_disks().1
    }
}

fn c(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn content(byte: u8) -> Vec<u8> {
    vec![byte; 10_000]
}

/// A shell without faults on a destination that holds `final` with content 1, durable.
fn shell() -> Shell {
    let mut dest = Disk::new(1);
    dest.add_file(b"final", &content(1));
    Shell::new(1, Faults::none(), Disk::new(2), dest)
}

/// The contents found under `name` after many power cuts, without repetition.
fn found(disk: &Disk, name: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut contents: Vec<_> = (0..CRASHES).map(|seed| disk.clone().crash(seed).read_path(name)).collect();
    contents.sort();
    contents.dedup();
    contents
}

#[test]
fn synced_and_renamed_is_old_or_new_and_nothing_else() {
    let mut shell = shell();
    let file = shell.open(Side::Dest, "temporary", Access::Create);
    assert_eq!(shell.write(&file, 0, &content(2)), Ok(10_000));
    shell.dest(Op::SyncFile { file });
    let at = shell.sim.root(Side::Dest);
    shell.dest(Op::Rename { at: at.clone(), from: c("temporary"), to: c("final") });
    let disk = shell.sim.with_disk(Side::Dest, |disk| disk.clone());
    assert_eq!(found(&disk, b"final"), [Some(content(1)), Some(content(2))]);
    shell.dest(Op::SyncFile { file: at });
    let disk = shell.into_dest();
    assert_eq!(found(&disk, b"final"), [Some(content(2))]);
    assert_eq!(found(&disk, b"temporary"), [None]);
}

#[test]
fn renamed_without_sync_may_be_empty_or_zero() {
    let mut shell = shell();
    let file = shell.open(Side::Dest, "temporary", Access::Create);
    assert_eq!(shell.write(&file, 0, &content(2)), Ok(10_000));
    let at = shell.sim.root(Side::Dest);
    shell.dest(Op::Rename { at, from: c("temporary"), to: c("final") });
    let found = found(&shell.into_dest(), b"final");
    for expected in [content(1), content(2), content(0), Vec::new()] {
        assert!(found.contains(&Some(expected)));
    }
    assert!(!found.contains(&None));
}

/// Final name, size and mtime, and other bytes: what makes sealing before the sync wrong (I2).
fn is_trapped(disk: &Disk, seed: u64) -> bool {
    let disk = disk.clone().crash(seed);
    let sealed = disk.stat_path(b"new").is_some_and(|stat| stat.mtime == SEALED && stat.size == 10_000);
    sealed && disk.read_path(b"new") != Some(content(2))
}

#[test]
fn a_seal_before_the_sync_is_a_trap_and_one_after_it_is_not() {
    for sync_first in [false, true] {
        let mut shell = shell();
        let file = shell.open(Side::Dest, "new", Access::Create);
        assert_eq!(shell.write(&file, 0, &content(2)), Ok(10_000));
        if sync_first {
            shell.dest(Op::SyncFileSystem { file: file.clone() });
        }
        shell.dest(Op::SetTimes { file, atime: SEALED, mtime: SEALED });
        let disk = shell.into_dest();
        assert_eq!((0..CRASHES).any(|seed| is_trapped(&disk, seed)), !sync_first);
    }
}

#[test]
fn a_sync_that_failed_has_lost_what_it_should_have_written() {
    let failure = Failure { side: Side::Dest, verb: Verb::Sync, target: Target::From(1), errno: Errno::IO, times: 1 };
    let faults = Faults { failures: vec![failure], ..Faults::none() };
    let mut shell = Shell::new(1, faults, Disk::new(2), Disk::new(1));
    let (root, file) = (shell.sim.root(Side::Dest), shell.open(Side::Dest, "new", Access::Create));
    assert_eq!(shell.write(&file, 0, &content(2)), Ok(10_000));
    let failed = shell.ask(Side::Dest, Op::SyncFile { file: file.clone() });
    assert_eq!(failed.unwrap_err(), Errno::IO);
    shell.dest(Op::SyncFile { file: root });
    shell.dest(Op::SyncFile { file: file.clone() });
    let disk = shell.sim.with_disk(Side::Dest, |disk| disk.clone());
    assert_eq!(found(&disk, b"new"), [Some(content(0))]);
    assert_eq!(shell.write(&file, 0, &content(2)), Ok(10_000));
    shell.dest(Op::SyncFile { file });
    assert_eq!(found(&shell.into_dest(), b"new"), [Some(content(2))]);
}

#[test]
fn a_full_disk_writes_what_fits_and_then_refuses() {
    let mut dest = Disk::new(1);
    dest.capacity_bytes = Some(8192);
    let mut shell = Shell::new(1, Faults::none(), Disk::new(2), dest);
    let file = shell.open(Side::Dest, "new", Access::Create);
    assert_eq!(shell.write(&file, 0, &content(2)), Ok(8192));
    assert_eq!(shell.write(&file, 8192, &content(2)), Err(Errno::NOSPC));
    assert_eq!(shell.write(&file, 100, &content(3)[..500]), Ok(500));
    let at = shell.sim.root(Side::Dest);
    let refused = shell.ask(Side::Dest, Op::MakeDir { at: at.clone(), name: c("dir"), mode: 0o700 });
    assert_eq!(refused.unwrap_err(), Errno::NOSPC);
    shell.dest(Op::Unlink { at: at.clone(), name: c("new") });
    shell.dest(Op::MakeDir { at, name: c("dir"), mode: 0o700 });
}

/// Copies `from` to `to` with the loop that everybody has to write; `Err` is what cannot be repeated.
fn copy(shell: &mut Shell, from: &Handle, to: &Handle) -> Result<(), Errno> {
    let mut offset = 0;
    loop {
        let bytes = match shell.read(from, offset, 30_000) {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            other => other?,
        };
        if bytes.is_empty() {
            return Ok(());
        }
        match shell.write(to, offset, &bytes) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
            Ok(count) => {
                assert!(count > 0 && count <= bytes.len());
                offset += count as u64;
            }
        }
    }
}

#[test]
fn harmless_faults_delay_a_copy_and_do_not_change_it() {
    let whole = Random::new(3).bytes(150_000);
    let (mut ops_least, mut ops_most) = (u64::MAX, 0);
    for seed in 0..100 {
        let mut source = Disk::new(2);
        source.add_file(b"old", &whole);
        let mut shell = Shell::new(seed, Faults::none(), source, Disk::new(1));
        let (from, to) = (shell.open(Side::Source, "old", Access::Read), shell.open(Side::Dest, "new", Access::Create));
        shell.sim.world.lock().faults = Faults::harmless(seed);
        copy(&mut shell, &from, &to).unwrap();
        (ops_least, ops_most) = (ops_least.min(shell.sim.ops()), ops_most.max(shell.sim.ops()));
        assert_eq!(shell.into_dest().read_path(b"new").as_ref(), Some(&whole));
    }
    assert!(ops_most > 2 * ops_least, "no short or repeated answer: {ops_least}..{ops_most}");
}

#[test]
fn completions_come_in_any_order_each_with_its_own_memory() {
    let mut source = Disk::new(2);
    let names: Vec<String> = (0..8).map(|count| format!("f{count}")).collect();
    names.iter().enumerate().for_each(|(count, name)| source.add_file(name.as_bytes(), &[count as u8 + 1; 100]));
    let mut orders = Vec::new();
    for seed in 0..20 {
        let mut buffers = FixedBuffers::new(8, 4096, 4096).unwrap();
        let arena = buffers.arena().clone();
        let mut sim = Sim::new(seed, Faults::none(), source.clone(), Disk::new(1), arena.clone());
        for (token, name) in names.iter().enumerate() {
            let (at, lease) = (sim.root(Side::Source), buffers.acquire(4096).unwrap());
            let asked = sim.ask(
                token as u32,
                Side::Source,
                Op::ReadWhole { at, name: c(name), access: Access::Read, lease, len: 200 },
            );
            assert!(matches!(asked, Asked::Pending));
        }
        let mut completions = Vec::new();
        while sim.in_flight() > 0 {
            let before = completions.len();
            sim.wait(1, Duration::ZERO, &mut completions);
            assert!(completions.len() > before);
        }
        for completion in &completions {
            let (Ok(Answer::Count(100)), Op::ReadWhole { lease, .. }) = (&completion.result, &completion.op) else {
                panic!("{completion:?}");
            };
            assert_eq!(arena.bytes(lease)[..100], [completion.token as u8 + 1; 100]);
        }
        orders.push(completions.iter().map(|completion| completion.token).collect::<Vec<_>>());
    }
    orders.sort();
    orders.dedup();
    assert!(orders.len() > 10, "{orders:?}");
}

#[test]
fn from_the_crash_on_nothing_is_executed() {
    let run = |crash_at: Option<u64>| {
        let mut shell = Shell::new(5, Faults { crash_at, ..Faults::none() }, Disk::new(2), Disk::new(1));
        let at = shell.sim.root(Side::Dest);
        let made: Vec<bool> = ["a", "b", "c", "d"]
            .map(|name| shell.ask(Side::Dest, Op::MakeDir { at: at.clone(), name: c(name), mode: 0o700 }).is_ok())
            .to_vec();
        assert_eq!(shell.sim.crashed(), crash_at.is_some_and(|at| at <= 4));
        (made, shell.into_dest().dump().len() - 1)
    };
    assert_eq!(run(None), (vec![true; 4], 4));
    assert_eq!(run(Some(3)), (vec![true, true, false, false], 2));
    assert_eq!(run(Some(1)), (vec![false; 4], 0));
}

#[test]
fn every_change_of_the_source_shows_in_its_stat() {
    let changes =
        [Change::Rewrite, Change::RewriteQuietly, Change::Grow, Change::Shrink, Change::Replace, Change::Vanish];
    for change in changes {
        let mut source = Disk::new(2);
        source.add_file(b"old", &content(1));
        let mutation = Mutation { name: b"old".to_vec(), at_touch: 2, change };
        let faults = Faults { mutations: vec![mutation], ..Faults::none() };
        let mut shell = Shell::new(1, faults, source, Disk::new(1));
        let before = shell.stat(Side::Source, "old").unwrap();
        match shell.stat(Side::Source, "old") {
            Ok(after) => assert!(change != Change::Vanish && !before.is_unchanged_in(&after), "{change:?}"),
            Err(errno) => assert_eq!((change, errno), (Change::Vanish, Errno::NOENT)),
        }
        let after = shell.stat(Side::Source, "old");
        assert_eq!(after, shell.stat(Side::Source, "old"), "it changes once");
    }
}

#[test]
fn a_failure_hits_its_object_as_often_as_it_says() {
    let mut source = Disk::new(2);
    source.add_file(b"bad", b"1");
    source.add_file(b"good", b"2");
    let target = Target::Name(b"bad".to_vec());
    let failure = Failure { side: Side::Source, verb: Verb::Stat, target, errno: Errno::IO, times: 2 };
    let faults = Faults { failures: vec![failure], ..Faults::none() };
    let mut shell = Shell::new(1, faults, source, Disk::new(1));
    let mut tries = |name: &str| [(); 3].map(|()| shell.stat(Side::Source, name).is_ok());
    assert_eq!((tries("good"), tries("bad")), ([true; 3], [false, false, true]));
}

#[test]
fn a_random_tree_has_everything_and_survives_a_power_cut_whole() {
    let shape = Shape { dirs: 20, objects: 200, file_bytes_max: 20_000 };
    let disk = Disk::random(1, 4, shape);
    let dump = disk.dump();
    assert_eq!(dump.len(), 221);
    let count = |is: fn(&Entry) -> bool| dump.values().filter(|entry| is(entry)).count();
    assert!(count(|entry| matches!(entry.kind, EntryKind::Symlink(_))) > 2);
    assert!(count(|entry| matches!(entry.kind, EntryKind::Special(..))) > 2);
    assert!(count(|entry| entry.nlink > 1 && entry.kind != EntryKind::Dir) > 2);
    assert_eq!(disk.clone().crash(9).dump(), dump);
    assert_eq!(Disk::random(1, 4, shape).dump(), dump, "one seed is one tree");
    assert_ne!(Disk::random(1, 5, shape).dump(), dump);
}

#[test]
#[should_panic(expected = "I6")]
fn changing_the_source_is_a_panic() {
    let mut shell = shell();
    let at = shell.sim.root(Side::Source);
    let _ = shell.ask(Side::Source, Op::MakeDir { at, name: c("x"), mode: 0o700 });
}

#[test]
#[should_panic(expected = "I8")]
fn a_name_of_several_components_is_a_panic() {
    let mut shell = shell();
    let _ = shell.stat(Side::Dest, "a/b");
}

#[test]
#[should_panic(expected = "I3")]
fn dropping_what_is_in_flight_is_a_panic() {
    let mut shell = shell();
    let (at, lease) = (shell.sim.root(Side::Dest), shell.lease.take().unwrap());
    let _ = shell.sim.ask(1, Side::Dest, Op::ReadWhole { at, name: c("final"), access: Access::Read, lease, len: 1 });
}

#[test]
fn interpreters_of_one_machine_see_each_others_work() {
    let mut shell = shell();
    let mut other = shell.sim.share(Arc::clone(&shell.sim.arena));
    let at = shell.sim.root(Side::Dest);
    let asked = other.ask(1, Side::Dest, Op::MakeDir { at, name: c("x"), mode: 0o700 });
    assert!(matches!(asked, Asked::Answered(Completion { result: Ok(Answer::Done), .. })));
    assert_eq!(shell.stat(Side::Dest, "x").unwrap().permissions(), 0o700);
}

#[test]
fn changes_of_one_name_survive_in_order() {
    let mut shell = shell();
    let at = shell.sim.root(Side::Dest);
    for (from, to) in [("final", "b"), ("b", "c")] {
        shell.dest(Op::Rename { at: at.clone(), from: c(from), to: c(to) });
    }
    let disk = shell.into_dest();
    let mut names: Vec<Vec<Vec<u8>>> =
        (0..CRASHES).map(|s| disk.clone().crash(s).dump().into_keys().collect()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, [b"b", b"c", &b"final"[..]].map(|name| vec![Vec::new(), name.to_vec()]));
}

#[test]
fn a_clone_takes_one_file_system_that_can() {
    for (source_dev, can_clone, expected) in
        [(1, true, Ok(())), (1, false, Err(Errno::OPNOTSUPP)), (2, true, Err(Errno::XDEV))]
    {
        let (mut source, mut dest) = (Disk::new(source_dev), Disk::new(1));
        source.add_sparse(b"old", 50_000, &[(20_000, &content(1))]);
        (source.can_clone, dest.can_clone) = (can_clone, can_clone);
        let whole = source.read_path(b"old");
        let mut shell = Shell::new(1, Faults::none(), source, dest);
        let (from, to) = (shell.open(Side::Source, "old", Access::Read), shell.open(Side::Dest, "new", Access::Create));
        assert_eq!(shell.ask(Side::Dest, Op::Clone { from, to }).map(drop), expected);
        let dest = shell.into_dest();
        assert_eq!(dest.read_path(b"new") == whole, expected.is_ok());
        assert!(expected.is_err() || dest.stat_path(b"new").unwrap().blocks == 4 * 8);
    }
}
