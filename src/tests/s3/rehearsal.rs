//! --dry-run with a bucket on either side: it says what the run then does, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Comparison, Engine, Job};
use super::{Scene, fault_server, plain_tree};

/// What a dry run says: "copy new", and of which paths, in order.
#[track_caller]
fn rehearse(server: &FaultServer, job: &Job, code: i32) -> BTreeMap<String, Vec<String>> {
    let all_keys = || ["b", "c"].map(|bucket| server.keys(bucket));
    let before = all_keys();
    server.reset_counts();
    let outcome = job.clone().arg("--dry-run").run().expect(code);
    let counts = server.counts();
    let writes = [Kind::Put, Kind::Copy, Kind::Delete, Kind::CreateUpload, Kind::PutPart, Kind::Abort];
    assert!(writes.into_iter().all(|kind| counts.of(kind) == 0) && before == all_keys(), "{counts:?} {outcome}");
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in outcome.stdout.lines() {
        let what = format!("{} {}", line[..8].trim(), line[9..29].trim());
        said.entry(what).or_default().push(line[30..].to_owned());
    }
    said
}

fn count(said: &BTreeMap<String, Vec<String>>, what: &str) -> usize {
    said.get(what).map_or(0, Vec::len)
}

/// What a dry run says is deleted, once each.
fn doomed(said: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let paths = said.get("delete not in the source").cloned().unwrap_or_default();
    let set: BTreeSet<String> = paths.iter().cloned().collect();
    assert_eq!(set.len(), paths.len(), "a name is said twice: {paths:?}");
    set
}

/// Keys that are gone, as paths below the prefix.
fn gone(before: &[String], after: &[String], prefix: &str) -> BTreeSet<String> {
    let gone = before.iter().filter(|key| !after.contains(key));
    gone.map(|key| key.strip_prefix(prefix).unwrap().trim_end_matches('/').to_owned()).collect()
}

#[test]
fn a_dry_run_into_a_bucket_says_what_the_run_then_does() {
    for engine in Engine::all() {
        let server = fault_server(91);
        server.make_bucket("c");
        server.set_page_max(3);
        let scene = Scene::new(&server, engine);
        let tree = scene.dir("tree");
        plain_tree(&tree, 91, 20, 0);
        let job = scene.job(&tree, "s3://b/p", "state").arg("--delete");
        let said = rehearse(&server, &job, 0);
        assert!(!scene.join("state").exists() && said.len() == 2, "{said:#?}");
        assert_eq!((count(&said, "copy new"), count(&said, "make new directory")), (23, 7), "{said:#?}");
        job.run().expect(0);
        // With what is recorded nothing is asked for, and without it everything.
        let said = rehearse(&server, &job, 0);
        assert_eq!((count(&said, "skip unchanged"), said.len()), (23, 1), "{said:#?}");
        assert_eq!(server.counts().of(Kind::Head), 0);
        let anew = scene.job(&tree, "s3://b/p", "anew").arg("--delete");
        let said = rehearse(&server, &anew, 0);
        assert_eq!((count(&said, "adopt same size and time"), said.len()), (23, 1), "{said:#?}");
        assert!(!scene.join("anew").exists());

        fs::remove_dir_all(tree.join("a/b")).unwrap();
        fs::remove_file(tree.join("dangling")).unwrap();
        fs::remove_file(tree.join("file-6")).unwrap();
        fs::create_dir(tree.join("file-6")).unwrap();
        fs::write(tree.join("file-6/in"), "x").unwrap();
        fs::write(tree.join("a/file-1"), "changed").unwrap();
        for key in ["p/extra", "p/a/extra", "p/gone/", "p/gone/a/b/c", "p/gone/x", "p/a//x", "p/\u{1}x", "p2/x"] {
            server.put("b", key, "x", &[]);
        }
        let said = rehearse(&server, &anew, 0);
        // Which of two names was met first is chance: file-0 may be the link, whose object has no content of its own.
        let is_link = server.object("b", "p/file-0").unwrap().attributes.contains_key("gfast-link");
        let expected: &[&str] = if is_link { &["file-0", "a/file-1"] } else { &["a/file-1"] };
        assert_eq!(said["copy differs"], expected, "{said:#?}");
        let said = rehearse(&server, &job, 0);
        assert!(said["copy changed"].contains(&"a/file-1".to_owned()), "{said:#?}");
        assert_eq!(
            (&said["copy new"][..], &said["make new directory"][..]),
            (&["file-6/in".into()][..], &["file-6".into()][..])
        );
        rehearse(&server, &job.clone().arg("--max-delete=3"), 25);
        let before = server.keys("b");
        let outcome = job.run().expect(0);
        assert_eq!(gone(&before, &server.keys("b"), "p/"), doomed(&said), "{outcome}");
        assert_eq!(outcome.number("removed") as usize, doomed(&said).len(), "{outcome}");
        // An empty source deletes nothing.
        fs::remove_dir_all(&tree).unwrap();
        fs::create_dir(&tree).unwrap();
        let said = rehearse(&server, &anew, 25);
        assert_eq!(said.len(), 0, "{said:#?}");
        // What has no key fails in both.
        fs::write(tree.join("n".repeat(255)), "x").unwrap();
        let long = "k".repeat(800);
        rehearse(&server, &scene.job(&tree, format!("s3://c/{long}"), "long"), 23);
        scene.job(&tree, format!("s3://c/{long}"), "long").run().expect(23);
    }
}

