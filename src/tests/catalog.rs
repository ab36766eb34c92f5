//! The catalog on a real file system: what was committed is read back, whatever is opened, refused or broken in
//! between.

#[path = "catalog/codec.rs"]
mod codec;
#[path = "catalog/damage.rs"]
mod damage;
#[path = "catalog/full.rs"]
mod full;
#[path = "catalog/kills.rs"]
mod kills;
#[path = "catalog/size.rs"]
mod size;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gfast::catalog::*;
use gfast::error::{Cause, Error};
use gfast::report::LossSet;
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
        source_server: String::new(),
        dest_server: String::new(),
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
        checksum: None,
        losses: LossSet::default(),
        owner: Some(Owner::default()),
    }
}

fn put_file(dir: u64, text: &str, number: u64) -> Row {
    Row::PutEntry { dir: DirId(dir), name: name(text), record: Record::File(file(number)) }
}

fn commit(catalog: &Catalog, rows: Vec<Row>) {
    let header = Header { durable_batch: catalog.header().durable_batch + 1, ..catalog.header() };
    catalog.commit(&Batch { rows, header, reseal_dirs: Vec::new() }).unwrap();
}

/// Numbers that look random and are the same for the same seed (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }
}

/// All that a catalog answers about directories 1 to 40, as text.
fn dump(catalog: &Catalog) -> Result<String, Error> {
    let reader = catalog.reader()?;
    let mut text = format!("{:?}\n", catalog.header());
    for id in 1..40 {
        text += &format!("{:?}\n", reader.dir(DirId(id))?);
        for (name, record) in reader.entries(DirId(id), None, usize::MAX)? {
            assert_eq!(reader.entry(DirId(id), &name)?.as_ref(), Some(&record));
            text += &format!("{id} {name:?} {record:?}\n");
        }
        text += &format!("{:?} {:?}\n", reader.ranges(id)?, reader.link(1, id)?);
    }
    text += &format!("{:?}\n", reader.open_dirs_below(None, None, usize::MAX)?);
    text += &format!("{:?}\n", reader.open_files(None, usize::MAX)?);
    text += &format!("{:?}\n{:?}\n", reader.any_late_links(usize::MAX)?, reader.reseal_dirs()?);
    Ok(text)
}

/// Rows of every kind, some taking back what earlier batches did.
fn random_batch(random: &mut Random, header: &Header, rows: u64) -> Batch {
    let header = Header { durable_batch: header.durable_batch + 1, ..header.clone() };
    let rows = (0..rows).map(|_| random_row(random, header.durable_batch)).collect();
    let mut reseal_dirs: Vec<DirId> = (0..random.below(3000)).map(|_| DirId(random.below(1 << 40))).collect();
    reseal_dirs.sort_unstable();
    reseal_dirs.dedup();
    Batch { rows, header, reseal_dirs }
}

fn random_row(random: &mut Random, batch: u64) -> Row {
    let dir = DirId(1 + random.below(39));
    let number = random.below(200);
    let len = if number == 0 { 300 } else { 1 + random.below(20) as usize };
    let name = Name::new(format!("{number:0len$}")).unwrap();
    let state = if random.below(2) == 0 { DirState::Unlisted } else { DirState::Unfinished };
    let record = FileRecord { batch, ..file(random.below(1 << 30)) };
    let stamp = number.is_multiple_of(2).then(|| DirStamp { ino: number, ..DirStamp::default() });
    match random.below(24) {
        0 => Row::DeleteEntry { dir, name },
        1 => Row::PutDir {
            id: dir,
            record: DirRecord { parent: DirId::ROOT, name, stamp, listed_batch: batch, ..DirRecord::default() },
        },
        2 => Row::DeleteDir { id: dir },
        3 => Row::OpenDir { id: dir, state },
        4 => Row::CloseDir { id: dir },
        5 => Row::OpenFile { dir, name },
        6 => Row::CloseFile { dir, name },
        7 => Row::PutRange { large_id: dir.0, range: Range { offset: number, len: 9, crc64: Some(batch), etag: None } },
        8 => Row::DropRanges { large_id: dir.0 },
        9 => Row::PutLink { dev: 1, ino: dir.0, first: LinkFirst { dir, name, batch } },
        10 => Row::PutLateLink { dev: 1, ino: number, dir, name },
        11 => Row::DropLateLink { dev: 1, ino: number, dir, name },
        12 => Row::PutEntry { dir, name, record: Record::Dir(DirId(number)) },
        _ => Row::PutEntry { dir, name, record: Record::File(record) },
    }
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
    assert_eq!(header.clone().for_this_boot(), header);
    drop(catalog);
    assert_eq!(open(&scratch.state()).unwrap().header(), header);
}

