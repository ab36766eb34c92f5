//! The catalog on a real file system: what was committed is read back, whatever is opened, refused or broken in between.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gfast::catalog::*;
use gfast::error::{Cause, Error};
use gfast::ring::{Name, Time};

/// A directory of the test's own, removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gfast-catalog-{}-{test}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Scratch(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity() -> JobIdentity {
    let root = |ino| RootId { ino, birth: Time { secs: 1_700_000_000, nanos: 5 }, dev: 7 };
    JobIdentity {
        source: b"/data/old".to_vec(),
        dest: b"/data/new".to_vec(),
        source_root: root(2),
        dest_root: root(128),
        options: b"metadata=keep".to_vec(),
    }
}

fn open(state: &Path) -> Result<Catalog, Error> {
    Catalog::open(state, &identity(), false)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn file(number: u64) -> FileRecord {
    let secs = 1_750_000_000 + number as i64 * 61;
    let mtime = Time { secs, nanos: (number * 7_654_321 % 1_000_000_000) as u32 };
    FileRecord {
        status: Status::Done,
        batch: 1 + number / 1000,
        stamp: Stamp {
            size: number * 4096,
            mtime,
            ctime: Time { secs: secs + 1, nanos: mtime.nanos / 3 },
            ino: 10 + number,
        },
        dest_ino: 1_000_000 + number,
        large_id: 0,
        failure: None,
    }
}

fn put_file(dir: u64, text: &str, number: u64) -> Row {
    Row::PutEntry { dir: DirId(dir), name: name(text), record: Record::File(file(number)) }
}

fn commit(catalog: &Catalog, rows: Vec<Row>) {
    let header = Header { durable_batch: catalog.header().durable_batch + 1, ..catalog.header() };
    catalog.commit(&Batch { rows, header, reseal_dirs: Vec::new() }).unwrap();
}

fn refusal(answer: Result<Catalog, Error>) -> String {
    match answer {
        Err(error) if matches!(error.cause, Cause::Refused(_)) => error.to_string(),
        Err(error) => panic!("not refused, but {error}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_new_job_begins_with_its_first_header() {
    let scratch = Scratch::new("first");
    let catalog = open(&scratch.state()).unwrap();
    let header = catalog.header();
    assert_eq!((header.pass, header.status, header.next_id), (1, JobStatus::Running, 2));
    assert_eq!((header.durable_batch, header.completed_batch, header.pass_start_batch), (0, 0, 0));
    assert!(header.is_of_this_boot());
    drop(catalog);
    assert_eq!(open(&scratch.state()).unwrap().header(), header);
}

#[test]
fn everything_comes_back_after_a_reopen() {
    let scratch = Scratch::new("reopen");
    let catalog = open(&scratch.state()).unwrap();
    let dir = DirRecord {
        parent: DirId::ROOT,
        name: name("sub"),
        stamp: Some(DirStamp { mode: 0o40755, ino: 9, dev: 1 << 40, ..DirStamp::default() }),
        listed_batch: 3,
    };
    let long = "x".repeat(1024);
    let first = LinkFirst { dir: DirId(70_000), name: name("a"), batch: 1 };
    let failed = FileRecord {
        status: Status::Failed,
        failure: Some(Failure { errno: 5, verb: "read".into(), cause: "Input/output error".into(), attempts: 3 }),
        ..file(4)
    };
    let range = |offset| Range { offset, len: 1 << 28, crc64: (offset != 0).then_some(offset * 3) };
    let header =
        Header { next_id: 80_000, durable_batch: 1, totals: Totals { entries: 4, bytes: 1 << 50 }, ..catalog.header() };
    let reseal_dirs: Vec<DirId> = (1..5000).map(|id| DirId(id * id * 1000)).collect();
    let rows = vec![
        put_file(1, "b", 1),
        put_file(1, "a", 2),
        put_file(2, "c", 3),
        put_file(1, &long, 5),
        Row::PutEntry { dir: DirId(1), name: name("sub"), record: Record::Dir(DirId(70_000)) },
        Row::PutEntry { dir: DirId(70_000), name: name("bad"), record: Record::File(failed.clone()) },
        Row::PutDir { id: DirId(70_000), record: dir.clone() },
        Row::OpenDir { id: DirId(70_000), state: DirState::Unlisted },
        Row::OpenDir { id: DirId(3), state: DirState::Unfinished },
        Row::OpenDir { id: DirId(300), state: DirState::Unlisted },
        Row::OpenFile { dir: DirId(70_000), name: name("bad") },
        Row::OpenFile { dir: DirId(70_000), name: name(&long) },
        Row::PutRange { large_id: 17, range: range(1 << 28) },
        Row::PutRange { large_id: 17, range: range(0) },
        Row::PutRange { large_id: 18, range: range(0) },
        Row::PutLink { dev: 3, ino: 99, first: first.clone() },
        Row::PutLateLink { dev: 3, ino: 99, dir: DirId(1), name: name("late") },
        Row::PutLateLink { dev: 3, ino: 100, dir: DirId(1), name: name(&long) },
    ];
    catalog.commit(&Batch { rows, header: header.clone(), reseal_dirs: reseal_dirs.clone() }).unwrap();
    drop(catalog);

    let catalog = open(&scratch.state()).unwrap();
    assert_eq!(catalog.header(), header);
    let reader = catalog.reader().unwrap();
    assert_eq!(reader.entry(DirId(1), &name("b")).unwrap(), Some(Record::File(file(1))));
    assert_eq!(reader.entry(DirId(1), &name(&long)).unwrap(), Some(Record::File(file(5))));
    assert_eq!(reader.entry(DirId(1), &name("none")).unwrap(), None);
    assert_eq!(reader.entry(DirId(70_000), &name("bad")).unwrap(), Some(Record::File(failed)));
    let root = vec![
        (name("a"), Record::File(file(2))),
        (name("b"), Record::File(file(1))),
        (name("sub"), Record::Dir(DirId(70_000))),
        (name(&long), Record::File(file(5))),
    ];
    assert_eq!(reader.entries(DirId(1), None, 10).unwrap(), root);
    assert_eq!(reader.entries(DirId(1), Some(&name("a")), 2).unwrap(), root[1..3]);
    assert_eq!(reader.entries(DirId(1), Some(&name(&long)), 2).unwrap(), []);
    assert_eq!(reader.dir(DirId(70_000)).unwrap(), Some(dir));
    assert_eq!(reader.dir(DirId(1)).unwrap(), None);
    let (unlisted, unfinished) = (DirState::Unlisted, DirState::Unfinished);
    let open_dirs = [(DirId(70_000), unlisted), (DirId(300), unlisted), (DirId(3), unfinished)];
    assert_eq!(reader.open_dirs_below(None, None, 10).unwrap(), open_dirs);
    assert_eq!(reader.open_dirs_below(Some(DirId(70_000)), None, 1).unwrap(), open_dirs[1..2]);
    assert_eq!(reader.open_dirs_below(Some(DirId(300)), Some(unlisted), 10).unwrap(), []);
    assert_eq!(reader.open_dirs_below(None, Some(unfinished), 10).unwrap(), open_dirs[2..]);
    let open_files = [(DirId(70_000), name("bad")), (DirId(70_000), name(&long))];
    assert_eq!(reader.open_files(None, 10).unwrap(), open_files);
    assert_eq!(reader.open_files(Some(&open_files[0]), 10).unwrap(), open_files[1..]);
    assert_eq!(reader.ranges(17).unwrap(), [range(0), range(1 << 28)]);
    assert_eq!(reader.link(3, 99).unwrap(), Some(first));
    assert_eq!(reader.link(3, 98).unwrap(), None);
    assert_eq!(reader.late_links(3, 99, 10).unwrap(), [(DirId(1), name("late"))]);
    let late = [(3, 99, DirId(1), name("late")), (3, 100, DirId(1), name(&long))];
    assert_eq!(reader.any_late_links(10).unwrap(), late);
    assert_eq!(reader.reseal_dirs().unwrap(), reseal_dirs);
}

#[test]
fn changes_take_effect_in_their_order() {
    let scratch = Scratch::new("order");
    let catalog = open(&scratch.state()).unwrap();
    let range = |offset| Range { offset, len: 1, crc64: None };
    commit(
        &catalog,
        vec![
            put_file(1, "kept", 1),
            put_file(1, "gone", 1),
            Row::DeleteEntry { dir: DirId(1), name: name("gone") },
            Row::DeleteEntry { dir: DirId(1), name: name("kept") },
            put_file(1, "kept", 2),
            Row::OpenDir { id: DirId(5), state: DirState::Unlisted },
            Row::OpenDir { id: DirId(5), state: DirState::Unfinished },
            Row::OpenDir { id: DirId(6), state: DirState::Unlisted },
            Row::CloseDir { id: DirId(6) },
            Row::PutRange { large_id: 9, range: range(1) },
            Row::PutRange { large_id: 10, range: range(1) },
            Row::DropRanges { large_id: 9 },
            Row::PutRange { large_id: 9, range: range(2) },
            Row::OpenFile { dir: DirId(1), name: name("kept") },
            Row::CloseFile { dir: DirId(1), name: name("kept") },
            Row::PutDir {
                id: DirId(8),
                record: DirRecord { parent: DirId(1), name: name("d"), stamp: None, listed_batch: 0 },
            },
            Row::DeleteDir { id: DirId(8) },
            Row::PutLateLink { dev: 1, ino: 2, dir: DirId(1), name: name("l") },
            Row::DropLateLink { dev: 1, ino: 2, dir: DirId(1), name: name("l") },
        ],
    );
    let reader = catalog.reader().unwrap();
    assert_eq!(reader.entries(DirId(1), None, 10).unwrap(), [(name("kept"), Record::File(file(2)))]);
    assert_eq!(reader.open_dirs_below(None, None, 10).unwrap(), [(DirId(5), DirState::Unfinished)]);
    assert_eq!(reader.ranges(9).unwrap(), [range(2)]);
    assert_eq!(reader.ranges(10).unwrap(), [range(1)]);
    assert_eq!(reader.open_files(None, 10).unwrap(), []);
    assert_eq!(reader.dir(DirId(8)).unwrap(), None);
    assert_eq!(reader.any_late_links(10).unwrap(), []);
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let scratch = Scratch::new("snapshot");
    let catalog = open(&scratch.state()).unwrap();
    commit(&catalog, vec![put_file(1, "a", 1)]);
    let before = catalog.reader().unwrap();
    commit(&catalog, vec![put_file(1, "a", 2)]);
    assert_eq!(before.entry(DirId(1), &name("a")).unwrap(), Some(Record::File(file(1))));
    assert_eq!(catalog.reader().unwrap().entry(DirId(1), &name("a")).unwrap(), Some(Record::File(file(2))));
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let scratch = Scratch::new("second");
    let catalog = open(&scratch.state()).unwrap();
    let text = refusal(open(&scratch.state()));
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    drop(catalog);
    open(&scratch.state()).unwrap();
}

#[test]
fn two_jobs_share_a_state_directory() {
    let scratch = Scratch::new("share");
    let one = open(&scratch.state()).unwrap();
    let other = JobIdentity { dest: b"/data/other".to_vec(), ..identity() };
    let two = Catalog::open(&scratch.state(), &other, false).unwrap();
    assert_ne!(one.path(), two.path());
    assert_ne!(one.header().job_id, two.header().job_id);
    assert_eq!(one.state_dev_ino(), two.state_dev_ino());
}

#[test]
fn another_root_or_other_options_are_refused() {
    let scratch = Scratch::new("other");
    drop(open(&scratch.state()).unwrap());
    let mut replaced = identity();
    replaced.dest_root.ino += 1;
    assert!(refusal(Catalog::open(&scratch.state(), &replaced, false)).contains("destination is not the one"));
    let mut replaced = identity();
    replaced.source_root.birth.secs += 1;
    assert!(refusal(Catalog::open(&scratch.state(), &replaced, false)).contains("source is not the one"));
    let options = JobIdentity { options: Vec::new(), ..identity() };
    assert!(refusal(Catalog::open(&scratch.state(), &options, false)).contains("other options"));
    let rebooted = JobIdentity { source_root: RootId { dev: 99, ..identity().source_root }, ..identity() };
    Catalog::open(&scratch.state(), &rebooted, false).unwrap();
}

#[test]
fn a_state_directory_open_to_others_is_refused() {
    let scratch = Scratch::new("open");
    fs::create_dir(scratch.state()).unwrap();
    fs::set_permissions(scratch.state(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(open(&scratch.state())).contains("others may write"));
    fs::set_permissions(scratch.state(), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(scratch.state(), scratch.0.join("link")).unwrap();
    assert!(refusal(open(&scratch.0.join("link"))).contains("symbolic link"));
    assert_eq!(fs::read_dir(scratch.state()).unwrap().count(), 0);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(scratch.state(), Some(12345), None).unwrap();
        assert!(refusal(open(&scratch.state())).contains("another user"));
    } else {
        eprintln!("skipped: a foreign owner needs root");
    }
}
