//! The report of a job: what it says of each object, and that no line of it can be changed, cut, moved or left out
//! unnoticed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::{Command, Output};

use support::fixture::{can_mount, must, set_mode};
use support::{Engine, Job, Kind, Mount, Scratch};

mod support;

fn report(words: &[&dyn AsRef<OsStr>]) -> Output {
    let words = words.iter().map(|word| (*word).as_ref());
    Command::new(env!("CARGO_BIN_EXE_gfast")).arg("report").args(words).output().unwrap()
}

#[track_caller]
fn lines(words: &[&dyn AsRef<OsStr>]) -> Vec<String> {
    let output = report(words);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A job with one file that cannot be read and one whose owner cannot be kept, if this is root; its state.
fn job(scratch: &Scratch) -> (std::path::PathBuf, bool) {
    let source = scratch.path().join("source");
    let (dest, state) = (scratch.path().join("dest"), scratch.path().join("state"));
    fs::create_dir_all(source.join("d,\"1\"")).unwrap();
    for name in ["# first", "a\nb", "d,\"1\"/c", "secret", "theirs"] {
        fs::write(source.join(name), name).unwrap();
    }
    let job = Job::new(&source, &dest, &state, Engine::Sync);
    if !rustix::process::geteuid().is_root() {
        job.run().expect(0);
        return (state, false);
    }
    let uid = 12_345;
    [&source, &source.join("d,\"1\"")].iter().for_each(|dir| lchown(dir, Some(uid), Some(uid)).unwrap());
    for name in ["# first", "a\nb", "d,\"1\"/c"] {
        lchown(source.join(name), Some(uid), Some(uid)).unwrap();
    }
    set_mode(&source.join("secret"), 0o600);
    for dir in [&dest, &state] {
        fs::create_dir(dir).unwrap();
        set_mode(dir, 0o700);
        lchown(dir, Some(uid), Some(uid)).unwrap();
    }
    job.user(uid).run().expect(23);
    // Each user reads its own state only.
    let own = |path: &Path| lchown(path, Some(0), Some(0)).unwrap();
    own(&state);
    for folder in fs::read_dir(&state).unwrap() {
        own(&folder.unwrap().path());
    }
    (state, true)
}

#[test]
fn every_object_has_its_line() {
    let scratch = Scratch::new();
    let (state, has_failure) = job(&scratch);
    let text = lines(&[&"-state-dir", &state]);
    assert_eq!(text[0], "gfast report");
    let fact = |name: &str| text.iter().find_map(|line| line.trim().strip_prefix(name)).unwrap().trim();
    assert_eq!((fact("status"), fact("directories")), ("finished", "2"));
    let all = lines(&[&"-state-dir", &state, &"-format", &"ndjson"]);
    assert_eq!(all.len(), 7 + 2);
    assert!(all[0].starts_with("{\"summary\":{\"source\":") && all[8].starts_with("{\"end\":7,\"chain\":\""));
    let line = |path: &str| {
        let start = format!("{{\"path\":\"{path}\",");
        all.iter().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{path}: {all:#?}"))
    };
    assert!(line(".").contains("\"kind\":\"directory\",\"outcome\":\"completed\""));
    assert!(line("a\\\\x0ab").contains("\"outcome\":\"completed\",\"size\":3,"));
    let owned = |path: &str, uid: u32| line(path).contains(&format!(",\"uid\":{uid},\"gid\":{uid},\"crc64\":"));
    let [user, theirs] = if has_failure { [12_345, 0] } else { [rustix::process::geteuid().as_raw(); 2] };
    assert!(["a\\\\x0ab", "d,\\\"1\\\"", "."].iter().all(|path| owned(path, user)), "{all:#?}");
    assert!(owned("theirs", theirs), "{}", line("theirs"));
    assert!(
        line("d,\\\"1\\\"/c").contains(
            "\"crc64\":null,\"dest_crc64\":null,\"level\":\"none\",\"attempts\":1,\"losses\":[],\"error\":null"
        )
    );
    let csv = lines(&[&"-state-dir", &state, &"-format", &"csv"]);
    let columns = "path,kind,outcome,size,mtime,ctime,uid,gid,crc64,dest_crc64,level,attempts,losses,error,chain";
    let at = csv.iter().position(|line| line == columns).unwrap();
    assert!(csv[..at].iter().all(|line| line.starts_with("# ")) && csv.len() == at + 1 + 7 + 1);
    let first = csv.iter().find(|line| line.starts_with("\"# first\",object,completed,7,")).expect("its line");
    assert_eq!(first.split(',').skip(6).take(2).collect::<Vec<_>>(), [user.to_string(), user.to_string()], "{first}");
    if has_failure {
        assert!(line("secret").contains("\"outcome\":\"failed\"") && line("secret").contains("Permission denied"));
        assert!(line("theirs").contains("\"losses\":[\"owner\"]"), "{}", line("theirs"));
        let failed = lines(&[&"-state-dir", &state, &"-failed", &"-format", &"ndjson"]);
        assert!(failed.len() == 3 && failed[1].starts_with("{\"path\":\"secret\""), "{failed:#?}");
        let lost = lines(&[&"-state-dir", &state, &"-losses"]);
        assert_eq!(lost.last().unwrap(), "completed: theirs (owner 0:0) (lost: owner)");
        assert_eq!((fact("failed"), fact("lost owner")), ("1", "1"));
    }
}

/// Also over runs, and of what is there in the end.
#[test]
fn attempts_are_counted_until_an_object_is_there() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("attempts_are_counted_until_an_object_is_there", "not root");
        return;
    }
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let (source, state) = (scratch.path().join("source"), scratch.path().join("state"));
        fs::create_dir(&source).unwrap();
        let secrets = [("small", 5), ("large", 20 << 20)];
        for (name, size) in secrets.into_iter().chain([("open", 5)]) {
            fs::write(source.join(name), vec![7; size]).unwrap();
            set_mode(&source.join(name), 0o600);
        }
        let own = |uid: u32, path: &Path| must(Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(path));
        own(12_345, scratch.path());
        secrets.iter().for_each(|(name, _)| drop(own(0, &source.join(name))));
        let job = Job::new(&source, scratch.path().join("dest"), &state, engine).user(12_345);
        let attempts = |outcome: &str| {
            own(0, &state);
            let all = lines(&[&"-state-dir", &state, &"-format", &"ndjson"]);
            own(12_345, &state);
            let of = |name: &str| {
                let line = all.iter().find(|line| line.starts_with(&format!("{{\"path\":\"{name}\","))).unwrap();
                assert!(line.contains(&format!("\"outcome\":\"{outcome}\"")) || name == "open", "{line}");
                let is_told = line.contains("\"error\":\"cannot open: ");
                assert_eq!(is_told, outcome == "failed" && name != "open", "{line}");
                let rest = line.split_once("\"attempts\":").unwrap().1;
                rest.split(',').next().unwrap().to_owned()
            };
            ["small", "large", "open"].map(of)
        };
        job.run().expect(23);
        assert_eq!(attempts("failed"), ["1", "1", "1"]);
        job.clone().arg("-retry-failed").run().expect(23);
        let outcome = job.run().expect(23);
        assert!(outcome.says("(tried 3 times)"), "{outcome}");
        assert_eq!(attempts("failed"), ["3", "3", "1"]);
        secrets.iter().for_each(|(name, _)| drop(own(12_345, &source.join(name))));
        job.run().expect(0);
        assert_eq!(attempts("completed"), ["4", "4", "1"]);
        // What is done says so until it is copied anew.
        secrets.iter().for_each(|(name, _)| fs::write(source.join(name), "new content").unwrap());
        job.run().expect(0);
        assert_eq!(attempts("completed"), ["1", "1", "1"]);
    }
}