#[test]
fn reopens_between_random_batches_find_everything() {
    let scratch = Scratch::new("reopens");
    let seed = 0x9e37_79b9_7f4a_7c15;
    eprintln!("seed {seed:#x}");
    let mut random = Random(seed);
    for _ in 0..20 {
        let mut catalog = open(&scratch.state()).unwrap();
        for _ in 0..random.below(5) {
            let rows = random.below(2000);
            catalog.commit(&random_batch(&mut random, &catalog.header(), rows)).unwrap();
        }
        let before = dump(&catalog).unwrap();
        drop(catalog);
        catalog = open(&scratch.state()).unwrap();
        assert_eq!(dump(&catalog).unwrap(), before);
    }
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
        ..DirRecord::default()
    };
    let long = "x".repeat(1024);
    let first = LinkFirst { dir: DirId(70_000), name: name("a"), batch: 1 };
    let failed = FileRecord {
        status: Status::Failed,
        failure: Some(Failure { errno: 5, verb: "read".into(), cause: "Input/output error".into(), attempts: 3 }),
        ..file(4)
    };
    let range = |offset| Range {
        offset,
        len: 1 << 28,
        crc64: (offset != 0).then_some(offset * 3),
        etag: (offset == 0).then_some(8),
    };
    let upload =
        Upload { id: "2~abc/def".repeat(40), part_bytes: 16 << 20, key: "dir/\u{e4}".to_owned(), begun_secs: 7 };
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
        Row::ListFrom { id: DirId(70_000), mark: "sub/\u{e4}".to_owned() },
        Row::OpenDir { id: DirId(3), state: DirState::Unfinished },
        Row::OpenDir { id: DirId(300), state: DirState::Unlisted },
        Row::OpenFile { dir: DirId(70_000), name: name("bad") },
        Row::OpenFile { dir: DirId(70_000), name: name(&long) },
        Row::PutRange { large_id: 17, range: range(1 << 28) },
        Row::PutRange { large_id: 17, range: range(0) },
        Row::PutRange { large_id: 18, range: range(0) },
        Row::PutUpload { large_id: 17, upload: upload.clone() },
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
    assert_eq!(reader.listed_to(DirId(70_000)).unwrap().as_deref(), Some("sub/\u{e4}"));
    assert_eq!(reader.listed_to(DirId(300)).unwrap(), None);
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
    assert_eq!((reader.upload(17).unwrap(), reader.upload(18).unwrap()), (Some(upload), None));
    assert_eq!(reader.open_dirs_below(None, Some(unfinished), 10).unwrap(), open_dirs[2..]);
    let open_files = [(DirId(70_000), name("bad")), (DirId(70_000), name(&long))];
    assert_eq!(reader.open_files(None, 10).unwrap(), open_files);
    assert_eq!(reader.open_files(Some(&open_files[0]), 10).unwrap(), open_files[1..]);
    assert_eq!(reader.ranges(17).unwrap(), [range(0), range(1 << 28)]);
    assert_eq!(reader.link(3, 99).unwrap(), Some(first));
    assert_eq!(reader.link(3, 98).unwrap(), None);
    assert_eq!(reader.late_links(3, 99, 10).unwrap(), [(DirId(1), name("late"))]);
    let late = [(3, 99, DirId(1), name("late")), (3, 100, DirId(1), name(&long))];
    assert_eq!((reader.any_late_links(10).unwrap(), reader.late_links_len().unwrap()), (late.to_vec(), 2));
    assert_eq!(reader.reseal_dirs().unwrap(), reseal_dirs);
}