#[test]
fn a_dry_run_out_of_a_bucket_says_what_the_run_then_does() {
    let server = fault_server(92);
    server.make_bucket("c");
    server.set_page_max(3);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    plain_tree(&tree, 92, 20, 0);
    fs::remove_file(tree.join("a/b/hard")).unwrap();
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    let back = scene.join("back/deep");
    let job = scene.job("s3://b/p", &back, "down").arg("--delete");
    let said = rehearse(&server, &job, 0);
    assert!(!scene.join("back").exists() && !scene.join("down").exists());
    assert_eq!((count(&said, "copy new"), count(&said, "make new directory"), said.len()), (22, 7, 2), "{said:#?}");
    job.run().expect(0);
    let said = rehearse(&server, &job, 0);
    assert_eq!((count(&said, "skip unchanged"), said.len()), (22, 1), "{said:#?}");
    let anew = scene.job("s3://b/p", &back, "anew").arg("--delete");
    let said = rehearse(&server, &anew, 0);
    // Symlinks are made anew.
    assert_eq!((count(&said, "adopt same size and time"), count(&said, "copy differs")), (20, 2), "{said:#?}");

    for dir in ["only/here", "a/x", "100%"] {
        fs::create_dir_all(back.join(dir)).unwrap();
        fs::write(back.join(dir).join("y"), "x").unwrap();
    }
    server.remove("b", "p/file-0");
    server.put("b", "p/file-6", "changed", &[]);
    for key in ["p/clash", "p/clash/in", "p//x", "p/a/../x"] {
        server.put("b", key, "x", &[]);
    }
    let said = rehearse(&server, &job, 23);
    assert_eq!(said["copy changed"], ["file-6"], "{said:#?}");
    assert_eq!(said["copy new"], ["clash/in"], "{said:#?}");
    let expected = ["only/here/y", "only/here", "only", "a/x/y", "a/x", "100%/y", "100%", "file-0"];
    assert_eq!(doomed(&said), expected.map(str::to_owned).into_iter().collect(), "{said:#?}");
    for key in ["p/clash", "p/clash/in", "p//x", "p/a/../x"] {
        server.remove("b", key);
    }
    assert_eq!(job.run().expect(0).number("removed"), 8);
    server.script(Rule::new(Fault::Refuse { status: 400, code: "InvalidArgument" }).on(&[Kind::List]).key("p/a/b/"));
    rehearse(&server, &anew, 23);
    server.heal();
    // One object, to a name of its own.
    let said = rehearse(&server, &scene.job("s3://b/p/file-6", scene.join("one"), "single"), 0);
    assert_eq!((said["copy new"][0].as_str(), said.len(), scene.join("one").exists()), ("file-6", 1, false));
    let found = Comparison::new(&tree, &back).run();
    assert!(found.iter().all(|found| found.path.starts_with(b"file-") || found.path.is_empty()), "{found:#?}");
}

#[test]
fn a_dry_run_between_buckets_says_what_the_run_then_does() {
    let server = fault_server(93);
    server.make_bucket("c");
    server.set_page_max(3);
    let scene = Scene::new(&server, Engine::Auto);
    for key in ["p/n", "p/n/x", "p/a//x", "p/a/b", "p/plain", "p/empty/"] {
        server.put("b", key, key, &[("file-mtime", "1700000000000000005ns")]);
    }
    let job = scene.job("s3://b/p", "s3://c/q", "across").arg("--delete");
    let said = rehearse(&server, &job, 0);
    assert_eq!((count(&said, "copy new"), said.len()), (6, 1), "{said:#?}");
    job.run().expect(0);
    let said = rehearse(&server, &job, 0);
    assert_eq!((count(&said, "skip unchanged"), said.len()), (6, 1), "{said:#?}");
    let anew = scene.job("s3://b/p", "s3://c/q", "anew").arg("--delete");
    let said = rehearse(&server, &anew, 0);
    assert_eq!((count(&said, "adopt same size and time"), said.len()), (6, 1), "{said:#?}");
    server.remove("b", "p/n");
    server.put("b", "p/plain", "changed", &[]);
    for key in ["q/extra", "q/zz/a/b", "q/zz/", "q/n/y", "q/a//more", "q/./x", "q2/x"] {
        server.put("c", key, "x", &[]);
    }
    let said = rehearse(&server, &job, 0);
    assert_eq!(said["copy changed"], ["plain"], "{said:#?}");
    let before = server.keys("c");
    let outcome = job.run().expect(0);
    assert_eq!(gone(&before, &server.keys("c"), "q/").len(), doomed(&said).len(), "{said:#?} {outcome}");
    assert_eq!(outcome.number("removed") as usize, doomed(&said).len(), "{outcome}");
}
