//! What is missing at the destination comes back, and what is missing in the source for a reason stays.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_link_takes_the_place_of_a_directory_that_holds_something() {
    for engine in Engine::all() {
        let scene = Scene::new();
        write(&scene.source.join("one"), "one");
        scene.job(engine).run().expect(0);
        write(&scene.dest.join("two/x/y"), "y");
        fs::hard_link(scene.source.join("one"), scene.source.join("two")).unwrap();
        assert!(scene.job(engine).run().expect(23).says("not empty"));
        let outcome = scene.job(engine).arg("-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        let inodes = ["one", "two"].map(|name| fs::metadata(scene.dest.join(name)).unwrap().ino());
        assert_eq!(inodes[0], inodes[1], "{outcome}");
        assert_eq!(scene.job(engine).arg("-delete").run().expect(0).number("hard_links"), 0);
    }
}

#[test]
fn what_is_missing_at_the_destination_comes_back() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine).arg("-delete");
        job.run().expect(0);
        fs::remove_file(scene.dest.join("keep")).unwrap();
        fs::remove_dir_all(scene.dest.join("d/e")).unwrap();
        let said = rehearse(&job, 0);
        let says = |path: &str| said.get(path).map(String::as_str);
        assert_eq!((says("keep"), says("d/keep")), (Some("copy missing"), Some("skip unchanged")), "{said:?}");
        assert_eq!((says("d/e"), says("d/e/keep")), (Some("make new directory"), Some("copy new")), "{said:?}");
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 2, "{outcome}");
        Comparison::new(&scene.source, &scene.dest).assert_same();
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 0, "{outcome}");
        // What neither side has is nobody's loss.
        for root in [&scene.source, &scene.dest] {
            fs::remove_file(root.join("d/keep")).unwrap();
        }
        assert_eq!(job.run().expect(0).number("copied"), 0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

#[test]
fn what_was_mounted_in_the_last_pass_is_not_gone() {
    if !can_mount("what_was_mounted_in_the_last_pass_is_not_gone") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let mounted = Over::tmpfs(&scene.source.join("d/sub"));
        write(&scene.source.join("d/sub/deep/x"), "x");
        let job = scene.job(engine);
        job.run().expect(0);
        drop(mounted);
        write(&scene.dest.join("later"), "x");
        let deleting = job.clone().arg("-delete");
        let said = rehearse(&deleting, 25);
        assert!(said.contains_key("later") && !said.keys().any(|path| path.starts_with("d/sub/")), "{said:?}");
        // However often it is run, with and without --delete.
        for job in [&deleting, &deleting, &job, &deleting] {
            let outcome = job.run().expect_one_of(&[0, 25]);
            assert!(scene.dest.join("d/sub/deep/x").exists(), "{outcome}");
        }
        let outcome = deleting.run().expect(25);
        assert!(outcome.says("mounted there") && !scene.dest.join("later").exists(), "{outcome}");
        job.arg("-force-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        deleting.run().expect(0);
    }
}
