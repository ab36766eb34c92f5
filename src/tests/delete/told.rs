//! What a dry run tells of a destination is what the run then does.

use super::support::SlowMount;
use super::support::slow::can_mount_fuse;
use super::*;

/// Paths that a dry run says would go.
fn doomed(job: &Job, code: i32) -> BTreeSet<String> {
    let outcome = job.clone().arg("-dry-run").run().expect(code);
    let lines = outcome.stdout.lines().filter(|line| line.starts_with("delete"));
    lines.map(|line| line[30..].to_owned()).collect()
}

#[test]
fn a_directory_in_the_way_of_a_file_is_told() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine);
        job.run().expect(0);
        fs::remove_dir_all(scene.source.join("d")).unwrap();
        write(&scene.source.join("d"), "a file");
        assert!(doomed(&job, 23).is_empty());
        assert!(job.run().expect(23).says("not empty"));
        let job = job.arg("-delete");
        let said = doomed(&job, 0);
        let of_dir: Vec<&str> = said.iter().map(String::as_str).filter(|path| path.starts_with('d')).collect();
        assert_eq!(of_dir, ["d", "d/e", "d/e/keep", "d/extra", "d/keep"]);
        assert_eq!(doomed(&job.clone().arg("-max-delete=1"), 25), said);
        assert_eq!(rehearse(&job, 0)["d"], "copy failed before");
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("removed"), said.len() as u64, "{outcome}");
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

#[test]
fn what_stays_is_not_told_as_a_delete() {
    if !can_mount("what_stays_is_not_told_as_a_delete") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let outside = scene.scratch.path().join("outside");
        write(&outside.join("d/precious"), "x");
        let _mounts = ["bound", "gone/a/bound"]
            .map(|name| Over::new(&scene.dest.join(name), &["--bind", outside.to_str().unwrap()]));
        let _other = Over::tmpfs(&scene.dest.join("mounted"));
        write(&scene.dest.join("mounted/precious"), "x");
        let other_state = scene.dest.join("state-of-others");
        Job::new(&outside, scene.scratch.path().join("dest2"), &other_state, engine).run().expect(0);
        write(&other_state.join("profiles"), "{}");
        let job = scene.job(engine).arg("-delete");
        let said = doomed(&job, 0);
        let before = names(&scene.dest);
        let outcome = job.run().expect(0);
        let after = names(&scene.dest);
        let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
        assert_eq!(said, gone, "{outcome}");
    }
}

#[test]
fn a_directorys_new_mode_is_told() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine);
        job.run().expect(0);
        set_mode(&scene.source.join("d"), 0o750);
        let said = rehearse(&job, 0);
        assert_eq!(said.get("d").map(String::as_str), Some("update owner or mode"), "{said:?}");
        assert!(!said.contains_key("d/e"), "{said:?}");
        job.run().expect(0);
        assert!(!rehearse(&job, 0).contains_key("d"));
        set_mode(&scene.dest.join("d"), 0o700);
        let anew = Job::new(&scene.source, &scene.dest, scene.scratch.path().join("anew"), engine);
        assert_eq!(rehearse(&anew, 0)["d"], "update owner or mode");
    }
}

#[test]
fn what_a_resume_passes_over_is_told() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine);
        interrupted(&scene, &job);
        for name in ["d/new", "d/newer/x", "d/keep"] {
            write(&scene.source.join(name), "written since");
        }
        set_mode(&scene.source.join("d/e"), 0o750);
        let told = job.clone().arg("-dry-run").run().expect(0);
        assert!(told.says("the last run was interrupted"), "{told}");
        let said = rehearse(&job, 0);
        let below_d: Vec<_> = said.iter().filter(|(path, _)| path.starts_with("d/")).collect();
        let below_d: Vec<_> = below_d.into_iter().map(|(path, what)| (path.as_str(), what.as_str())).collect();
        let expected = [("d/e/keep", "skip done"), ("d/keep", "skip done")];
        let passed = [("d/new", "skip listed before"), ("d/newer", "skip listed before")];
        assert_eq!(below_d, [expected, passed].concat());
        let outcome = job.run().expect(0);
        assert!(!scene.dest.join("d/new").exists() && !scene.dest.join("d/newer").exists(), "{outcome}");
        let outcome = job.arg("-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        assert_eq!(outcome.number("copied"), 3, "{outcome}");
    }
}

