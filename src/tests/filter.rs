//! Include and exclude rules against the real rsync: both are asked what they take of generated trees.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use gfast::filter::{Action, Filter, Rule, Sort};
use support::fixture::{has, must, skip};
use support::{Engine, Job, Rng, Scratch, number, seed};

mod support;

const NAMES: [&str; 14] = ["a", "b", "foo", "ab", "foo.o", "x.o", "[", "*", "a*b", "]x", "a\\b", "-", ".h", "b7"];

/// Directories nested in each other, with objects of all sorts of names. Returns all paths, directories with a slash.
fn make_tree(rng: &mut Rng, root: &Path) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut paths = BTreeSet::new();
    for _ in 0..60 {
        let parent = dirs[rng.below(dirs.len() as u64) as usize].clone();
        let path = format!("{parent}{}", rng.pick(&NAMES));
        if root.join(&path).exists() {
            continue;
        }
        if rng.below(3) == 0 && path.matches('/').count() < 5 {
            fs::create_dir(root.join(&path)).unwrap();
            dirs.push(format!("{path}/"));
            paths.insert(format!("{path}/"));
        } else {
            fs::write(root.join(&path), "").unwrap();
            paths.insert(path);
        }
    }
    paths.into_iter().collect()
}

fn pattern(rng: &mut Rng) -> String {
    const PIECES: [&str; 22] = [
        "a",
        "b",
        "foo",
        "*",
        "**",
        "?",
        "/",
        "/",
        "[ab]",
        "[!a]",
        "[]x]",
        "[a-f]*",
        "\\*",
        "\\[",
        ".o",
        "[^x]",
        "***",
        "[[:digit:]]",
        "[[:nope:]]",
        "[a",
        "\\",
        "-",
    ];
    let mut text = if rng.below(4) == 0 { "/".to_owned() } else { String::new() };
    for _ in 0..=rng.below(4) {
        let piece = if rng.below(3) == 0 { rng.pick(&NAMES) } else { rng.pick(&PIECES) };
        text.push_str(piece);
    }
    if rng.below(5) == 0 {
        text.push_str(rng.pick(&["/", "/***", "/**", "/*"]));
    }
    // To rsync a rule that begins with these is one of another kind.
    match text.starts_with("- ") || text.starts_with("+ ") || text == "!" {
        true => "a".to_owned(),
        false => text,
    }
}

fn rsync_takes(root: &Path, rules: &[(Action, String)]) -> BTreeSet<String> {
    let mut command = Command::new("rsync");
    command.args(["-n", "-r", "--out-format=>%n"]);
    for (action, text) in rules {
        let option = if *action == Action::Include { "--include" } else { "--exclude" };
        command.arg(format!("{option}={text}"));
    }
    let mut source = root.as_os_str().to_owned();
    source.push("/");
    let output = must(command.arg(source).arg(root.with_extension("nowhere")));
    let names = output.lines().filter_map(|line| line.strip_prefix('>'));
    names.filter(|name| *name != "./").map(str::to_owned).collect()
}

fn filter_takes(paths: &[String], rules: &[(Action, String)]) -> BTreeSet<String> {
    let rules = rules.iter().map(|(action, text)| Rule::parse(*action, text.as_bytes()).unwrap());
    let filter = Filter::new(rules.collect());
    let mut left_out: Vec<String> = Vec::new();
    let mut taken = BTreeSet::new();
    for path in paths {
        if left_out.iter().any(|dir| path.starts_with(dir.as_str())) {
            continue;
        }
        let (name, sort) = match path.strip_suffix('/') {
            Some(name) => (name, Sort::Dir),
            None => (&path[..], Sort::Other),
        };
        match filter.takes(name.as_bytes(), sort) {
            true => drop(taken.insert(path.clone())),
            false if sort == Sort::Dir => left_out.push(path.clone()),
            false => {}
        }
    }
    taken
}

/// All paths below `root`, directories with a slash.
fn walk(root: &Path, at: &str, paths: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{at}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => {
                let name = name + "/";
                walk(root, &name, paths);
                paths.insert(name);
            }
            false => drop(paths.insert(name)),
        }
    }
}

fn copied(job: &Job) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    walk(job.dest(), "", &mut paths);
    paths
}

