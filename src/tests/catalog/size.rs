//! Size: what an entry takes on disk, in the order a walk over several directories at a time brings entries.

use std::os::unix::fs::MetadataExt;

use super::{Batch, DirId, Row, Scratch, open, put_file};

const BYTES_MAX: u64 = 200;
const DIRS: u64 = 1000;
const FILES_PER_DIR: u64 = 100;
const DIRS_AT_A_TIME: u64 = 16;
const ROWS_PER_BATCH: usize = 8192;

#[test]
fn an_entry_takes_at_most_200_bytes_on_disk() {
    let scratch = Scratch::new("size");
    let catalog = open(&scratch.state()).unwrap();
    let mut rows: Vec<Row> = Vec::new();
    for group in 0..DIRS.div_ceil(DIRS_AT_A_TIME) {
        for file in 0..FILES_PER_DIR {
            for dir in group * DIRS_AT_A_TIME..DIRS.min((group + 1) * DIRS_AT_A_TIME) {
                rows.push(put_file(2 + dir, &format!("file-{file:04}-{dir:07}"), dir * FILES_PER_DIR + file));
            }
        }
    }
    for rows in rows.chunks(ROWS_PER_BATCH) {
        let batch = Batch { rows: rows.to_vec(), header: catalog.header(), reseal_dirs: vec![DirId(2)] };
        catalog.commit(&batch).unwrap();
    }
    let bytes = std::fs::metadata(catalog.path().join("data.mdb")).unwrap().blocks() * 512;
    let entries = DIRS * FILES_PER_DIR;
    eprintln!("{} bytes an entry", bytes / entries);
    assert!(bytes / entries <= BYTES_MAX, "{bytes} bytes for {entries} entries");
}
