//! What may be a source and a destination, on real directories and real bind mounts.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gfast::cli::{Parsed, parse};
use gfast::config::Config;
use gfast::error::{Cause, escape};
use gfast::location::Location;
use gfast::report::Busy;
use gfast::roots::{DestOrigin, Examined, Root, Roots, examine, open_to_read};
use rustix::fs::{Access, AtFlags};

/// A directory of its own, gone at the end with all that is mounted in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gfast-roots-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Scratch(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn dir(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.path(name)).unwrap();
        self.path(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        fs::write(self.path(name), name).unwrap();
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Last mounted, first unmounted; the kernel lists them in the order they were mounted.
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points =
            table.lines().rev().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " "));
        for point in points.filter(|point| Path::new(point).starts_with(&self.0)) {
            let _ = Command::new("umount").arg(point).status();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(source: &Path, dest: &Path, more: &[&str]) -> Config {
    let words = ["gfast".into(), "-source".into(), source.into(), "-dest".into(), dest.into()];
    match parse(words.into_iter().chain(more.iter().map(OsString::from))) {
        Parsed::Run(config) => *config,
        other => panic!("{other:?}"),
    }
}

fn examined(source: &Path, dest: &Path) -> Examined {
    examine(&config(source, dest, &[]), &Busy::default()).unwrap()
}

fn opened(source: &Path, dest: &Path) -> Roots {
    let config = Config { umask: 0o022, ..config(source, dest, &[]) };
    examine(&config, &Busy::default()).unwrap().open(&Busy::default()).unwrap()
}

/// The refusal's text, which names the reason.
#[track_caller]
fn refused(source: &Path, dest: &Path, more: &[&str], reason: &str) {
    let error = examine(&config(source, dest, more), &Busy::default()).expect_err("must be refused");
    assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(reason) && !text.contains('\n'), "{text}");
}

/// Every path below `dir`, with what would change if it were touched.
fn snapshot(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            }
            found.push((entry.path(), meta.ino(), meta.mtime_nsec(), meta.ctime_nsec()));
        }
    }
    found.sort();
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_tree_that_would_be_copied_into_itself_is_refused_and_nothing_is_touched() {
    let scratch = Scratch::new("overlap");
    let source = scratch.dir("a/source");
    let inner = scratch.dir("a/source/inner");
    symlink(&inner, scratch.path("link")).unwrap();
    symlink(&source, scratch.path("same")).unwrap();
    let before = snapshot(&scratch.0);
    refused(&source, &source, &[], "is the source itself");
    refused(&source, &source.join("inner/../"), &[], "is the source itself");
    refused(&source, &scratch.path("same"), &[], "is the source itself");
    refused(&scratch.path("same"), &source, &[], "is the source itself");
    refused(&source, &inner, &[], "lies inside the source");
    refused(&source, &scratch.path("link"), &[], "lies inside the source");
    refused(&source, &scratch.path("link/new/deep"), &[], "lies inside the source");
    refused(&source, &scratch.path("a"), &[], "contains the source");
    refused(&source, Path::new("/"), &[], "contains the source");
    refused(Path::new("/"), &scratch.path("new"), &[], "lies inside the source");
    assert_eq!(snapshot(&scratch.0), before);
}

#[test]
fn names_that_only_begin_alike_are_not_refused() {
    let scratch = Scratch::new("alike");
    let source = scratch.dir("data");
    assert!(!examined(&source, &scratch.path("data2")).is_dest_there());
    assert!(examined(&source, &scratch.dir("dat")).is_dest_there());
}