#[test]
fn rules_take_what_rsync_takes() {
    if !has("rsync") {
        skip("rules_take_what_rsync_takes", "no rsync");
        return;
    }
    let mut rng = Rng::new(seed("rules_take_what_rsync_takes", 11));
    for _ in 0..number("GFAST_FILTER_TREES", 6) {
        let scratch = Scratch::new();
        let root = scratch.path().join("tree");
        fs::create_dir(&root).unwrap();
        let paths = make_tree(&mut rng, &root);
        for _ in 0..40 {
            let rule = |rng: &mut Rng| (rng.pick(&[Action::Include, Action::Exclude, Action::Exclude]), pattern(rng));
            let rules: Vec<_> = (0..=rng.below(4)).map(|_| rule(&mut rng)).collect();
            assert_eq!(filter_takes(&paths, &rules), rsync_takes(&root, &rules), "{rules:?}\n{paths:#?}");
        }
    }
}

/// What is no pattern to rsync is refused, and what is to be written instead means what rsync means.
#[test]
fn what_is_another_rule_to_rsync_is_refused() {
    let scratch = Scratch::new();
    let root = scratch.path().join("tree");
    fs::create_dir(&root).unwrap();
    let names = ["keep", "x", "+ keep", "- x", "!", "!x", "+keep"];
    names.iter().for_each(|name| fs::write(root.join(name), "").unwrap());
    let mut paths: Vec<String> = names.map(str::to_owned).into();
    paths.sort();
    let takes = |rules: &[(Action, &str)]| {
        let rules: Vec<_> = rules.iter().map(|(action, text)| (*action, text.to_string())).collect();
        let taken = filter_takes(&paths, &rules);
        if has("rsync") {
            assert_eq!(taken, rsync_takes(&root, &rules), "{rules:?}");
        }
        taken
    };
    let (include, exclude) = (Action::Include, Action::Exclude);
    for (action, text, rule, literal) in [
        (exclude, "+ keep", Some((include, "keep")), "[+] keep"),
        (include, "+ keep", Some((include, "keep")), "[+] keep"),
        (include, "- x", Some((exclude, "x")), "[-] x"),
        (exclude, "- x", Some((exclude, "x")), "[-] x"),
        (exclude, "!", None, "[\\!]"),
    ] {
        let why = Rule::parse(action, text.as_bytes()).unwrap_err();
        assert!(why.contains(literal) && rule.is_none_or(|(_, name)| why.contains(&format!("={name},"))), "{why}");
        if let (Some(rule), true) = (rule, has("rsync")) {
            let rsync = rsync_takes(&root, &[(action, text.to_owned()), (exclude, "*".to_owned())]);
            assert_eq!(takes(&[rule, (exclude, "*")]), rsync, "{text}");
        }
        let left = takes(&[(exclude, literal)]);
        assert!(left.len() == names.len() - 1 && !left.contains(text), "{literal}: {left:?}");
        let job = Job::new(&root, scratch.path().join("dest"), scratch.path().join("state"), Engine::Sync);
        let option = if action == include { "--include" } else { "--exclude" };
        let refused = job.args(&[option, text]).run().expect(1);
        assert!(refused.says(&format!("{option} \"{text}\" is a rule of another kind to rsync")), "{refused}");
    }
    assert_eq!(takes(&[(exclude, "!x"), (exclude, "+keep")]).len(), names.len() - 2);
}

#[test]
fn a_copy_takes_what_its_rules_take_in_command_line_order() {
    let mut rng = Rng::new(seed("a_copy_takes_what_its_rules_take", 3));
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    let paths = make_tree(&mut rng, &source);
    let orders: [&[(Action, &str)]; 4] = [
        &[(Action::Include, "foo.o"), (Action::Exclude, "*.o")],
        &[(Action::Exclude, "*.o"), (Action::Include, "foo.o")],
        &[(Action::Include, "*/"), (Action::Include, "a*"), (Action::Exclude, "*")],
        &[(Action::Exclude, "/a/"), (Action::Exclude, "b/**"), (Action::Exclude, "foo/")],
    ];
    for engine in Engine::all() {
        for (index, rules) in orders.iter().enumerate() {
            let dir = scratch.path().join(format!("{engine:?}-{index}"));
            let mut job = Job::new(&source, dir.join("dest"), dir.join("state"), engine);
            for (action, text) in rules.iter() {
                job = job.arg(if *action == Action::Include { "-include" } else { "-exclude" }).arg(text);
            }
            job.run().expect(0);
            let rules: Vec<_> = rules.iter().map(|(action, text)| (*action, text.to_string())).collect();
            assert_eq!(copied(&job), filter_takes(&paths, &rules), "{rules:?}");
            job.arg("--exclude=q").run().expect(2);
        }
    }
}