#[test]
fn what_is_withheld_is_not_told_as_a_delete() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("what_is_withheld_is_not_told_as_a_delete", "not root");
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        // Names before and behind the one that is closed, in whatever order they are listed.
        for name in ["a/x", "closed/x", "z/x", "gone-too"] {
            write(&scene.source.join(name), "x");
            write(&scene.dest.join(name).with_extension("extra"), "x");
        }
        fs::remove_file(scene.source.join("gone-too")).unwrap();
        write(&scene.source.join("gone"), "a file, where the destination has a directory");
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(scene.scratch.path()));
        must(Command::new("chown").arg("0:0").arg(scene.source.join("closed")));
        set_mode(&scene.source.join("closed"), 0o700);
        let job = scene.job(engine).user(12_345);
        let before = names(&scene.dest);
        let withheld = job.clone().args(&["-delete", "-max-delete=0"]);
        let told = withheld.clone().arg("-dry-run").run().expect(23);
        assert!(told.says("nothing would be deleted") && told.says("not empty"), "{told}");
        assert!(doomed(&withheld, 23).is_empty(), "{told}");
        let outcome = withheld.run().expect(23);
        assert!(before.is_subset(&names(&scene.dest)) && outcome.number("removed") == 0, "{outcome}");
        let forced = job.arg("-force-delete");
        let said = doomed(&forced, 23);
        doomed(&forced.clone().arg("-max-delete=0"), 25);
        let outcome = forced.run().expect(23);
        // The directory goes, and a file takes its name.
        let gone: BTreeSet<String> = before.difference(&names(&scene.dest)).cloned().chain(["gone".into()]).collect();
        assert_eq!(said, gone, "{outcome}");
    }
}

#[test]
fn what_cannot_be_described_is_a_failure() {
    if !can_mount_fuse("what_cannot_be_described_is_a_failure") {
        return;
    }
    for engine in Engine::all() {
        let (scene, slow) = (Scene::new(), SlowMount::damaged());
        let there = slow.folder().join("copy");
        ["extra", "lost-file", "lost-dir/x"].iter().for_each(|name| write(&there.join(name), name));
        let state = scene.scratch.path().join("state");
        let job = Job::new(&scene.source, slow.path().join("copy"), state, engine).arg("-delete");
        let told = job.clone().arg("-dry-run").run().expect(23);
        assert_eq!(doomed(&job, 23), ["extra".to_owned()].into(), "{told}");
        let outcome = job.run().expect(23);
        for outcome in [&told, &outcome] {
            assert!(outcome.says("copy/lost-file: ") && outcome.says("copy/lost-dir: "), "{outcome}");
        }
        let left = names(&there);
        assert!(!left.contains("extra") && left.contains("lost-file") && left.contains("lost-dir/x"), "{outcome}");
    }
}

#[test]
fn a_destination_that_is_full_ends_a_job_that_deletes() {
    if !can_mount_fuse("a_destination_that_is_full_ends_a_job_that_deletes") {
        return;
    }
    for engine in Engine::all() {
        let (scene, slow) = (Scene::new(), SlowMount::damaged());
        let there = slow.folder().join("copy");
        (0..500).for_each(|number| write(&there.join(format!("dir/stuck-{number}")), "x"));
        let state = scene.scratch.path().join("state");
        let job = Job::new(&scene.source, slow.path().join("copy"), state, engine).arg("-delete");
        let outcome = job.run().expect(11);
        // Who was removing at that moment may meet it, too.
        let said = outcome.stderr.lines().filter(|line| line.contains("cannot delete")).count();
        assert!((1..100).contains(&said), "{said} times: {outcome}");
        (0..500).for_each(|number| {
            fs::rename(there.join(format!("dir/stuck-{number}")), there.join(format!("dir/{number}"))).unwrap()
        });
        job.run().expect(0);
        Comparison::new(&scene.source, &there).assert_same();
    }
}
