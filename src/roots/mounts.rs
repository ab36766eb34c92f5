//! The mount table: where in which file system a path really lies.
//!
//! A bind mount shows one directory under two paths whose ancestors have nothing in common, so that neither paths nor
//! inode numbers of ancestors tell that one lies in the other. Its line in /proc/self/mountinfo does
//! (proc_pid_mountinfo(5)):
//!
//! ```text
//! 36 35 98:0 /exports/a /mnt/b rw,noatime shared:1 - ext4 /dev/root rw
//! id    dev  root       point                        type
//! ```
//!
//! The path /mnt/b/c lies at 98:0 /exports/a/c. Of what a server exports its names tell more (exports.rs).

use std::ffi::CStr;

use super::exports::Export;
use crate::error::{Error, Result, join};

/// The table of this process's mount namespace.
#[derive(Debug)]
pub(super) struct MountTable {
    /// In the order the kernel lists them: a later one hides an earlier one on the same point.
    mounts: Vec<Mount>,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// As `stx_mnt_id` has it.
    id: u64,
    /// The file system's device.
    dev: u64,
    /// The directory of the file system that is shown; of NFS its path on the server.
    root: Vec<u8>,
    /// The path it is shown at.
    point: Vec<u8>,
    /// Whether it holds data.
    content: Content,
    /// Its type and what is mounted, as the mount was asked for: `fuse.sshfs nas:/export`.
    origin: Vec<u8>,
    /// What it is on its server.
    export: Option<Export>,
    /// Options of the file system, as its kind prints them.
    options: Vec<u8>,
}

/// Whether a file system holds data. Those of the kernel's own are mounted everywhere and never walked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Files that somebody wrote.
    Data,
    /// What the kernel makes up: proc, sysfs and their like.
    Kernel,
}

/// Types of file systems without data, as the table names them.
const KERNEL_TYPES: [&[u8]; 7] = [b"proc", b"sysfs", b"cgroup", b"cgroup2", b"debugfs", b"tracefs", b"bpf"];

/// Types of file systems that are reached over a network or a user-space daemon. Of FUSE there are more, as
/// `fuse.NAME`.
const REMOTE_TYPES: [&[u8]; 13] = [
    b"nfs", b"nfs4", b"cifs", b"smb3", b"ceph", b"lustre", b"9p", b"afs", b"gpfs", b"ocfs2", b"gfs2", b"fuse",
    b"fuseblk",
];
/// Those that many machines have somewhere, and that hold next to nothing.
const TRIFLES: [&[u8]; 4] = [b"fuse.lxcfs", b"fuse.gvfsd-fuse", b"fuse.portal", b"fuse.snapfuse"];

/// Where something really lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file system's device, the same for all its mounts and subvolumes.
    dev: u64,
    /// Path inside the file system.
    path: Vec<u8>,
    /// The same on its server: mounts of one file system there may have devices of their own.
    export: Option<Export>,
}

impl Place {
    /// Whether `other` is this directory or lies below it.
    pub fn holds(&self, other: &Place) -> bool {
        let is_on_server = |ours: &Export, theirs: &Export| {
            ours.shares_server_with(theirs) && is_at_or_below(&theirs.path, &ours.path)
        };
        let is_here = self.dev == other.dev && is_at_or_below(&other.path, &self.path);
        is_here
            || self.export.as_ref().zip(other.export.as_ref()).is_some_and(|(ours, theirs)| is_on_server(ours, theirs))
    }

    /// Whether both lie on one file system.
    pub fn shares_device_with(&self, other: &Place) -> bool {
        self.dev == other.dev
    }

    /// The place of a name below this directory.
    pub fn child(&self, name: &CStr) -> Place {
        let export = self.export.as_ref().map(|export| export.at(join(&export.path, name)));
        Place { dev: self.dev, path: join(&self.path, name), export }
    }
}

impl MountTable {
    /// Reads the table of the running process.
    pub fn read() -> Result<MountTable> {
        let path = "/proc/self/mountinfo";
        let why = |error: std::io::Error| Error::refused(path, format!("the mount table cannot be read: {error}"));
        Ok(MountTable::parse(&std::fs::read(path).map_err(why)?))
    }

    /// Lines that are not as the kernel writes them are passed over.
    pub(super) fn parse(text: &[u8]) -> MountTable {
        MountTable { mounts: text.split(|&b| b == b'\n').filter_map(parse_line).collect() }
    }

