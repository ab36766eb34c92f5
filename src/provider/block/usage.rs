//! Who uses a device, a part of it, or its bytes by another name, as /sys and /proc tell.
//!
//! ```text
//! mounted    /proc/self/mountinfo         held    holders/ in /sys, /proc/swaps, O_EXCL
//! image <- loop3 <- mounted at /mnt       nothing is written to the image, nor to loop5, which lies on it as well
//! ```
//! O_EXCL has the last word on whether a device is free; what is found here says by whom it is not. Nothing else tells
//! of a mount in another namespace, of the further devices of a file system, of its journal. To the kernel two loop
//! devices over one file, and two paths to one disk, are two devices, so the other ones are claimed as well.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::spans::{Depth, Span, of_device};
use super::{Ground, sys};
use crate::error::{Errno, Error, Result, escape};

/// Bytes that a job reads or writes, by whatever name others reach them.
pub(super) struct Bytes {
    /// The device and its partitions, if they are a device's.
    own: Vec<u64>,
    /// Where they lie.
    spans: Vec<Span>,
}

/// A mounted file system.
struct Mounted {
    /// Where.
    point: String,
    /// Whether it may be written to.
    is_writable: bool,
    /// The devices that its line in the table names: by number, and by path.
    devices: [Option<u64>; 2],
}

/// Whether the kernel lets nobody write to a device.
pub(super) fn is_read_only(number: u64) -> bool {
    sys::folder(number).and_then(|folder| sys::number_in(&folder, "ro")).is_some_and(|ro| ro != 0)
}

impl Bytes {
    /// Those of one end of a job. A file that is still to be made has none.
    pub fn of(ground: Ground) -> Bytes {
        match ground {
            Ground::Device(number) => Bytes { own: sys::with_parts(number), spans: of_device(number, Depth::Exact) },
            Ground::File(dev, ino, _) => Bytes { own: Vec::new(), spans: vec![Span::of_file(dev, ino)] },
            Ground::NewFile(..) => Bytes { own: Vec::new(), spans: Vec::new() },
        }
    }

    /// Who uses them.
    pub fn user(&self) -> Result<Option<String>> {
        let mounted = self.mounted()?.into_iter().next();
        Ok(mounted.map(|(mounted, through)| format!("mounted at {}{through}", mounted.point)).or_else(|| self.holder()))
    }

    /// Who may write to them while they are read.
    pub fn writer(&self) -> Result<Option<String>> {
        let mounted = self.mounted()?.into_iter().find(|(mounted, _)| mounted.is_writable);
        let mounted = mounted.map(|(mounted, through)| format!("mounted read-write at {}{through}", mounted.point));
        Ok(mounted.or_else(|| self.holder()))
    }

    /// Keeps everybody from writing to the bytes of a device while they are read, for as long as what is returned
    /// lives; who has some of them already. `claim` opens the device itself with O_EXCL. Who has mounted it read-only
    /// may.
    pub fn claim_still(
        &self,
        claim: impl Fn() -> std::result::Result<OwnedFd, Errno>,
    ) -> Result<std::result::Result<Vec<OwnedFd>, String>> {
        let own = claim();
        let mounted = self.mounted()?;
        let is_still = |number: u64| {
            let mut of_it = mounted.iter().filter(|(mounted, _)| mounted.devices.contains(&Some(number))).peekable();
            of_it.peek().is_some() && of_it.all(|(mounted, _)| !mounted.is_writable)
        };
        let mut claims = match (own, &self.own[..]) {
            (Ok(claim), _) => vec![claim],
            (Err(Errno::BUSY), [number, parts @ ..]) if !is_still(*number) => match claim_each(parts, &is_still) {
                Some(claims) => claims,
                None => return Ok(Err("held by another process or mounted out of sight".to_owned())),
            },
            (Err(_), _) => Vec::new(),
        };
        Ok(self.claim_others(&is_still).map(|others| {
            claims.extend(others);
            claims
        }))
    }

