//! Loop devices to copy between, detached again when dropped, and what else /sys can make of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::Scratch;
use super::fixture::{must, set_mode};

/// A loop device over an image file.
#[derive(Debug)]
pub struct Loop {
    /// Its node.
    node: PathBuf,
    /// The file behind it.
    image: PathBuf,
    /// Nodes of partitions that were made for it.
    parts: Vec<PathBuf>,
    /// Holds the image, if it is this device's own.
    _images: Option<Scratch>,
}

impl Loop {
    /// A device of `bytes` zeros.
    pub fn new(bytes: u64) -> Loop {
        let images = Scratch::new();
        let image = images.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut device = Loop::over(&image, &[]);
        device._images = Some(images);
        device
    }

    /// A device over a file that is there.
    pub fn over(image: &Path, options: &[&str]) -> Loop {
        // A node may be missing where nobody makes them; losetup names the number before it needs it.
        let found = must(Command::new("losetup").arg("-f"));
        make_node(Path::new(found.trim()));
        let node = must(Command::new("losetup").args(["-f", "--show"]).args(options).arg(image));
        let node = PathBuf::from(node.trim());
        Loop { node, image: image.to_owned(), parts: Vec::new(), _images: None }
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.node
    }

    /// The file behind it.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The node of its first partition, which the kernel knows already.
    pub fn part(&mut self) -> PathBuf {
        let name = self.node.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(format!("/sys/block/{name}/{name}p1/dev")).unwrap();
        let (major, minor) = text.trim().split_once(':').unwrap();
        let part = PathBuf::from(format!("{}p1", self.node.display()));
        let _ = fs::remove_file(&part);
        let number = makedev(major.parse().unwrap(), minor.parse().unwrap());
        mknodat(CWD, &part, FileType::BlockDevice, Mode::from_raw_mode(0o600), number).unwrap();
        self.parts.push(part.clone());
        part
    }

    /// Makes another node of it.
    pub fn make_node(&self, at: &Path) {
        let number = fs::metadata(&self.node).unwrap().rdev();
        mknodat(CWD, at, FileType::BlockDevice, Mode::from_raw_mode(0o600), number).unwrap();
    }

    /// Makes it larger or smaller, as a volume manager does.
    pub fn resize(&self, bytes: u64) {
        OpenOptions::new().write(true).open(&self.image).unwrap().set_len(bytes).unwrap();
        must(Command::new("losetup").arg("-c").arg(&self.node));
    }

    /// Writes bytes.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let device = OpenOptions::new().write(true).open(&self.node).unwrap();
        device.write_all_at(bytes, offset).unwrap();
        device.sync_all().unwrap();
    }

    /// All of it, past what the kernel remembers.
    pub fn content(&self) -> Vec<u8> {
        must(Command::new("blockdev").arg("--flushbufs").arg(&self.node));
        fs::read(&self.node).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.parts.iter().for_each(|part| drop(fs::remove_file(part)));
        let detached = Command::new("losetup").arg("-d").arg(&self.node).status();
        if !matches!(detached, Ok(status) if status.success()) {
            eprintln!("left attached: {}", self.node.display());
        }
    }
}

fn make_node(node: &Path) {
    if node.exists() {
        return;
    }
    let number: u32 = node.to_str().unwrap().trim_start_matches("/dev/loop").parse().unwrap();
    let known = Path::new("/dev/loop0").metadata().unwrap().rdev();
    let number = makedev(rustix::fs::major(known), number);
    // Another test may have been faster.
    let _ = mknodat(CWD, node, FileType::BlockDevice, Mode::from_raw_mode(0o660), number);
}

/// Lets go, in a mount namespace of its own, of the file systems of other tests: held there they would not be gone when
/// those unmount them, and a cut of their power would last.
pub const LET_GO: &str = "grep -o '/[^ ]*/gfast-test-[^ ]*/mnt ' /proc/self/mounts | xargs -r -n 1 umount -l";

/// Loop devices as /sys shows disks, to programs that run within it: a mount namespace with other folders in /sys.
#[derive(Debug)]
pub struct Disguise {
    /// What is mounted over /sys and /proc.
    files: Scratch,
    /// What it is mounted over.
    places: Vec<PathBuf>,
}

impl Disguise {
    /// Nothing is shown otherwise than it is but the number of the boot.
    pub fn new() -> Disguise {
        let disguise = Disguise { files: Scratch::new(), places: vec!["/proc/sys/kernel/random/boot_id".into()] };
        disguise.boot(1);
        disguise
    }

    /// Makes it this boot.
    pub fn boot(&self, number: u32) {
        fs::write(self.files.path().join("0"), format!("00000000-0000-4000-8000-{number:012}\n")).unwrap();
    }

    /// Shows a device as a disk with these files, by name and content.
    pub fn disk(&mut self, device: &Loop, files: &[(&str, &str)]) {
        let class = Path::new("/sys/class/block").join(device.path().file_name().unwrap());
        let place = fs::canonicalize(class).unwrap();
        let folder = self.files.path().join(self.places.len().to_string());
        fs::create_dir(&folder).unwrap();
        for name in ["dev", "size", "ro", "diskseq"] {
            fs::write(folder.join(name), fs::read(place.join(name)).unwrap()).unwrap();
        }
        for (name, content) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{content}\n")).unwrap();
        }
        self.places.push(place);
    }

    /// A wrapper for [`super::Job::within`].
    pub fn wrapper(&self) -> PathBuf {
        let script = self.files.path().join("disguised");
        let bind = |(index, place): (usize, &PathBuf)| {
            format!("mount --bind {}/{index} {} && ", self.files.path().display(), place.display())
        };
        let binds: String = self.places.iter().enumerate().map(bind).collect();
        let inside = self.files.path().join("inside");
        fs::write(&inside, format!("{LET_GO}\n{binds}exec \"$@\"\n")).unwrap();
        fs::write(&script, format!("#!/bin/sh\nexec unshare -m sh {} \"$@\"\n", inside.display())).unwrap();
        set_mode(&script, 0o755);
        script
    }
}