    /// Where `path` really lies, which was reached through mount `mount_id` (0: the kernel does not tell, before 5.8)
    /// and is on device `dev`. Below a root directory that is no mount point (chroot(2)) the table does not list what
    /// lies on its own file system: there are the paths that this process sees.
    pub fn place(&self, mount_id: u64, path: &[u8], dev: u64) -> Place {
        let unlisted = || Place { dev, path: path.to_vec(), export: None };
        self.mount(mount_id, path).map_or_else(unlisted, |mount| mount.place(path))
    }

    /// What tells where `path` lies from where it would lie if something else was mounted, or nothing; the same after a
    /// remount.
    pub fn origin(&self, mount_id: u64, path: &[u8]) -> Option<Vec<u8>> {
        let mount = self.mount(mount_id, path)?;
        Some([&mount.origin[..], b" ", &inside(&mount.root, &mount.point, path)].concat())
    }

    /// Whether the file system of `path` has an option, as it prints them.
    pub fn has_option(&self, mount_id: u64, path: &[u8], option: &[u8]) -> Option<bool> {
        let mount = self.mount(mount_id, path)?;
        Some(mount.options.split(|&b| b == b',').any(|there| there == option))
    }

    fn mount(&self, mount_id: u64, path: &[u8]) -> Option<&Mount> {
        let by_id = self.mounts.iter().find(|mount| mount.id == mount_id && is_at_or_below(path, &mount.point));
        let by_path = || {
            let above = self.mounts.iter().filter(|mount| is_at_or_below(path, &mount.point));
            // Of equals the last: it hides the others.
            above.max_by_key(|mount| mount.point.len())
        };
        by_id.or_else(by_path)
    }

    /// What is mounted with data at or below `path`.
    pub fn places_below(&self, path: &[u8]) -> impl Iterator<Item = Place> {
        let with_data = self.mounts.iter().filter(|mount| mount.content == Content::Data);
        let mounts = with_data.filter(move |mount| is_at_or_below(&mount.point, path));
        mounts.map(|mount| mount.place(&mount.point))
    }

    /// Mount points below `path`, itself not among them, where every operation takes milliseconds.
    pub fn slow_points_below<'t>(&'t self, path: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
        let below = move |mount: &&Mount| mount.point != path && is_at_or_below(&mount.point, path);
        self.mounts.iter().filter(|mount| is_remote(&mount.origin)).filter(below).map(|mount| &mount.point[..])
    }
}

impl Mount {
    /// Where a path at or below its point lies.
    fn place(&self, path: &[u8]) -> Place {
        let at = |root: &[u8]| inside(root, &self.point, path);
        let export = self.export.as_ref().map(|export| export.at(at(&export.path)));
        Place { dev: self.dev, path: at(&self.root), export }
    }
}

/// Whether an origin is that of a file system reached over a network or a user-space daemon.
fn is_remote(origin: &[u8]) -> bool {
    let name = origin.split(|&b| b == b' ').next().unwrap_or_default();
    REMOTE_TYPES.contains(&name) || (name.starts_with(b"fuse.") && !TRIFLES.contains(&name))
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let dev = fields.nth(1)?;
    let colon = dev.iter().position(|&b| b == b':')?;
    let dev = rustix::fs::makedev(number(&dev[..colon])? as u32, number(&dev[colon + 1..])? as u32);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    // A lone dash ends the optional fields, of which there may be any number.
    fields.find(|field| *field == b"-")?;
    let name = fields.next()?;
    let content = if KERNEL_TYPES.contains(&name) { Content::Kernel } else { Content::Data };
    let mounted = unescape(fields.next().unwrap_or_default());
    let options = fields.next().unwrap_or_default();
    let export = Export::of(name, &root, &mounted, options);
    let root = match &export {
        Some(export) if matches!(name, b"nfs" | b"nfs4") => export.path.clone(),
        _ => root,
    };
    let origin = [name, b" ", &mounted].concat();
    Some(Mount { id, dev, root, point, content, origin, export, options: options.to_vec() })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The byte that `\NNN` at the start of `text` stands for.
fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    let value = digits.iter().try_fold(0u32, |value, &b| char::from(b).to_digit(8).map(|digit| value * 8 + digit))?;
    u8::try_from(value).ok()
}

/// Whether `path` is `dir` or lies below it; both absolute, without slashes at the end but for "/" itself.
pub(super) fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/") || dir == b"/",
        None => false,
    }
}

