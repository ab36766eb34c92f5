//! Any bytes as a server's answer: read or refused, never a panic, and what is written is read again.
#![no_main]

use gfast::provider::s3::{attributes, extended, keys, xml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(mut listing) = xml::listing(data) {
        listing.unescape();
        for object in &listing.page.objects {
            let name = keys::name_of(&object.key);
            assert!(name.is_none_or(|name| keys::encode_name(&name).0 == object.key));
        }
    }
    if let Ok(page) = xml::parts(data) {
        let parts: Vec<_> = page.parts.iter().collect();
        let body = xml::complete(&parts);
        let again = xml::parts(body.as_bytes());
        assert!(again.is_ok_and(|again| again.parts.len() == parts.len()));
    }
    let _ = (xml::failure(data), xml::uploads(data), xml::upload_id(data), xml::made(data));
    extended::decode(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let names = ["file-mtime", "mtime", "atime", "mode", "file-permissions", "gfast-link"];
        attributes::decode(&names.iter().map(|name| ((*name).to_owned(), text.to_owned())).collect());
    }
    let name: Vec<u8> = data.iter().copied().filter(|byte| !matches!(byte, 0 | b'/')).take(255).collect();
    if !matches!(name.as_slice(), b"" | b"." | b"..") {
        assert!(keys::name_of(&keys::encode_name(&name).0) == Some(name));
    }
});
