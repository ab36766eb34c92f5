//! Block devices: opened, described, and known again.
//!
//! ```text
//! source   read-only, through the page cache and past it, and claimed (O_EXCL) unless it may change meanwhile
//! dest     read-write and exclusive (O_EXCL) for as long as the job runs: nobody mounts it meanwhile
//! both     described as a regular file of the device's size without times, so that they are copied as one (large/)
//! ```
//! A device is held by these descriptors and never looked up by its name again. It is never created, truncated,
//! allocated, renamed or stamped, and durable by fsync of its own descriptor (I1). What it carries is told by
//! signature.rs, what it lies on by spans.rs, who uses it by usage.rs, all of it out of what sys.rs reads;
//! serial.rs knows it again.

mod serial;
mod signature;
mod spans;
mod sys;
mod usage;

pub use signature::Signature;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Advice, Mode, OFlags, SeekFrom};

use crate::digest;
use crate::error::{Errno, Error, Result, escape};
use crate::ring::{Handle, Stat};

/// Bytes of one read where a device is looked at, not copied.
const LOOK_BYTES: u64 = 1 << 20;

/// Bytes of the head that tell whether somebody else has used a device since: partition tables, the superblocks of
/// whatever begins with the device, and of a first partition at 1 MiB.
const MARK_BYTES: u64 = 4 << 20;

/// Bytes of the smallest sector.
pub const SECTOR_BYTES: u64 = 512;

/// A block device, open.
#[derive(Debug)]
pub struct Device {
    /// Canonical path of its node.
    pub path: Vec<u8>,
    /// Through the page cache.
    pub buffered: Handle,
    /// Past the page cache.
    pub direct: Handle,
    /// What copies of it are described as: a regular file of its size.
    stat: Stat,
    /// Whether its identity tells it from all others, whatever its path.
    is_lasting: bool,
    /// What else jobs may know it by: what its identity was to those that began before loop devices were known by their
    /// images' numbers, and what it is until it is attached anew.
    others: [u64; 2],
    /// What keeps others from using its bytes, by whatever name.
    claims: Vec<OwnedFd>,
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// To be read, whoever writes to it meanwhile.
    Look,
    /// To be read, and nobody writes to it meanwhile.
    Source,
    /// To be written to, by nobody but this process, which reads this device if its source is one.
    Dest(Option<&'a Device>),
}

impl Device {
    /// Opens the device that `node`, an O_PATH descriptor of `path`, stands for. Every error is a refusal.
    pub fn open(node: &OwnedFd, path: &[u8], purpose: Purpose<'_>) -> Result<Device> {
        let refused = |errno| match errno {
            Errno::BUSY => Error::refused(path, "is in use: mounted out of sight, or held by another process"),
            errno => Error::refused(path, format!("cannot be opened: {}", crate::error::Cause::Os(errno))),
        };
        let number = rustix::fs::fstat(node).map_err(refused)?.st_rdev;
        // The node that was looked at, whatever its path leads to by now.
        let node_path = format!("/proc/self/fd/{}", node.as_raw_fd());
        let open = |flags| rustix::fs::open(&node_path, flags | OFlags::CLOEXEC, Mode::empty());
        let (access, claim, claims) = match purpose {
            Purpose::Look => (OFlags::RDONLY, OFlags::empty(), Vec::new()),
            Purpose::Source => {
                let claim = || open(OFlags::RDONLY | OFlags::EXCL);
                (OFlags::RDONLY, OFlags::empty(), refuse_live_source(path, number, claim)?)
            }
            Purpose::Dest(source) => (OFlags::RDWR, OFlags::EXCL, refuse_as_dest(path, number, source)?),
        };
        let buffered = open(access | claim).map_err(refused)?;
        let direct = open(access | OFlags::DIRECT).map_err(refused)?;
        let node = rustix::fs::fstat(&buffered).map_err(refused)?;
        let size = size_of(&buffered).map_err(refused)?;
        let block_bytes = rustix::fs::ioctl_blksszget(&buffered).map_err(refused)?;
        let serial = serial::of(number);
        let attached = identity(size, &serial::of_attachment(number));
        let lasting = serial.as_ref().map(|serial| identity(size, serial));
        let former = serial::former(number).filter(|_| serial.is_some()).map(|former| identity(size, &former));
        let stat = Stat {
            dev: node.st_rdev,
            ino: lasting.unwrap_or(attached),
            mode: libc::S_IFREG | node.st_mode & 0o777,
            nlink: 1,
            uid: node.st_uid,
            gid: node.st_gid,
            rdev: node.st_rdev,
            size,
            blocks: size.div_ceil(512),
            direct_align: block_bytes,
            ..Stat::default()
        };
        Ok(Device {
            path: path.to_vec(),
            buffered: Arc::new(buffered),
            direct: Arc::new(direct),
            stat,
            is_lasting: lasting.is_some(),
            others: [former.unwrap_or(attached), attached],
            claims,
        })
    }

