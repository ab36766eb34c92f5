//! Any bytes into the decoders of the header and of the list of directories to seal again.
#![no_main]

use gfast::catalog::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = decode_header(data) {
        let mut again = Vec::new();
        encode_header(&header, &mut again);
        assert_eq!(decode_header(&again), Ok(header));
    }
    let mut dirs = Vec::new();
    if decode_piece(data, &mut dirs).is_ok() {
        assert!(dirs.is_sorted() && dirs.len() < data.len());
    }
});
