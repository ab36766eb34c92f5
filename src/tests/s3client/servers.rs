//! The client against whatever server the environment names: `eval "$(scripts/s3-servers start radosgw)"`, then
//! `cargo test --test s3client -- --ignored`.

use std::sync::Arc;

use bytes::Bytes;
use gfast::config::S3Options;
use gfast::digest::crc64;
use gfast::error::Cause;
use gfast::provider::s3::{Bucket, ByteRange, Checksums, Client};
use gfast::ring::Side;

use super::{PART_BYTES, block, key, list_all, noise, read};
use crate::support::Rng;

/// Odd keys that every server tried takes.
const NAMES: [&str; 6] = ["a+b", "a%41", "a b", "\u{e4}\u{1f980}", "a&<b>'", "c++/d+e"];

async fn client() -> Client {
    let bucket = std::env::var("GFAST_S3_BUCKET").expect("scripts/s3-servers has been started");
    let bucket = Bucket::open(&bucket, "", &S3Options::default(), Side::Dest).await.unwrap();
    Client::new(Arc::new(bucket)).unwrap()
}

#[test]
#[ignore = "needs a server: scripts/s3-servers"]
fn odd_keys_are_stored_listed_and_removed() {
    block(async {
        let client = client().await;
        let prefix = format!("odd-{}/", std::process::id());
        for name in NAMES {
            let content = Bytes::from(name.as_bytes());
            let attributes = [("file-mtime".to_owned(), "5ns".to_owned())];
            client.put(&key(&format!("{prefix}{name}")), content.clone(), crc64(&content), &attributes).await.unwrap();
        }
        let (all, _) = list_all(&client, &prefix).await;
        let mut listed: Vec<String> = all.objects.iter().map(|object| object.key.clone()).collect();
        listed.extend(all.prefixes);
        listed.sort_unstable();
        let mut expected: Vec<String> =
            NAMES[..5].iter().chain(&["c++/"]).map(|name| format!("{prefix}{name}")).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for name in NAMES {
            let key = key(&format!("{prefix}{name}"));
            let download = client.get(&key, None, None).await.unwrap();
            assert_eq!(download.object.attributes.get("file-mtime").map(String::as_str), Some("5ns"));
            assert_eq!(read(download).await.unwrap(), name.as_bytes());
            client.delete(&key).await.unwrap();
            assert_eq!(client.head(&key).await.unwrap(), None);
        }
    });
}

#[test]
#[ignore = "needs a server: scripts/s3-servers"]
fn parts_copies_ranges_and_resumed_uploads_agree() {
    let mut rng = Rng::new(7);
    block(async {
        let client = client().await;
        let name = format!("parts-{}/\u{fc} +%41", std::process::id());
        let (whole_key, copy_key) = (key(&name), key(&format!("{name}.copy")));
        let pieces = [noise(&mut rng, PART_BYTES), noise(&mut rng, 999)];
        let whole = Bytes::from(pieces.concat());
        let given_up = client.create_upload(&whole_key, &[]).await.unwrap().0;
        let upload = client.create_upload(&whole_key, &[("file-owner".to_owned(), "7".to_owned())]).await.unwrap().0;
        let uploads = client.list_uploads("parts-").await.unwrap();
        assert!(uploads.is_empty() || uploads.iter().any(|u| (&u.key, &u.id) == (&name, &upload)), "{uploads:?}");
        client.abort_upload(&whole_key, &given_up).await.unwrap();
        let mut parts = Vec::new();
        for (piece, number) in pieces.iter().zip(1..) {
            let part = client.put_part(&whole_key, &upload, number, piece.clone(), crc64(piece)).await.unwrap();
            parts.push(part);
        }
        let listed = client.list_parts(&whole_key, &upload).await.unwrap().unwrap();
        assert!(
            listed.is_empty() || listed.iter().map(|p| (&p.etag, p.len)).eq(parts.iter().map(|p| (&p.etag, p.len)))
        );
        client.complete_upload(&whole_key, &upload, &parts, crc64(&whole)).await.unwrap();
        let head = client.head(&whole_key).await.unwrap().unwrap();
        assert_eq!((head.size, head.attributes.get("file-owner").unwrap().as_str()), (whole.len() as u64, "7"));
        assert!(client.bucket().checksums() == Checksums::Ignored || head.crc64 == Some(crc64(&whole)));
        let range = ByteRange { offset: 5_000_000, len: 243_000 };
        let download = client.get(&whole_key, Some(range), Some(&head.etag)).await.unwrap();
        assert!(read(download).await.unwrap() == whole[5_000_000..5_243_000]);
        let other = client.get(&whole_key, Some(range), Some("0123456789abcdef0123456789abcdef")).await.err().unwrap();
        assert_eq!(other.cause, Cause::Unstable { attempts: 1 });
        client.copy(client.bucket(), &whole_key, &head.etag, &copy_key, None).await.unwrap();
        assert!(read(client.get(&copy_key, None, None).await.unwrap()).await.unwrap() == whole);
        let again = client.complete_upload(&whole_key, &upload, &parts, crc64(&whole)).await;
        assert!(again.is_ok_and(|stored| stored.etag == head.etag), "a completion sent twice finds its object");
        for key in [whole_key, copy_key] {
            client.delete(&key).await.unwrap();
        }
    });
}