    /// What it is now, as a regular file: the size is asked for, and a device has no times that tell of its content.
    pub fn stat(&self) -> std::result::Result<Stat, Errno> {
        let size = size_of(&self.buffered)?;
        Ok(Stat { size, blocks: size.div_ceil(512), ..self.stat })
    }

    /// What it was when it was opened.
    pub fn described(&self) -> Stat {
        self.stat
    }

    /// Its size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.stat.size
    }

    /// Its device number.
    pub fn number(&self) -> u64 {
        self.stat.rdev
    }

    /// Bytes of its logical blocks: what direct I/O is aligned to, and the smallest part that can be unreadable.
    pub fn block_bytes(&self) -> u32 {
        self.stat.direct_align
    }

    /// What tells it from other devices that come to have its name: its size and its serial number or UUID, or else
    /// that it was there all the time, as a number.
    pub fn identity(&self) -> u64 {
        self.stat.ino
    }

    /// Whether its identity tells it from all others for ever: if not, a job is found by its path, and it is another
    /// device once it was attached anew.
    pub fn is_lasting(&self) -> bool {
        self.is_lasting
    }

    /// Its identity, and what a job that began earlier may have recorded as such.
    pub fn identities(&self) -> [u64; 3] {
        let [former, attached] = self.others;
        [self.identity(), former, attached]
    }

    /// Whether a job that recorded this identity meant this device.
    pub fn is_known_as(&self, identity: u64) -> bool {
        self.identities().contains(&identity)
    }

    /// Refuses a device that a job knows as another one, or that it cannot know any more; `remedy` says what to do.
    pub fn refuse_unknown(&self, identity: u64, remedy: &str) -> Result<()> {
        if self.is_lasting || self.is_known_as(identity) {
            return Ok(());
        }
        let why = "has no WWID, serial number or UUID of its own, so that after a reboot, or once it was detached, it \
                   cannot be known for the device that this job began with: its name may be another's by now";
        Err(Error::refused(&self.path, format!("{why}; {remedy}")))
    }

    /// Keeps the identity by which a job knows it.
    pub fn go_by(&mut self, identity: u64) {
        assert!(self.is_known_as(identity), "a device is no other one");
        self.stat.ino = identity;
    }

    /// The CRC64 of `len` bytes from `offset` on, as its medium has them.
    pub fn crc64(&self, offset: u64, len: u64) -> std::result::Result<u64, Errno> {
        rustix::fs::fadvise(&self.buffered, 0, None, Advice::DontNeed)?;
        let mut crc64 = 0;
        for at in (offset..offset + len).step_by(LOOK_BYTES as usize) {
            let bytes = self.read(at, LOOK_BYTES.min(offset + len - at) as usize)?;
            crc64 = digest::combine(crc64, digest::crc64(&bytes), bytes.len() as u64);
        }
        Ok(crc64)
    }

    /// What the catalog knows a copy on it by that is whole but for what could not be read: whose device it is, and
    /// what it holds where whoever takes a device into use writes first.
    pub fn mark(&self) -> std::result::Result<u64, Errno> {
        let head = self.crc64(0, MARK_BYTES.min(self.size()))?;
        Ok(digest::crc64(&[self.identity(), head].map(u64::to_le_bytes).concat()))
    }

    /// Whether this device was claimed for it, too.
    fn has_claimed(&self, number: u64) -> bool {
        self.claims.iter().any(|claim| rustix::fs::fstat(claim).is_ok_and(|stat| stat.st_rdev == number))
    }

    /// What it carries that nobody should overwrite by mistake.
    pub fn signatures(&self) -> Result<Vec<Signature>> {
        let found = signature::find(self.size(), |offset, len| self.read(offset, len));
        found.map_err(|errno| Error::os("read", &self.path, errno))
    }

