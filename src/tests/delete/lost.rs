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