/// A ctime that proves nothing is told as none, and bytes are those that there are.
#[test]
fn what_is_not_known_is_not_told() {
    if !can_mount("what_is_not_known_is_not_told") {
        return;
    }
    // Its times are whole seconds: what is as young as this is read again by the next pass.
    let (source, other) = (Mount::new(Kind::OldExt4, 64), Scratch::new());
    let (tree, state) = (source.dir("tree"), other.path().join("state"));
    fs::create_dir(tree.join("d")).unwrap();
    fs::write(tree.join("one"), [7; 1000]).unwrap();
    ["d/two", "three"].iter().for_each(|name| fs::hard_link(tree.join("one"), tree.join(name)).unwrap());
    fs::write(tree.join("alone"), [7; 30]).unwrap();
    Job::new(&tree, other.path().join("dest"), &state, Engine::Sync).run().expect(0);
    let all = lines(&[&"-state-dir", &state, &"-format", &"ndjson"]);
    assert!(all[0].contains("\"bytes\":1030,"), "{}", all[0]);
    let files: Vec<_> = all.iter().filter(|line| line.contains("\"kind\":\"object\"")).collect();
    let is_told = |line: &&&String| line.contains("\"ctime\":null,") && line.contains("\"attempts\":1,");
    assert_eq!((files.len(), files.iter().filter(is_told).count()), (4, 4), "{all:#?}");
    assert!(all.iter().all(|line| !line.contains("\"kind\":\"directory\"") || line.contains("\"attempts\":null,")));
    let csv = lines(&[&"-state-dir", &state, &"-format", &"csv"]);
    let alone: Vec<_> = csv.iter().find(|line| line.starts_with("alone,object,")).unwrap().split(',').collect();
    assert_eq!((alone[5], alone[11]), ("", "1"), "{alone:?}");
}