#[test]
fn names_asked_together_are_what_they_are_one_by_one() {
    let scratch = Scratch::new("together");
    let catalog = open(&scratch.state()).unwrap();
    let mut random = Random(20_261_129);
    let text = |number: u64| match number % 9 {
        0 => format!("{}-{number}", "long".repeat(62)),
        1 => format!("file-{number}").repeat(3),
        _ => format!("file-{number}"),
    };
    let rows = (1..=3).flat_map(|dir| (0..400).map(move |number| (dir, number)));
    let rows: Vec<(u64, u64)> = rows.filter(|_| random.below(3) > 0).collect();
    commit(&catalog, rows.into_iter().map(|(dir, number)| put_file(dir, &text(number), number)).collect());
    let reader = catalog.reader().unwrap();
    let mut found = 0;
    for turn in 0..200 {
        // All of them, a few, or some close together: of a directory that has records, or of one behind the last.
        let (first, count) = (random.below(400), 1 + random.below(400));
        let numbers = (0..count).map(|n| if turn % 2 == 0 { random.below(600) } else { (first + n) % 600 });
        let names: Vec<Name> = numbers.map(|number| name(&text(number))).collect();
        let dir = DirId(1 + random.below(4));
        let mut records: Vec<Option<Record>> = names.iter().map(|_| None).collect();
        let mut asked: Vec<_> = names.iter().map(|name| name.as_c_str()).zip(&mut records).collect();
        reader.entries_named(dir, &mut asked).unwrap();
        let one_by_one: Vec<_> = names.iter().map(|name| reader.entry(dir, name).unwrap()).collect();
        assert_eq!(format!("{records:?}"), format!("{one_by_one:?}"), "turn {turn}");
        found += one_by_one.iter().flatten().count();
    }
    assert!(found > 1000, "{found}");
}

#[test]
fn changes_take_effect_in_their_order() {
    let scratch = Scratch::new("order");
    let catalog = open(&scratch.state()).unwrap();
    let range = |offset| Range { offset, len: 1, crc64: None, etag: None };
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
                record: DirRecord { parent: DirId(1), name: name("d"), ..DirRecord::default() },
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
fn of_many_that_begin_a_job_at_once_one_has_it() {
    let scratch = Scratch::new("at-once");
    for turn in 0..10 {
        let state = scratch.0.join(format!("state-{turn}"));
        let answers: Vec<Result<Catalog, Error>> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&state))).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        let (had, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(had.len(), 1);
        refused.into_iter().for_each(|answer| drop(refusal(answer)));
    }
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

/// A job file as a gfast of format 1 has written it.
fn write_format_1(catalog: &Path) {
    let text = fs::read_to_string(catalog.join("job")).unwrap();
    let body = text.rsplit_once("crc=").unwrap().0.replace("format=2", "format=1");
    fs::write(catalog.join("job"), format!("{body}crc={:08x}\n", crc32fast::hash(body.as_bytes()))).unwrap();
}

#[test]
fn a_job_of_an_older_format_goes_on_and_tells_the_newer_one() {
    let scratch = Scratch::new("format");
    let catalog = open(&scratch.state()).unwrap();
    let (path, job_id) = (catalog.path().to_owned(), catalog.header().job_id);
    drop(catalog);
    let written = fs::read(path.join("job")).unwrap();
    write_format_1(&path);
    assert_ne!(fs::read(path.join("job")).unwrap(), written);
    // Who only reads changes nothing.
    assert_eq!(Catalog::open_recorded(&scratch.state(), None).unwrap().1, identity());
    // Nor does a run, for as long as it may be refused.
    drop(open(&scratch.state()).unwrap());
    assert_ne!(fs::read(path.join("job")).unwrap(), written);
    // What a process that died while raising it has left.
    fs::write(path.join("job.new"), vec![b'x'; written.len() * 2]).unwrap();
    let catalog = open(&scratch.state()).unwrap();
    assert_eq!(catalog.header().job_id, job_id);
    catalog.raise_format(&identity()).unwrap();
    assert_eq!(fs::read(path.join("job")).unwrap(), written);
    assert!(!path.join("job.new").exists());
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