    /// The sector of [`SECTOR_BYTES`] that holds a byte, as its medium has it.
    pub fn sector(&self, offset: u64) -> std::result::Result<Vec<u8>, Errno> {
        rustix::fs::fadvise(&self.buffered, 0, None, Advice::DontNeed)?;
        self.read(offset & !(SECTOR_BYTES - 1), SECTOR_BYTES as usize)
    }

    /// Exactly `len` bytes from `offset` on. Ends: every turn reads a byte at least.
    fn read(&self, offset: u64, len: usize) -> std::result::Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match rustix::io::pread(&self.buffered, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(bytes)
    }

    /// Refuses a destination device that holds less than `bytes`.
    pub fn refuse_too_small(&self, bytes: u64) -> Result<()> {
        if bytes <= self.size() {
            return Ok(());
        }
        let why = format!("is too small: it holds {} bytes, the source has {bytes}", self.size());
        Err(Error::refused(&self.path, why))
    }
}

/// Sees to it that two devices with one serial number, as cheap adapters give each disk behind them the same, are not
/// taken for each other by a resume: they are known for as long as they stay attached.
pub fn tell_apart(a: &mut Device, b: &mut Device) {
    if a.identity() == b.identity() {
        [a, b].into_iter().for_each(|device| {
            let [_, attached] = device.others;
            (device.stat.ino, device.others, device.is_lasting) = (attached, [attached; 2], false);
        });
    }
}

/// Refuses, before it is opened, a device that must not be written to: read-only, mounted, or held, it or another one
/// with the same bytes. What was claimed for its source already, on which both lie beside each other, is nobody else's.
fn refuse_as_dest(path: &[u8], number: u64, source: Option<&Device>) -> Result<Vec<OwnedFd>> {
    match usage::is_read_only(number) {
        true => Err(Error::refused(path, "is read-only")),
        false => claim_others(path, Ground::Device(number), source),
    }
}

/// Refuses a file that must not be replaced: the image behind a device that somebody uses.
pub fn refuse_image_in_use(path: &[u8], dev: u64, ino: u64) -> Result<()> {
    claim_others(path, Ground::File(dev, ino, 0), None).map(drop)
}

/// Keeps everybody from using these bytes by another name, as long as what is returned lives.
fn claim_others(path: &[u8], ground: Ground, source: Option<&Device>) -> Result<Vec<OwnedFd>> {
    let bytes = usage::Bytes::of(ground);
    let claims = match bytes.user()? {
        Some(user) => Err(user),
        None => bytes.claim_others(&|number| source.is_some_and(|source| source.has_claimed(number))),
    };
    claims.map_err(|user| Error::refused(path, format!("is in use: {user}")))
}

/// Refuses a source that may change while it is copied: mounted for writing, or held by who may write. For as long as
/// what is returned lives nobody comes to.
fn refuse_live_source(
    path: &[u8],
    number: u64,
    claim: impl Fn() -> std::result::Result<OwnedFd, Errno>,
) -> Result<Vec<OwnedFd>> {
    let bytes = usage::Bytes::of(Ground::Device(number));
    let claims = match bytes.writer()? {
        Some(user) => Err(user),
        None => bytes.claim_still(claim)?,
    };
    claims.map_err(|user| {
        let why = format!("may change while it is read, {user}: unmount it, mount it read-only, or say --live-source");
        Error::refused(path, why)
    })
}

/// One end of a job, as far as it lies on devices.
#[derive(Clone, Copy, Debug)]
pub enum Ground {
    /// A device, by its number.
    Device(u64),
    /// A file, by the number of its file system, its own, and the mount that it was reached through.
    File(u64, u64, u64),
    /// A file to be made on the file system of this number, through this mount.
    NewFile(u64, u64),
}

/// Refuses two ends that lie on the same blocks: a disk and its partition, a device and the image behind it, a device
/// and a file on the file system it holds.
pub fn refuse_overlap(source: Ground, dest: Ground, (source_path, dest_path): (&[u8], &[u8])) -> Result<()> {
    match spans::overlap(source, dest)? {
        true => {
            let why = format!("lies on the same blocks as the source: {}", escape(source_path));
            Err(Error::refused(dest_path, why))
        }
        false => Ok(()),
    }
}

fn size_of(device: &OwnedFd) -> std::result::Result<u64, Errno> {
    rustix::fs::seek(device, SeekFrom::End(0))
}

fn identity(size: u64, serial: &[u8]) -> u64 {
    digest::crc64(&[&size.to_le_bytes(), serial].concat())
}