    /// Keeps everybody from the other devices that reach them, for as long as what is returned lives; the user of one
    /// that is not free, unless `may_be_held`. One without a node cannot be claimed.
    pub fn claim_others(&self, may_be_held: &dyn Fn(u64) -> bool) -> std::result::Result<Vec<OwnedFd>, String> {
        let own = self.own.first().map(|number| sys::disk_of(*number));
        let mut claims = Vec::new();
        for number in self.others() {
            // A disk is its partitions' users'; and what a device shares with its own disk, the kernel knows.
            if sys::with_parts(number).len() > 1 || Some(sys::disk_of(number)) == own {
                continue;
            }
            match sys::open_node(number, OFlags::EXCL) {
                // The number may have become another device's since it was looked at.
                Ok(claim) if self.meet(number) => claims.push(claim),
                Err(Errno::BUSY) if self.meet(number) && !may_be_held(number) => {
                    return Err(format!("held by another process{}", through(number)));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(claims)
    }

    /// Whether a device reaches some of them.
    fn meet(&self, number: u64) -> bool {
        let spans = of_device(number, Depth::Exact);
        self.own.contains(&number) || spans.iter().any(|span| self.spans.iter().any(|own| own.meets(span)))
    }

    /// The other devices that do.
    fn others(&self) -> Vec<u64> {
        match self.spans.is_empty() {
            true => Vec::new(),
            false => sys::all().into_iter().filter(|n| !self.own.contains(n) && self.meet(*n)).collect(),
        }
    }

    /// A volume, RAID or swap that they are part of.
    fn holder(&self) -> Option<String> {
        let holds = |number: &u64| {
            let holders = fs::read_dir(sys::folder(*number)?.join("holders")).ok()?;
            let name = holders.flatten().next()?.file_name();
            Some(format!("held by {}{}", escape(name.as_encoded_bytes()), self.through(*number)))
        };
        let held = self.own.iter().find_map(holds).or_else(|| self.others().iter().find_map(holds));
        held.or_else(|| {
            let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
            let paths = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
            let mut numbers = paths.filter_map(sys::node_number);
            numbers.find(|swap| self.meet(*swap)).map(|swap| format!("used as swap space{}", self.through(swap)))
        })
    }

    /// What is mounted of them, and through which other device. A file system of several devices or with a number of
    /// its own (btrfs) is known by the device that its line in the mount table names.
    fn mounted(&self) -> Result<Vec<(Mounted, String)>> {
        let text = mount_table()?;
        let mut known = HashMap::new();
        let mut is_met = |number: &u64| *known.entry(*number).or_insert_with(|| self.meet(*number));
        let mounts = text.split(|&byte| byte == b'\n').filter_map(parse);
        let met = mounts.filter_map(|mounted| {
            let device = mounted.devices.into_iter().flatten().find(&mut is_met)?;
            Some((mounted, self.through(device)))
        });
        Ok(met.collect())
    }

    fn through(&self, number: u64) -> String {
        if self.own.contains(&number) { String::new() } else { through(number) }
    }
}

/// The devices that a mount's file system lies on, as far as the mount table tells: the one that its line names, and
/// those that make one btrfs with it.
pub(super) fn devices_of(mount: u64) -> Result<Vec<u64>> {
    let (text, id) = (mount_table()?, format!("{mount} "));
    let line = text.split(|&byte| byte == b'\n').find(|line| line.starts_with(id.as_bytes()));
    let named = line.and_then(parse).and_then(|mounted| mounted.devices[1]);
    Ok(named.map_or_else(Vec::new, sys::with_members))
}

fn mount_table() -> Result<Vec<u8>> {
    let table = "/proc/self/mountinfo";
    fs::read(table).map_err(|error| Error::refused(table, format!("the mount table cannot be read: {error}")))
}

/// Claims the partitions of a disk of which somebody has some, which the kernel then gives nobody as a whole; `None` if
/// they do not tell who that is, for there are none, or somebody else than those who may has one.
fn claim_each(parts: &[u64], may_be_held: &dyn Fn(u64) -> bool) -> Option<Vec<OwnedFd>> {
    let mut claims = Vec::new();
    for number in parts {
        match sys::open_node(*number, OFlags::EXCL) {
            Ok(claim) => claims.push(claim),
            Err(_) if may_be_held(*number) => {}
            Err(_) => return None,
        }
    }
    Some(claims).filter(|_| !parts.is_empty())
}

/// How a message names the other device that somebody uses.
fn through(number: u64) -> String {
    format!(", through {}", sys::name(number))
}

/// A line of the mount table.
fn parse(line: &[u8]) -> Option<Mounted> {
    let line = String::from_utf8_lossy(line);
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ');
    let dev = sys::parse_number(fields.nth(2)?)?;
    let point = fields.nth(1)?.to_owned();
    let mut fields = back.split(' ').skip(1);
    let (source, options) = (fields.next()?, fields.next()?);
    let is_writable = options.split(',').any(|option| option == "rw");
    Some(Mounted { point, is_writable, devices: [Some(dev), sys::node_number(source)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_number_and_tells_whether_it_may_be_written_to() {
        let sda1 = rustix::fs::makedev(8, 1);
        let read = |line: &str| parse(line.as_bytes()).map(|m| (m.point, m.is_writable, m.devices[0]));
        let line = |own: &str, all: &str| format!("36 35 8:1 / /mnt/b {own} shared:1 - ext4 x {all}");
        assert_eq!(read(&line("ro,noatime", "rw")), Some(("/mnt/b".to_owned(), true, Some(sda1))));
        assert_eq!(read(&line("ro,noatime", "ro,norecovery")), Some(("/mnt/b".to_owned(), false, Some(sda1))));
        assert_eq!(read("36 35 8:1 /"), None);
    }
}