#[test]
fn what_holds_no_tree_is_refused() {
    let scratch = Scratch::new("kinds");
    let source = scratch.dir("source");
    let file = scratch.file("file");
    let fifo = scratch.path("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    symlink("nowhere", scratch.path("dangling")).unwrap();
    let new = scratch.path("new");
    let before = snapshot(&scratch.0);
    refused(&scratch.path("missing"), &new, &[], "there is no such source");
    refused(&scratch.path("dangling"), &new, &[], "there is no such source");
    refused(&file.join("x"), &new, &[], "Not a directory");
    refused(&fifo, &new, &[], "only files, directories");
    refused(Path::new("/dev/null"), &new, &[], "only files, directories");
    refused(Path::new("/proc/self"), &new, &[], "holds no data");
    refused(Path::new("/sys/kernel"), &new, &[], "holds no data");
    refused(Path::new("/proc/version"), &new, &[], "holds no data");
    refused(&source, Path::new("/proc/new"), &[], "holds no data");
    refused(&source, Path::new("/dev/null"), &[], "only files, directories");
    refused(&source, &fifo, &[], "only files, directories");
    refused(&source, &file, &[], "is not a directory, but the source is");
    refused(&source, &file.join("x"), &[], "Not a directory");
    refused(&source, &scratch.path("dangling"), &[], "symlink that leads nowhere");
    refused(&source, &scratch.path("dangling/below"), &[], "symlink that leads nowhere");
    refused(&source, &scratch.path("missing/../new"), &[], "goes up from a directory that does not exist");
    assert_eq!(snapshot(&scratch.0), before);
}

#[test]
fn a_missing_destination_is_made_and_closed_to_others() {
    let scratch = Scratch::new("made");
    let source = scratch.dir("source");
    symlink(scratch.dir("real"), scratch.path("link")).unwrap();
    let dest = scratch.path("link/./one//two/");
    let found = examined(&source, &dest);
    assert_eq!(escape(&found.dest_path()), scratch.path("real/one/two").to_str().unwrap());
    assert!(!found.is_dest_there() && !dest.exists());
    let roots = opened(&source, &dest);
    assert_eq!(roots.dest_origin, DestOrigin::Made);
    assert_eq!((mode(&scratch.path("real/one")), mode(&dest)), (0o755, 0o700));
    assert_eq!(escape(&roots.dest.path), scratch.path("real/one/two").to_str().unwrap());
    let meta = fs::metadata(&dest).unwrap();
    assert_eq!((roots.dest.stat.dev, roots.dest.stat.ino), (meta.dev(), meta.ino()));
    assert_eq!(roots.source.stat.ino, fs::metadata(&source).unwrap().ino());
    assert!(roots.single.is_none());
    // Found this time, and the same root.
    let again = opened(&source, &dest);
    assert_eq!(again.dest_origin, DestOrigin::Found);
    assert_eq!((again.dest.stat.ino, again.dest.birth), (roots.dest.stat.ino, roots.dest.birth));
    rustix::fs::syncfs(&again.dest.handle).unwrap();
}

#[test]
fn one_file_goes_under_a_new_name_or_into_a_directory() {
    let scratch = Scratch::new("single");
    let file = scratch.file("file");
    let dir = scratch.dir("dir");
    symlink(&file, scratch.path("alias")).unwrap();
    scratch.file("other");
    for (source, dest, root, name) in [
        ("file", "dir", "dir", "file"),
        ("alias", "dir", "dir", "alias"),
        ("file", "new", "", "new"),
        ("file", "other", "", "other"),
        ("file", "fresh/", "fresh", "file"),
        ("file", "deep/er/name", "deep/er", "name"),
    ] {
        let roots = opened(&scratch.path(source), &PathBuf::from(format!("{}/{dest}", scratch.0.display())));
        let single = roots.single.unwrap();
        let expected = PathBuf::from(format!("{}/{root}", scratch.0.display()));
        assert_eq!(escape(&roots.dest.path), expected.canonicalize().unwrap().to_str().unwrap(), "{source} {dest}");
        assert_eq!((single.source_name.to_str(), single.dest_name.to_str()), (Ok("file"), Ok(name)));
        assert_eq!(escape(&roots.source.path), scratch.0.to_str().unwrap());
    }
    assert_eq!(mode(&scratch.path("fresh")), 0o755);
    fs::hard_link(&file, dir.join("file")).unwrap();
    fs::create_dir(dir.join("alias")).unwrap();
    refused(&file, &file, &[], "is the source itself");
    refused(&file, &scratch.path("alias"), &[], "is the source itself");
    refused(&file, &scratch.0, &[], "is the source itself");
    refused(&file, &dir, &[], "is the source itself");
    refused(&scratch.path("alias"), &dir, &[], "is a directory, but the source is a file");
    assert_eq!(escape(&examined(&file, &scratch.path("new")).dest_path()), scratch.path("new").to_str().unwrap());
    assert_eq!(escape(&examined(&file, &scratch.path("new")).source_path()), file.to_str().unwrap());
}

/// Runs a test again in a mount namespace of its own, so that no mount outlives it, whatever happens.
fn in_namespace(test: &str, inside: impl FnOnce()) {
    const INSIDE: &str = "GFAST_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let unshared = Command::new("unshare").args(["--mount", "true"]).output();
    if !unshared.is_ok_and(|output| output.status.success()) {
        println!("skipped: {test}: a mount namespace needs unshare(1) and root");
        return;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn bind_mounts_do_not_hide_an_overlap() {
    in_namespace("bind_mounts_do_not_hide_an_overlap", overlaps_through_mounts);
}

#[test]
fn a_root_directory_that_is_no_mount_point_will_do() {
    in_namespace("a_root_directory_that_is_no_mount_point_will_do", || {
        let scratch = Scratch::new("chroot");
        scratch.dir("data/source/inner");
        mount(&["-t", "proc"], Path::new("none"), &scratch.dir("proc"));
        let outside = fs::File::open("/").unwrap();
        std::os::unix::fs::chroot(&scratch.0).unwrap();
        std::env::set_current_dir("/").unwrap();
        let examined = |source, dest| {
            let examined = examine(&config(Path::new(source), Path::new(dest), &[]), &Busy::default());
            examined.map(|_| ()).map_err(|error| error.to_string())
        };
        let apart = examined("/data/source", "/data/dest");
        let inside = examined("/data/source", "/data/source/inner/new").unwrap_err();
        rustix::process::fchdir(outside).unwrap();
        std::os::unix::fs::chroot(".").unwrap();
        assert_eq!(apart, Ok(()));
        assert!(inside.contains("lies inside the source"), "{inside}");
    });
}

/// Mounts autofs on a directory, and a file system with a file in it on that once somebody comes in.
const AUTOMOUNT: &str = r#"
import fcntl, os, struct, subprocess, sys
reader, writer = os.pipe()
options = f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
subprocess.run(["mount", "-t", "autofs", "-o", options, "test", sys.argv[1]], check=True, pass_fds=[writer])
os.close(writer)
trigger = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
packet = os.read(reader, 304)
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
open(sys.argv[1] + "/file", "w").close()
AUTOFS_IOC_READY = 0x9360
fcntl.ioctl(trigger, AUTOFS_IOC_READY, struct.unpack_from("I", packet, 8)[0])
"#;

/// The daemon of one such mount, ended when dropped.
struct Automount(Child);

impl Automount {
    /// `None` where autofs cannot be mounted, or nobody is there to do it.
    fn new(point: &Path) -> Option<Automount> {
        let mut python = Command::new("python3");
        // What a daemon's own process group does mounts nothing.
        python.args(["-c", AUTOMOUNT]).arg(point).process_group(0).stdout(Stdio::piped());
        let mut daemon = Automount(python.spawn().ok()?);
        let mut line = String::new();
        BufReader::new(daemon.0.stdout.take()?).read_line(&mut line).ok()?;
        (line == "ready\n").then_some(daemon)
    }
}

impl Drop for Automount {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_mounted_on_demand_is_mounted() {
    in_namespace("what_is_mounted_on_demand_is_mounted", || {
        let scratch = Scratch::new("automount");
        let plain = scratch.dir("plain");
        let points = ["source", "dest", "read"].map(|name| scratch.dir(name));
        let daemons: Vec<_> = points.iter().map_while(|point| Automount::new(point)).collect();
        if daemons.len() < points.len() {
            return println!("skipped: autofs cannot be mounted, or there is no python3");
        }
        let has_file = |root: &Root| rustix::fs::accessat(&root.handle, "file", Access::EXISTS, AtFlags::empty());
        assert_eq!(has_file(&opened(&points[0], &scratch.path("new")).source), Ok(()));
        assert_eq!(has_file(&opened(&plain, &points[1]).dest), Ok(()));
        let (read, _) = open_to_read(&Location::Posix(points[2].clone())).unwrap();
        assert_eq!(has_file(&read), Ok(()));
    });
}

fn mount(args: &[&str], source: &Path, point: &Path) {
    assert!(Command::new("mount").args(args).arg(source).arg(point).status().unwrap().success());
}

fn overlaps_through_mounts() {
    let scratch = Scratch::new("mounts");
    let source = scratch.dir("source");
    let inner = scratch.dir("source/in ner");
    let outer = scratch.dir("outer/middle/deep");
    let other = scratch.dir("other");
    let bind = |from: &Path, name: &str| {
        let point = scratch.dir(name);
        mount(&["--bind"], from, &point);
        point
    };
    refused(&source, &bind(&source, "bound"), &[], "is the source itself");
    // No ancestor of this one is the source: only the mount table tells.
    let bound_inner = bind(&inner, "bound inner");
    refused(&source, &bound_inner, &[], "lies inside the source through another mount");
    refused(&source, &bound_inner.join("new/er"), &[], "lies inside the source through another mount");
    refused(&inner, &bind(&source, "bound2"), &[], "contains the source");
    refused(
        &bind(&outer, "bound deep"),
        &scratch.path("outer/middle"),
        &[],
        "contains the source through another mount",
    );
    // What is mounted below either end is walked into, too.
    let volume = scratch.dir("volume");
    mount(&["-t", "tmpfs"], Path::new("none"), &volume);
    let shared = scratch.dir("volume/shared");
    bind(&shared, "source/volume");
    refused(&source, &shared, &[], "mounted below");
    refused(&source, &volume, &[], "mounted below");
    refused(&shared, &source, &[], "mounted below");
    assert!(examine(&config(&source, &shared, &["-one-file-system"]), &Busy::default()).is_ok());
    bind(&inner, "other/writes into the source");
    refused(&source, &other, &["-one-file-system"], "mounted below");
    // proc is mounted everywhere and never walked into.
    mount(&["-t", "proc"], Path::new("none"), &scratch.dir("source/proc"));
    let chroot = scratch.dir("chroot");
    mount(&["-t", "proc"], Path::new("none"), &scratch.dir("chroot/proc"));
    assert!(examine(&config(&source, &chroot, &[]), &Busy::default()).is_ok());
    assert!(examine(&config(&source, &scratch.path("new"), &[]), &Busy::default()).is_ok());
}
