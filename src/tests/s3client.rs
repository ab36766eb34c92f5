//! The S3 client against a real server (s3s-fs) and against one that answers what a test says.

mod support;

#[path = "s3client/faults.rs"]
mod faults;

#[path = "s3client/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use gfast::config::S3Options;
use gfast::digest::{combine, crc64};
use gfast::error::{Cause, Error};
use gfast::provider::s3::attributes;
use gfast::provider::s3::{Bucket, ByteRange, Checksums, Client, Download, From, Key, Page, Part, Variables};
use gfast::ring::{Side, Stat, Time};
use support::s3::S3sFs;
use support::{Rng, Scratch, seed};

/// The bucket of all tests.
const BUCKET: &str = "bucket";
/// Least size of a part that is not the last.
const PART_BYTES: usize = 5 << 20;

/// Runs a test's requests as a lane does: on one thread.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// An environment with these keys and nothing else.
pub fn variables(access_key: &str, secret_key: &str) -> Variables {
    let pairs = [
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A server with an empty bucket.
struct World {
    /// The server; stopped first.
    server: S3sFs,
    /// Where the objects are.
    objects: PathBuf,
    /// What it keeps.
    _dir: Scratch,
}

impl World {
    fn new() -> World {
        let dir = Scratch::new();
        let server = S3sFs::start(dir.path());
        let objects = server.bucket(BUCKET);
        World { server, objects, _dir: dir }
    }

    fn options(&self) -> S3Options {
        S3Options { endpoint_url: Some(self.server.endpoint()), ..S3Options::default() }
    }

    async fn open(&self, bucket: &str, access_key: &str, secret_key: &str) -> Result<Bucket, Error> {
        Bucket::open_at(bucket, "", &self.options(), Side::Dest, &variables(access_key, secret_key)).await
    }

    async fn client(&self) -> Client {
        let bucket = self.open(BUCKET, self.server.access_key(), self.server.secret_key()).await.unwrap();
        Client::new(Arc::new(bucket)).unwrap()
    }
}

/// A key that may be sent.
pub fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

/// All bytes of a download.
pub async fn read(mut download: Download) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

fn noise(rng: &mut Rng, len: usize) -> Bytes {
    let mut content = vec![0; len];
    rng.fill(&mut content);
    Bytes::from(content)
}

fn is_refused_digest(error: &Error) -> bool {
    matches!(&error.cause, Cause::Remote { status: 400, code } if code == "BadDigest" || code == "InvalidDigest")
}

#[test]
fn an_object_and_its_attributes_come_back_as_they_went() {
    let world = World::new();
    let mut rng = Rng::new(seed("an_object_and_its_attributes_come_back_as_they_went", 1));
    block(async {
        let client = world.client().await;
        assert_eq!(client.bucket().checksums(), Checksums::Unknown);
        let stat = Stat {
            mode: 0o104_751,
            uid: 12,
            gid: 4_294_967_294,
            atime: Time { secs: -5, nanos: 999_999_999 },
            mtime: Time { secs: 1_700_000_000, nanos: 1 },
            ..Stat::default()
        };
        let attributes = attributes::encode(&stat, Some(b"\xff\n"), Some("first/\u{e4} link"));
        for len in [0, 1, 300_000] {
            let (content, key) = (noise(&mut rng, len), key(&format!("dir/object {len}")));
            let stored = client.put(&key, content.clone(), crc64(&content), &attributes).await.unwrap();
            assert!(stored.is_checked, "s3s-fs keeps checksums");
            let head = client.head(&key).await.unwrap().unwrap();
            assert_eq!((head.size, head.etag.as_str()), (len as u64, stored.etag.as_str()));
            assert_eq!(head.attributes, attributes.iter().cloned().collect::<BTreeMap<_, _>>());
            assert_eq!(head.crc64, Some(crc64(&content)));
            assert!(head.modified.secs > 1_700_000_000);
            let download = client.get(&key, None, Some(&head.etag)).await.unwrap();
            assert_eq!(download.object, head);
            assert_eq!(read(download).await.unwrap(), content);
        }
        assert_eq!(client.bucket().checksums(), Checksums::Stored);
        let posix = attributes::decode(&client.head(&key("dir/object 1")).await.unwrap().unwrap().attributes);
        assert_eq!((posix.mode, posix.uid, posix.gid), (Some(stat.mode), Some(stat.uid), Some(stat.gid)));
        assert_eq!((posix.atime, posix.mtime), (Some(stat.atime), Some(stat.mtime)));
        assert_eq!(posix.link.as_deref(), Some("first/\u{e4} link"));
    });
}

/// Lanes run the client beside their ring.
#[test]
fn the_client_runs_on_the_runtime_of_a_ring() {
    let world = World::new();
    let content = Bytes::from(vec![9; 3 << 20]);
    let work = async {
        let client = world.client().await;
        client.put(&key("k"), content.clone(), crc64(&content), &[]).await.unwrap();
        read(client.get(&key("k"), None, None).await.unwrap()).await.unwrap()
    };
    if io_uring::IoUring::new(8).is_err() {
        support::fixture::skip("the_client_runs_on_the_runtime_of_a_ring", "no io_uring");
        return;
    }
    assert!(tokio_uring::start(work) == content);
}

#[test]
fn a_wrong_checksum_is_refused_and_stores_nothing() {
    let world = World::new();
    block(async {
        let client = world.client().await;
        let content = Bytes::from_static(b"content");
        let wrong = crc64(b"other content");
        let error = client.put(&key("a"), content, wrong, &[]).await.unwrap_err();
        assert!(is_refused_digest(&error), "{error}");
        // s3s-fs has stored it all the same; the client does not leave it there.
        assert_eq!(client.head(&key("a")).await.unwrap(), None);
    });
}

#[test]
fn ranges_are_read_of_the_version_that_was_asked_for() {
    let world = World::new();
    let mut rng = Rng::new(seed("ranges_are_read_of_the_version_that_was_asked_for", 2));
    block(async {
        let client = world.client().await;
        let (content, none, key) = (noise(&mut rng, 1_000_000), key("none"), key("big"));
        let stored = client.put(&key, content.clone(), crc64(&content), &[]).await.unwrap();
        for (offset, len) in [(0, 1), (0, 1_000_000), (999_999, 1), (12_345, 600_000)] {
            let range = ByteRange { offset, len };
            let download = client.get(&key, Some(range), Some(&stored.etag)).await.unwrap();
            assert_eq!(download.object.size, 1_000_000);
            let expected = &content[offset as usize..(offset + len) as usize];
            assert!(read(download).await.unwrap() == expected, "{range:?}");
        }
        let range = Some(ByteRange { offset: 0, len: 10 });
        let other = client.get(&key, range, Some("0123456789abcdef")).await.err().unwrap();
        assert_eq!(other.cause, Cause::Unstable { attempts: 1 });
        let beyond = Some(ByteRange { offset: 2_000_000, len: 10 });
        assert_eq!(client.get(&key, beyond, None).await.err().unwrap().cause, Cause::Unstable { attempts: 1 });
        let over = Some(ByteRange { offset: 999_990, len: 20 });
        assert_eq!(client.get(&key, over, None).await.err().unwrap().cause, Cause::Unstable { attempts: 1 });
        let none = client.get(&none, None, None).await.err().unwrap();
        assert_eq!(none.cause, Cause::Vanished);
        client.delete(&key).await.unwrap();
        client.delete(&key).await.unwrap();
        assert_eq!(client.head(&key).await.unwrap(), None);
    });
}

#[test]
fn parts_make_an_object_whatever_their_order() {
    let world = World::new();
    let mut rng = Rng::new(seed("parts_make_an_object_whatever_their_order", 3));
    block(async {
        let client = world.client().await;
        let key = key("parts/\u{fc}ber");
        let pieces = [noise(&mut rng, PART_BYTES), noise(&mut rng, PART_BYTES), noise(&mut rng, 77)];
        let whole = pieces.concat();
        let attributes = [("file-owner".to_owned(), "7".to_owned())];
        let upload = client.create_upload(&key, &attributes).await.unwrap().0;
        let mut parts: Vec<Part> = Vec::new();
        for number in [3, 1, 2] {
            let piece = pieces[number as usize - 1].clone();
            let crc = crc64(&piece);
            parts.push(client.put_part(&key, &upload, number, piece, crc).await.unwrap());
        }
        let listed = client.list_parts(&key, &upload).await.unwrap().unwrap();
        let seen: Vec<_> = listed.iter().map(|part| (part.number, part.len)).collect();
        assert_eq!(seen, [(1, PART_BYTES as u64), (2, PART_BYTES as u64), (3, 77)]);
        let crc = combine(combine(crc64(&pieces[0]), crc64(&pieces[1]), PART_BYTES as u64), crc64(&pieces[2]), 77);
        assert_eq!(crc, crc64(&whole));
        let stored = client.complete_upload(&key, &upload, &parts, crc).await.unwrap();
        assert!(!stored.is_checked, "s3s-fs keeps no checksum of what it put together, and says so");
        let head = client.head(&key).await.unwrap().unwrap();
        assert_eq!((head.size, &head.etag), (whole.len() as u64, &stored.etag));
        assert_eq!(head.attributes.get("file-owner").map(String::as_str), Some("7"));
        assert!(read(client.get(&key, None, None).await.unwrap()).await.unwrap() == whole);
    });
}

#[test]
fn an_upload_that_is_given_up_is_gone() {
    let world = World::new();
    block(async {
        let client = world.client().await;
        let upload = client.create_upload(&key("a"), &[]).await.unwrap().0;
        let content = Bytes::from_static(b"part");
        client.put_part(&key("a"), &upload, 1, content.clone(), crc64(&content)).await.unwrap();
        client.abort_upload(&key("a"), &upload).await.unwrap();
        let left = client.list_parts(&key("a"), &upload).await.unwrap();
        assert!(left.is_none_or(|parts| parts.is_empty()));
        assert_eq!(client.head(&key("a")).await.unwrap(), None);
        assert_eq!(client.list_uploads("").await.unwrap(), []);
    });
}

#[test]
fn the_server_copies_objects_and_parts() {
    let world = World::new();
    let mut rng = Rng::new(seed("the_server_copies_objects_and_parts", 4));
    block(async {
        let client = world.client().await;
        let source = world.client().await;
        assert!(client.bucket().is_same_account(source.bucket()));
        let content = noise(&mut rng, PART_BYTES + 1000);
        let from = key("from +%41 \u{e4}/x");
        let attributes = [("file-owner".to_owned(), "7".to_owned())];
        let stored = source.put(&from, content.clone(), crc64(&content), &attributes).await.unwrap();
        client.copy(source.bucket(), &from, &stored.etag, &key("kept"), None).await.unwrap();
        let kept = client.head(&key("kept")).await.unwrap().unwrap();
        assert_eq!(kept.attributes.get("file-owner").map(String::as_str), Some("7"));
        assert!(read(client.get(&key("kept"), None, None).await.unwrap()).await.unwrap() == content);
        let upload = client.create_upload(&key("parts"), &[]).await.unwrap().0;
        let mut parts = Vec::new();
        for (number, offset, len) in [(1, 0, PART_BYTES as u64), (2, PART_BYTES as u64, 1000)] {
            let range = ByteRange { offset, len };
            let etag = &stored.etag;
            let part =
                client.copy_part(source.bucket(), &from, etag, range, &key("parts"), &upload, number).await.unwrap();
            assert_eq!((part.number, part.len), (number, len));
            parts.push(part);
        }
        client.complete_upload(&key("parts"), &upload, &parts, crc64(&content)).await.unwrap();
        assert!(read(client.get(&key("parts"), None, None).await.unwrap()).await.unwrap() == content);
        let none = client.copy(source.bucket(), &key("none"), "", &key("x"), None).await.unwrap_err();
        assert_eq!(none.cause, Cause::Vanished);
    });
}

/// Every page of a prefix.
async fn list_all(client: &Client, prefix: &str) -> (Page, usize) {
    let (mut all, mut pages, mut from) = (Page::default(), 0, From::Start);
    loop {
        let page = client.list(prefix, &from).await.unwrap();
        all.objects.extend(page.objects);
        all.prefixes.extend(page.prefixes);
        pages += 1;
        match page.next {
            Some(token) => from = From::Token(token),
            None => return (all, pages),
        }
    }
}

#[test]
fn long_listings_come_in_pages_and_go_on_anywhere() {
    let world = World::new();
    std::fs::create_dir(world.objects.join("many")).unwrap();
    for number in 0..2_100 {
        std::fs::write(world.objects.join(format!("many/{number:05}")), b"x").unwrap();
    }
    for dir in ["a", "b"] {
        std::fs::create_dir(world.objects.join(format!("many/{dir}"))).unwrap();
        std::fs::write(world.objects.join(format!("many/{dir}/below")), b"y").unwrap();
    }
    block(async {
        let client = world.client().await;
        let (all, pages) = list_all(&client, "many/").await;
        let keys: Vec<_> = all.objects.iter().map(|object| object.key.clone()).collect();
        assert_eq!(keys, (0..2_100).map(|number| format!("many/{number:05}")).collect::<Vec<_>>());
        assert_eq!(all.prefixes, ["many/a/", "many/b/"]);
        assert!(pages == 3 && all.objects.iter().all(|object| object.size == 1 && object.modified.secs > 0));
        let rest = client.list("many/", &From::After("many/02097".to_owned())).await.unwrap();
        let keys: Vec<_> = rest.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["many/02098", "many/02099"]);
        assert_eq!(client.list("none/", &From::Start).await.unwrap(), Page::default());
    });
}

/// s3s-fs claims its listings to be URL-encoded and sends names as they are: `a+b` must not become `a b`.
#[test]
fn odd_keys_are_listed_as_they_are() {
    let world = World::new();
    block(async {
        let client = world.client().await;
        let names = ["a+b", "a%41", "a b", "\u{e4}\u{1f980}", "a&<b>\"'", "c++/d+e", "~!@#$^*(){}[]|;:,?=`"];
        for name in names {
            let content = Bytes::from(name.as_bytes());
            client.put(&key(name), content.clone(), crc64(&content), &[]).await.unwrap();
        }
        let (all, _) = list_all(&client, "").await;
        let mut listed: Vec<_> = all.objects.iter().map(|object| object.key.as_str()).collect();
        listed.extend(all.prefixes.iter().map(String::as_str));
        listed.sort_unstable();
        let mut expected = names.map(|name| if name.starts_with("c++") { "c++/" } else { name });
        expected.sort_unstable();
        assert_eq!(listed, expected);
        let plus = world.client().await;
        let (all, _) = list_all(&plus, "c++/").await;
        assert_eq!(all.objects[0].key, "c++/d+e");
        for name in names {
            assert_eq!(read(client.get(&key(name), None, None).await.unwrap()).await.unwrap(), name.as_bytes());
        }
    });
}

#[test]
fn what_cannot_be_reached_is_refused_in_one_line_without_secrets() {
    let world = World::new();
    let (access, secret) = (world.server.access_key(), world.server.secret_key());
    block(async {
        let cases = [
            (BUCKET, access, "another-canary-secret", "secret key does not fit"),
            (BUCKET, "AKIAUNKNOWN", secret, "AKIAUNKNOWN"),
            ("no-such-bucket", access, secret, "there is no bucket of this name"),
        ];
        for (bucket, access, secret, expected) in cases {
            let error = world.open(bucket, access, secret).await.err().unwrap();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{text}");
            assert!(matches!(error.cause, Cause::Refused(_)) && !error.to_string().contains('\n'));
            for canary in ["canary", "Signature=", "X-Amz-"] {
                assert!(!text.contains(canary), "{text}");
            }
        }
    });
}