/// The `path` at or below mount point `point`, seen from the directory that is mounted there.
fn inside(root: &[u8], point: &[u8], path: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(point).unwrap_or(path);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let mut inside = root.to_vec();
    if !rest.is_empty() {
        if !inside.ends_with(b"/") {
            inside.push(b'/');
        }
        inside.extend_from_slice(rest);
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 27 98:0 / /data rw - xfs /dev/sdb rw
37 27 98:0 /a\\040b /mnt/b rw shared:1 - xfs /dev/sdb rw
38 27 98:0 /x /mnt/b rw - xfs /dev/sdb rw
39 27 0:21 / /mnt/proc rw shared:2 master:1 - proc proc rw
garbage
";

    fn place(table: &MountTable, mount_id: u64, path: &[u8]) -> (u64, String) {
        let place = table.place(mount_id, path, 1);
        (place.dev, String::from_utf8(place.path).unwrap())
    }

    #[test]
    fn a_path_is_placed_through_the_mount_it_was_reached_by() {
        let table = MountTable::parse(TABLE);
        let (root, data) = (rustix::fs::makedev(254, 0), rustix::fs::makedev(98, 0));
        assert_eq!(table.mounts.len(), 5);
        assert_eq!(place(&table, 27, b"/etc"), (root, "/etc".into()));
        assert_eq!(place(&table, 27, b"/"), (root, "/".into()));
        assert_eq!(place(&table, 36, b"/data/x/y"), (data, "/x/y".into()));
        assert_eq!(place(&table, 37, b"/mnt/b/c"), (data, "/a b/c".into()));
        assert_eq!(place(&table, 0, b"/mnt/b/c"), (data, "/x/c".into()));
        assert_eq!(place(&table, 0, b"/mnt/bc"), (root, "/mnt/bc".into()));
        let chroot = MountTable::parse(b"39 27 0:21 / /proc rw - proc proc rw\n");
        assert_eq!(place(&chroot, 27, b"/etc"), (1, "/etc".into()));
    }

    #[test]
    fn an_origin_tells_what_is_mounted_and_where_in_it() {
        let table = MountTable::parse(TABLE);
        let origin = |mount_id, path: &[u8]| String::from_utf8(table.origin(mount_id, path).unwrap()).unwrap();
        assert_eq!(origin(37, b"/mnt/b/c"), "xfs /dev/sdb /a b/c");
        assert_eq!(origin(27, b"/mnt/b/c"), "ext4 /dev/vda /mnt/b/c");
    }

    #[test]
    fn an_option_is_a_whole_word() {
        let table = MountTable::parse(b"36 27 0:41 / /smb rw - cifs //nas/data rw,serverino,mapposix\n");
        let has = |option| table.has_option(36, b"/smb/x", option);
        assert_eq!([has(b"serverino"), has(b"server")], [Some(true), Some(false)]);
        assert_eq!(table.has_option(0, b"/", b"serverino"), None);
    }

    #[test]
    fn holding_goes_by_whole_components_and_device() {
        let place = |dev, path: &str| Place { dev, path: path.as_bytes().to_vec(), export: None };
        assert!(place(1, "/a").holds(&place(1, "/a")) && place(1, "/a").holds(&place(1, "/a/b")));
        assert!(place(1, "/").holds(&place(1, "/a")));
        assert!(!place(1, "/a").holds(&place(1, "/ab")) && !place(1, "/a").holds(&place(2, "/a")));
    }

    #[test]
    fn slow_mounts_below_a_path_are_found() {
        let table = MountTable::parse(
            b"40 27 0:50 / /srv/nas rw - nfs4 nas:/export rw\n41 27 0:51 / /srv/far rw - fuse.sshfs far: rw\n\
              42 27 0:52 / /srv/lxcfs rw - fuse.lxcfs lxcfs rw\n43 27 0:53 / /srv/fusectl rw - fusectl fusectl rw\n",
        );
        let points = |path: &'static [u8]| table.slow_points_below(path).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(points(b"/srv"), [b"/srv/nas".to_vec(), b"/srv/far".to_vec()]);
        assert!(points(b"/srv/nas").is_empty() && points(b"/srv/n").is_empty());
    }

    #[test]
    fn mounts_below_a_path_are_found() {
        let table = MountTable::parse(TABLE);
        let paths: Vec<Vec<u8>> = table.places_below(b"/mnt").map(|place| place.path).collect();
        assert_eq!(paths, [b"/a b".to_vec(), b"/x".to_vec()]);
        assert_eq!(unescape(br"a\134\011\\8\7"), b"a\\\t\\\\8\\7");
    }
}
