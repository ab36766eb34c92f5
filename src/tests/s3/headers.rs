//! What objects are stored with beside their content: the storage class that was asked for, and what a copy keeps.

use super::support::Engine;
use super::support::fault::{Checksums, FaultServer, Kind};
use super::{PART_BYTES, Rng, Scene, fault_server, noise};

/// Bytes of an object of three parts.
const LARGE: usize = 2 * PART_BYTES as usize + 12_345;
/// Headers about the content, and what the server says of an object that has none.
const HEADERS: [(&str, &str); 6] = [
    ("cache-control", "max-age=31536000, public"),
    ("content-disposition", "attachment; filename=\"a  b.html\""),
    ("content-encoding", "gzip"),
    ("content-language", "de, en"),
    ("content-type", "text/html; charset=utf-8"),
    ("expires", "Wed, 21 Oct 2099 07:28:00 GMT"),
];
/// User metadata of nobody gfast knows.
const FOREIGN: [(&str, &str); 2] = [("project", "x  y"), ("owner-mail", "a@example.com")];

fn content(len: usize) -> Vec<u8> {
    let mut content = vec![0; len];
    Rng::new(7).fill(&mut content);
    content
}

/// A small object and one of three parts, with all that objects may say.
fn fill(server: &FaultServer) {
    for (name, len) in [("p/small", 1000), ("p/large", LARGE)] {
        server.put("b", name, content(len), &FOREIGN);
        server.set_headers("b", name, &HEADERS);
    }
    server.put("b", "p/plain", "plain", &[]);
}

#[track_caller]
fn assert_kept(server: &FaultServer, case: &str) {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    for (name, len) in [("q/small", 1000), ("q/large", LARGE)] {
        let object = server.object("b", name).unwrap();
        assert!(object.body == content(len), "{case}: {name}");
        assert_eq!((object.headers, object.attributes), (pairs(&HEADERS), pairs(&FOREIGN)), "{case}: {name}");
    }
    let plain = server.object("b", "q/plain").unwrap();
    assert!(plain.headers.iter().all(|(name, value)| name == "content-type" && value == "binary/octet-stream"));
}

/// Between two servers, as the server does within one.
#[test]
fn what_an_object_says_is_kept_between_servers() {
    let (source, dest) = (fault_server(1), fault_server(2));
    fill(&source);
    let scene = Scene::new(&dest, Engine::all()[0]);
    let job = |state: &str| {
        scene.job("s3://b/p", "s3://b/q", state).arg(format!("--source-endpoint-url={}", source.endpoint()))
    };
    job("across").run().expect(0);
    assert_kept(&dest, "streamed");
    // Without a catalog it is known again; one that says something else is another one.
    dest.reset_counts();
    job("again").run().expect(0);
    assert_eq!((dest.counts().of(Kind::Put), dest.counts().of(Kind::PutPart)), (0, 0), "{:?}", dest.counts());
    dest.set_headers("b", "q/small", &HEADERS[1..]);
    job("once more").run().expect(0);
    assert_kept(&dest, "put right");
}

/// Within one server: an object whose metadata is replaced keeps nothing by itself.
#[test]
fn what_an_object_says_is_kept_within_a_server() {
    let server = fault_server(1);
    fill(&server);
    let link = [("gfast-link", "p/small")];
    server.put("b", "p/link", "", &link);
    server.set_headers("b", "p/link", &HEADERS);
    let scene = Scene::new(&server, Engine::all()[0]);
    scene.job("s3://b/p", "s3://b/q", "within").run().expect(0);
    assert!(server.counts().of(Kind::Copy) >= 3, "{:?}", server.counts());
    assert_kept(&server, "copied by the server");
    let object = server.object("b", "q/link").unwrap();
    assert_eq!(object.attributes["gfast-link"], "q/small");
    assert_eq!(object.headers.len(), HEADERS.len(), "{:?}", object.headers);
}

/// Every way an object comes to be: in one piece, in parts, copied by the server, between servers.
#[test]
fn objects_get_the_storage_class_that_was_asked_for() {
    let (server, other) = (fault_server(1), fault_server(2));
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    noise(&tree.join("small"), &mut Rng::new(1), 1000);
    noise(&tree.join("large"), &mut Rng::new(2), LARGE as u64);
    let there = Scene::new(&other, scene.engine);
    let from = format!("--source-endpoint-url={}", server.endpoint());
    let jobs = [
        (scene.job(&tree, "s3://b/p", "up"), &server, "p"),
        (scene.job("s3://b/p", "s3://b/q", "within"), &server, "q"),
        (there.job("s3://b/p", "s3://b/r", "across").arg(from), &other, "r"),
    ];
    for (job, server, prefix) in jobs {
        job.arg("--storage-class=STANDARD_IA").run().expect(0);
        for name in ["small", "large"] {
            let object = server.object("b", &format!("{prefix}/{name}")).unwrap();
            assert_eq!(object.storage_class.as_deref(), Some("STANDARD_IA"), "{prefix}/{name}");
        }
    }
    assert!(server.counts().of(Kind::Copy) > 0 && server.counts().of(Kind::CreateUpload) > 0);
    scene.job(&tree, "s3://b/usual", "usual").run().expect(0);
    assert_eq!(server.object("b", "usual/small").unwrap().storage_class, None);
}

/// `--checksum` on a server that knows no checksums: what it copied by itself is read, too, and called what it is.
#[test]
fn copies_of_a_server_without_checksums_are_read_back() {
    let server = fault_server(1);
    server.set_checksums(Checksums::Ignored);
    fill(&server);
    let scene = Scene::new(&server, Engine::all()[0]);
    let proved = |dest: &str, args: &[&str]| {
        let outcome = scene.job("s3://b/p/", format!("s3://b/{dest}"), dest).args(args).run().expect(0);
        ["proved_by_server", "proved_by_reading", "proved_by_length"].map(|name| outcome.number(name))
    };
    assert_eq!(proved("free", &[]), [0, 0, 3]);
    assert_eq!(proved("q", &["--checksum"]), [0, 3, 0]);
    assert_kept(&server, "read back");
}
