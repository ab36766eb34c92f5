//! Any bytes into the decoders of records: a record or a refusal, never a panic; and a record survives being written
//! again.
#![no_main]

use gfast::catalog::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    let mut again = Vec::new();
    match which % 5 {
        0 => {
            if let Ok(record) = decode_record(body) {
                encode_record(&record, &mut again);
                assert_eq!(decode_record(&again), Ok(record));
            }
        }
        1 => {
            if let Ok(dir) = decode_dir(body) {
                encode_dir(&dir, &mut again);
                assert_eq!(decode_dir(&again), Ok(dir));
            }
        }
        2 => {
            if let Ok(range) = decode_range(7, body) {
                encode_range(&range, &mut again);
                assert_eq!(decode_range(7, &again), Ok(range));
            }
        }
        3 => {
            if let Ok(upload) = decode_upload(body) {
                encode_upload(&upload, &mut again);
                assert_eq!(decode_upload(&again), Ok(upload));
            }
        }
        _ => {
            if let Ok(first) = decode_link(body) {
                encode_link(&first, &mut again);
                assert_eq!(decode_link(&again), Ok(first));
            }
        }
    }
});