#[test]
fn a_list_of_files_takes_what_it_names() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir_all(source.join("a/b/c")).unwrap();
    fs::create_dir_all(source.join("d/e")).unwrap();
    for name in ["a/b/c/x", "a/b/y", "a/z", "d/e/w", "v"] {
        fs::write(source.join(name), name).unwrap();
    }
    for engine in Engine::all() {
        let list = scratch.path().join("list");
        fs::write(&list, "./a/b/\0d/e/w\0").unwrap();
        let dir = scratch.path().join(format!("{engine:?}"));
        let job = |state| Job::new(&source, dir.join(state), dir.join("state"), engine).arg("-files-from").arg(&list);
        job("one").run().expect(0);
        let expected = ["a/", "a/b/", "a/b/c/", "a/b/c/x", "a/b/y", "d/", "d/e/", "d/e/w"];
        assert_eq!(copied(&job("one")), expected.map(str::to_owned).into());
        job("two").arg("-exclude=c").run().expect(0);
        assert!(!copied(&job("two")).contains("a/b/c/") && copied(&job("two")).contains("a/b/y"));
        fs::write(&list, "v\0gone").unwrap();
        job("three").run().expect(24);
        assert_eq!(copied(&job("three")), ["v".to_owned()].into());
        fs::write(&list, "../x").unwrap();
        assert!(job("four").run().expect(2).says("..") && !dir.join("four").exists());
    }
}

#[test]
fn every_listed_path_is_copied_or_told_of() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir_all(source.join("d")).unwrap();
    for name in ["d/f", "reg"] {
        fs::write(source.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("d", source.join("ln")).unwrap();
    let list = scratch.path().join("list");
    let cases: [(&str, i32, &str, u64); 8] = [
        ("d/f", 0, "", 0),
        ("d\0d/f", 0, "", 0),
        ("d/f\0nodir/a\0nodir/b", 24, "nodir/b", 2),
        ("d\0d/gone", 24, "d/gone", 1),
        ("d/f\0ln/f", 23, "ln/f", 0),
        ("d/f\0reg/zz", 23, "no directory of the source", 0),
        ("d/f\0reg\0reg/zz", 23, "reg/zz", 0),
        ("/etc/passwd", 24, "etc/passwd", 1),
    ];
    for engine in Engine::all() {
        for (nth, (text, code, said, vanished)) in cases.iter().enumerate() {
            fs::write(&list, text).unwrap();
            let dir = scratch.path().join(format!("{engine:?}-{nth}"));
            let job = Job::new(&source, dir.join("dest"), dir.join("state"), engine).arg("-files-from").arg(&list);
            let rehearsed = job.clone().arg("-dry-run").run().expect(*code);
            assert!(rehearsed.says(said), "{text}: {rehearsed}");
            let outcome = job.run().expect(*code);
            assert!(outcome.says(said) && outcome.says(&format!("\"vanished\":{vanished},")), "{text}: {outcome}");
            // And again: a further pass says no less.
            job.run().expect(*code);
            let mut verify = Command::new(env!("CARGO_BIN_EXE_gfast"));
            verify.arg("verify").arg("-source").arg(&source).arg("-dest").arg(job.dest());
            let output = verify.arg("-files-from").arg(&list).arg("-quiet").output().unwrap();
            let text = format!("{text}: {output:?}");
            assert_eq!(output.status.code(), Some(if *code == 0 { 0 } else { 2 }), "{text}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{text}");
        }
        fs::write(&list, "d/f\nreg\n").unwrap();
        let job = Job::new(&source, scratch.path().join("none"), scratch.path().join("state"), engine);
        assert!(job.arg("-files-from").arg(&list).run().expect(2).says(r"tr '\n' '\0'"));
    }
}

#[test]
fn a_listed_name_that_the_source_lacks_is_not_deleted() {
    let scratch = Scratch::new();
    let (source, list) = (scratch.path().join("source"), scratch.path().join("list"));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/keep"), "").unwrap();
    fs::write(&list, "d\0gone\0away/x\0").unwrap();
    for engine in Engine::all() {
        let dir = scratch.path().join(format!("{engine:?}"));
        let job = Job::new(&source, dir.join("dest"), dir.join("state"), engine);
        for name in ["d/extra", "gone/x", "away/x", "away/y"] {
            fs::create_dir_all(job.dest().join(name).parent().unwrap()).unwrap();
            fs::write(job.dest().join(name), name).unwrap();
        }
        let job = job.args(&["-delete", "-files-from"]).arg(&list);
        let told = job.clone().arg("-dry-run").run().expect(24);
        assert_eq!(told.stdout.lines().filter(|line| line.starts_with("delete")).count(), 1, "{told}");
        job.run().expect(24);
        let left = ["away/", "away/x", "away/y", "d/", "d/keep", "gone/", "gone/x"];
        assert_eq!(copied(&job), left.map(str::to_owned).into());
    }
}
