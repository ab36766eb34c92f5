//! The catalog alone: bytes an entry and time for 1,000,000 files in 10,000 directories, in four orders of arrival.
//!
//! `cargo bench --bench catalog` works in the temporary directory (TMPDIR); on a RAM-backed one it measures the code,
//! on a disk the disk. A commit holds 65,536 rows as the engine's largest one does.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gfast::catalog::*;
use gfast::error::Result;
use gfast::report::LossSet;
use gfast::ring::{Name, Time};

const DIRS: u64 = 10_000;
const FILES_PER_DIR: u64 = 100;
const ROWS_PER_BATCH: usize = 65_536;

/// In which order the outcomes of files arrive.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// One directory after the other, names ascending.
    InTurn,
    /// 16 directories at a time: a walk on two shards.
    Interleaved16,
    /// 1,024 directories at a time: the most streams there are.
    Interleaved1024,
    /// Any file at any time.
    Random,
}

fn main() {
    for order in [Order::InTurn, Order::Interleaved16, Order::Interleaved1024, Order::Random] {
        let dir = std::env::temp_dir().join(format!("gfast-bench-catalog-{}", std::process::id()));
        let outcome = run(order, &dir);
        // Removed also when the run failed; what cannot be removed is the next one's error.
        let _ = std::fs::remove_dir_all(&dir);
        match outcome {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
    }
}

fn run(order: Order, state_dir: &Path) -> Result<String> {
    let catalog = open(state_dir)?;
    let files = files_in(order);
    let start = Instant::now();
    fill(&catalog, &files)?;
    let write_secs = start.elapsed().as_secs_f64();
    let path = catalog.path().to_owned();
    drop(catalog);

    let start = Instant::now();
    let catalog = open(state_dir)?;
    let open_secs = start.elapsed().as_secs_f64();
    let start = Instant::now();
    ask_for_work(&catalog)?;
    let resume_secs = start.elapsed().as_secs_f64();
    let start = Instant::now();
    look_up(&catalog, &files)?;
    let read_secs = start.elapsed().as_secs_f64();
    Ok(format!(
        "{order:?}: {} bytes an entry; written in {write_secs:.2} s, opened and checked in {open_secs:.2} s, \
         work of a resume found in {:.0} us, every name looked up in {read_secs:.2} s",
        bytes_of(path) / (DIRS * FILES_PER_DIR),
        resume_secs * 1e6,
    ))
}

fn open(state_dir: &Path) -> Result<Catalog> {
    let identity = JobIdentity {
        source: b"/source".to_vec(),
        dest: b"/dest".to_vec(),
        source_root: RootId::default(),
        dest_root: RootId::default(),
        options: Vec::new(),
        source_server: String::new(),
        dest_server: String::new(),
    };
    Catalog::open(state_dir, &identity, false)
}

fn files_in(order: Order) -> Vec<(u64, u64)> {
    let at_a_time = match order {
        Order::InTurn => 1,
        Order::Interleaved16 => 16,
        Order::Interleaved1024 => 1024,
        Order::Random => DIRS,
    };
    let mut files = Vec::new();
    for group in (0..DIRS).step_by(at_a_time as usize) {
        for file in 0..FILES_PER_DIR {
            files.extend((group..DIRS.min(group + at_a_time)).map(|dir| (dir, file)));
        }
    }
    if matches!(order, Order::Random) {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for index in (1..files.len()).rev() {
            // xorshift64*, Vigna 2016.
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            files.swap(index, (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % (index + 1));
        }
    }
    files
}

/// What the engine records of a whole copy: directories opened, listed and closed, files done.
fn fill(catalog: &Catalog, files: &[(u64, u64)]) -> Result<()> {
    let mut header = catalog.header();
    let mut is_known = vec![false; DIRS as usize];
    for files in files.chunks(ROWS_PER_BATCH) {
        header.durable_batch += 1;
        header.completed_batch = header.durable_batch - 1;
        let mut rows = Vec::with_capacity(files.len() + 64);
        let mut reseal_dirs: Vec<DirId> = files.iter().map(|(dir, _)| id(*dir)).collect();
        reseal_dirs.sort_unstable();
        reseal_dirs.dedup();
        for (dir, file) in files {
            if !std::mem::replace(&mut is_known[*dir as usize], true) {
                put_dir(*dir, header.durable_batch, &mut rows);
            }
            let record = Record::File(record(*dir, *file, header.durable_batch));
            rows.push(Row::PutEntry { dir: id(*dir), name: name(*dir, *file), record });
        }
        catalog.commit(&Batch { rows, header: header.clone(), reseal_dirs })?;
    }
    Ok(())
}

fn id(dir: u64) -> DirId {
    DirId(dir + 2)
}

fn put_dir(dir: u64, batch: u64, rows: &mut Vec<Row>) {
    let name = Name::new(format!("directory-{dir:07}")).unwrap_or_default();
    let stamp = Some(DirStamp { mode: 0o40755, ino: 1_000_000 + dir, dev: 2049, ..DirStamp::default() });
    let record =
        DirRecord { parent: DirId::ROOT, name: name.clone(), stamp, listed_batch: batch, ..DirRecord::default() };
    rows.push(Row::PutEntry { dir: DirId::ROOT, name, record: Record::Dir(id(dir)) });
    rows.push(Row::PutDir { id: id(dir), record });
    rows.push(Row::CloseDir { id: id(dir) });
}

/// 17 bytes.
fn name(dir: u64, file: u64) -> Name {
    Name::new(format!("file-{file:04}-{dir:07}")).unwrap_or_default()
}

fn record(dir: u64, file: u64, batch: u64) -> FileRecord {
    let number = dir * FILES_PER_DIR + file;
    let mtime =
        Time { secs: 1_750_000_000 + (number / 5000) as i64, nanos: (number * 7_654_321 % 1_000_000_000) as u32 };
    let ctime = Time { secs: mtime.secs, nanos: (mtime.nanos + 50_000) % 1_000_000_000 };
    FileRecord {
        status: Status::Done,
        batch,
        stamp: Stamp { size: 4096, mtime, ctime, ino: 2_000_000 + number },
        dest_ino: 3_000_000 + number,
        large_id: 0,
        failure: None,
        checksum: None,
        losses: LossSet::default(),
        owner: Some(Owner::default()),
    }
}

fn ask_for_work(catalog: &Catalog) -> Result<()> {
    let reader = catalog.reader()?;
    reader.open_dirs_below(None, None, 1000)?;
    reader.open_files(None, 1000)?;
    reader.any_late_links(1000)?;
    reader.reseal_dirs().map(drop)
}

fn look_up(catalog: &Catalog, files: &[(u64, u64)]) -> Result<()> {
    for files in files.chunks(1000) {
        let reader = catalog.reader()?;
        for (dir, file) in files {
            assert!(reader.entry(id(*dir), &name(*dir, *file))?.is_some(), "a record is gone");
        }
    }
    Ok(())
}

fn bytes_of(folder: PathBuf) -> u64 {
    std::fs::metadata(folder.join("data.mdb")).map_or(0, |metadata| metadata.blocks() * 512)
}