#[test]
fn a_report_that_was_touched_is_not_intact() {
    let scratch = Scratch::new();
    let (state, _) = job(&scratch);
    let file = scratch.path().join("report");
    for format in ["ndjson", "csv"] {
        let whole = report(&[&"-state-dir", &state, &"-format", &format]).stdout;
        fs::write(&file, &whole).unwrap();
        let output = report(&[&"-check", &file]);
        assert!(output.status.code() == Some(0) && output.stdout.starts_with(b"intact: 7 lines, chain "), "{output:?}");
        let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
        let mut wrong: Vec<Vec<u8>> = Vec::new();
        for index in 0..lines.len() {
            let without = [&lines[..index], &lines[index + 1..]].concat().concat();
            let twice = [&lines[..=index], &lines[index..]].concat().concat();
            let mut moved = lines.clone();
            moved.swap(index, (index + 1) % lines.len());
            wrong.extend([without, twice, moved.concat(), lines[..index].concat()]);
        }
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            wrong.push(flipped);
        }
        wrong.extend((1..whole.len()).step_by(31).map(|len| whole[..len].to_vec()));
        wrong.push([&whole[..], b"x"].concat());
        for (index, text) in wrong.iter().enumerate() {
            fs::write(&file, text).unwrap();
            let checked = gfast::ledger::check(&file);
            assert!(checked.is_err(), "{format} {index}: {}", String::from_utf8_lossy(text));
        }
        let output = report(&[&"-check", &file]);
        assert!(output.status.code() == Some(2) && output.stderr.starts_with(b"gfast: "), "{output:?}");
    }
}

#[test]
fn what_cannot_be_reported_says_why() {
    let scratch = Scratch::new();
    let state = scratch.path().join("state");
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    let code = |words: &[&dyn AsRef<OsStr>], part: &str| {
        let output = report(words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("gfast: ") && stderr.contains(part) && output.stdout.is_empty(), "{stderr}");
        output.status.code().unwrap()
    };
    assert_eq!(code(&[&"-state-dir", &state], "cannot be opened"), 2);
    assert!(!state.exists());
    for dest in ["one", "two"] {
        Job::new(&source, scratch.path().join(dest), &state, Engine::Sync).run().expect(0);
    }
    assert_eq!(code(&[&"-state-dir", &state], "several jobs"), 2);
    assert_eq!(code(&[&"-state-dir", &state, &"-dest", &"/three"], "no such job"), 2);
    assert_eq!(lines(&[&"-state-dir", &state, &"-dest", &scratch.path().join("two")])[0], "gfast report");
    assert_eq!(code(&[&"-format", &"xml"], "text, ndjson or csv"), 1);
    assert_eq!(code(&[&"-check", &"x", &"-failed"], "--check stands alone"), 1);
    assert_eq!(code(&[&"-check", &scratch.path().join("missing")], "cannot be read"), 2);
}
