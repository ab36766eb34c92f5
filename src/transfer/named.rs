//! Objects that are complete as they are made: symlinks, FIFOs, sockets, device nodes. No bytes, so no seal to wait
//! for.

use super::attributes::Kept;
use super::{Copied, NAME_TRIES, Seal, Work};
use crate::config::SpecialBits;
use crate::error::{Cause, Errno, Error, Result};
use crate::filesystem::Reach;
use crate::job::LinkChanges;
use crate::provider::metadata::{self, UNSEALED};
use crate::provider::xattrs::{Made, Trust};
use crate::report::{Count, Loss};
use crate::ring::{Kind, Name, Side, Stat};
use crate::walk::DestDir;

impl Work<'_> {
    pub(super) fn copy_symlink(&self) -> Result<Option<Copied>> {
        self.make_symlink(&self.source_target()?)
    }

    /// A symlink with this target. `None`: it could not be made, which is counted as a loss.
    pub(crate) fn make_symlink(&self, target: &Name) -> Result<Option<Copied>> {
        let made = self.link_changes().and_then(|changes| {
            Ok((changes, self.make_named(|name| self.dest().make_symlink(self.dest_dir(), name, target))?))
        });
        match made {
            Ok((changes, made)) => self.settle_by_name(made, Count::Symlinks, changes).map(Some),
            Err(Error { cause: Cause::Os(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS), verb: "create", .. }) => {
                self.job.lose(self.place, Loss::Symlink)?;
                Ok(None)
            }
            Err(error) => Err(self.unmade(error)),
        }
    }

    /// What the destination's directory does with owner and times of a symlink. Servers of network and FUSE mounts may
    /// follow it (sshfs), out of the tree, too (I8): tried once, on one that leads to itself.
    pub(super) fn link_changes(&self) -> Result<LinkChanges> {
        let (dest, at) = (self.dest(), self.dest_dir());
        let dev = dest.stat_handle(at).map_err(|errno| self.error("stat the directory of", errno))?.dev;
        if dev == self.job.dest.stat.dev && !self.job.dest_file_system.is_remote() {
            return Ok(LinkChanges::Own);
        }
        let mut link_changes = self.job.link_changes.lock();
        if let Some(known) = link_changes.get(&dev) {
            return Ok(*known);
        }
        let probe = self.job.temporaries.probe();
        let made = metadata::make_probe(&dest, at, &probe, || dest.make_symlink(at, &probe, &probe));
        made.map_err(|errno| self.error("create", errno))?;
        let is_set = dest.set_times_at(at, &probe, UNSEALED, UNSEALED).is_ok();
        dest.unlink(at, &probe).map_err(|errno| self.error("remove the temporary symlink of", errno))?;
        let found = if is_set { LinkChanges::Own } else { LinkChanges::Never };
        link_changes.insert(dev, found);
        Ok(found)
    }

    /// A FIFO, socket or device node. `None`: it could not be made, or is a device that somebody's metadata asks for,
    /// which is counted as a loss.
    pub(crate) fn copy_special(&self) -> Result<Option<Copied>> {
        let is_device = matches!(self.stat.mode & libc::S_IFMT, libc::S_IFBLK | libc::S_IFCHR);
        if is_device && self.told.is_some() && self.job.config.special_bits == SpecialBits::Leave {
            self.job.lose(self.place, Loss::DeviceNode)?;
            return Ok(None);
        }
        let mode = self.stat.mode & libc::S_IFMT | self.creation_mode();
        let made = self.make_named(|name| self.make_node(name, mode));
        match made {
            Ok(made) => self.settle_by_name(made, Count::Specials, LinkChanges::Own).map(Some),
            Err(Error { cause: Cause::Os(errno), verb: "create", .. }) if metadata::is_denied(errno) => {
                let loss = if is_device { Loss::DeviceNode } else { Loss::FifoOrSocket };
                self.job.lose(self.place, loss)?;
                Ok(None)
            }
            Err(error) => Err(self.unmade(error)),
        }
    }

    /// exfat-fuse makes an empty file of whatever it is asked for, and the kernel says EIO, for it is another thing.
    fn make_node(&self, name: &Name, mode: u32) -> std::result::Result<(), Errno> {
        let (dest, at) = (self.dest(), self.dest_dir());
        let made = dest.make_node(at, name, mode, self.stat.rdev);
        if made != Err(Errno::IO) || self.job.dest_reach() == Reach::Local {
            return made;
        }
        match dest.stat(at, name) {
            Ok(there) if there.kind() == Kind::File && there.size == 0 => {
                dest.unlink(at, name)?;
                Err(Errno::OPNOTSUPP)
            }
            _ => made,
        }
    }

    /// Makes an object under its own name, or under the temporary one where that is taken.
    fn make_named(&self, make: impl Fn(&Name) -> std::result::Result<(), Errno>) -> Result<Option<Name>> {
        if let Some(device) = self.job.device(Side::Dest) {
            return Err(Error::refused_object(&device.path, "a device holds the content of a file, and nothing else"));
        }
        for _ in 0..NAME_TRIES {
            match self.job.make(&self.place.dir, || make(&self.place.dest_name)) {
                Ok(()) => {
                    self.remove_leftover(None);
                    return Ok(None);
                }
                Err(Errno::EXIST) if self.free_name()? => {}
                Err(Errno::EXIST) => {
                    let temp = self.place.temp_name(self.job);
                    self.replacing(&temp, || make(&temp))?;
                    return Ok(Some(temp));
                }
                Err(errno) => return Err(self.error("create", errno)),
            }
        }
        Err(self.error("create", Errno::EXIST))
    }

    /// Owner and times of an object that has no content to wait for, then its final name.
    fn settle_by_name(&self, temp: Option<Name>, count: Count, changes: LinkChanges) -> Result<Copied> {
        let name = temp.as_ref().unwrap_or(&self.place.dest_name);
        let settled = match changes {
            LinkChanges::Own => self.try_settle(name),
            LinkChanges::Never => self.leave_as_made(name),
        };
        let made = match settled {
            Ok(made) => made,
            Err(error) => {
                self.remove(temp.as_ref());
                return Err(error);
            }
        };
        if let Some(temp) = &temp {
            let renamed = self.dest().rename(self.dest_dir(), temp, &self.place.dest_name);
            self.release(temp);
            renamed.map_err(|errno| self.error("rename to", errno))?;
        }
        Ok(self.copied(&made, Seal::None, 0, count))
    }

    fn try_settle(&self, name: &Name) -> Result<Stat> {
        let (dest, at) = (self.dest(), self.dest_dir());
        let made = dest.stat(at, name).map_err(|errno| self.error("stat", errno))?;
        if self.place.dir.dest() == DestDir::ExistingWithAcl && made.kind() != Kind::Symlink {
            dest.drop_acls_at(at, name).map_err(|errno| self.error("clear the ACL of", errno))?;
        }
        let kept = match self.keeps_metadata() {
            true => self.keep_owner_by_name(name, &made)?,
            false => Kept { permissions: made.permissions(), trust: Trust::NoCapabilities },
        };
        self.keep_attributes_at(name, kept, Made::New)?;
        let times = (self.stat.atime, self.stat.mtime);
        let lost = metadata::keep_times_at(&dest, (at, name), times, self.job.clock());
        let lost = lost.map_err(|errno| self.error("set times of", errno))?;
        lost.map_or(Ok(()), |loss| self.job.lose(self.place, loss))?;
        Ok(made)
    }

    /// A symlink keeps what it was made with: what it should have and has not is lost.
    fn leave_as_made(&self, name: &Name) -> Result<Stat> {
        let made = self.dest().stat(self.dest_dir(), name).map_err(|errno| self.error("stat", errno))?;
        if self.keeps_metadata() && (made.uid, made.gid) != (self.stat.uid, self.stat.gid) {
            self.job.lose(self.place, Loss::Owner)?;
        }
        let lost = metadata::lost_time(self.stat.mtime, made.mtime);
        lost.map_or(Ok(()), |loss| self.job.lose(self.place, loss))?;
        let kept = Kept { permissions: made.permissions(), trust: Trust::NoCapabilities };
        self.keep_attributes_at(name, kept, Made::New)?;
        Ok(made)
    }

    /// Owner, then set-id bits, which nothing is made with: I9, not without their owner.
    fn keep_owner_by_name(&self, name: &Name, made: &Stat) -> Result<Kept> {
        let (dest, at) = (self.dest(), self.dest_dir());
        let look_again = |before: Stat| match self.job.dest_reach() {
            Reach::Local => Ok(before),
            Reach::Remote => dest.stat(at, name).map_err(|errno| self.error("stat", errno)),
        };
        let (uid, gid) = (self.stat.uid, self.stat.gid);
        let mut now = *made;
        if !metadata::is_owned(&now, self.stat) {
            match dest.set_owner_at(at, name, uid, gid) {
                Ok(()) => now = look_again(Stat { uid, gid, ..now })?,
                Err(errno) if metadata::is_denied(errno) => {}
                Err(errno) => return Err(self.error("set owner of", errno)),
            }
        }
        let is_owned = metadata::is_owned(&now, self.stat);
        let wanted = if is_owned { self.stat.permissions() } else { self.stat.permissions() & !0o6000 };
        if now.kind() != Kind::Symlink && now.permissions() != wanted {
            match (dest.set_mode_at(at, name, wanted), self.job.dest_reach()) {
                (Ok(()), _) => now = look_again(Stat { mode: now.mode & !0o7777 | wanted, ..now })?,
                (Err(errno), Reach::Remote) if metadata::is_denied(errno) => {}
                (Err(errno), _) => return Err(self.error("set mode of", errno)),
            }
        }
        // A symlink's permission bits say nothing.
        let permissions = if now.kind() == Kind::Symlink { self.stat.permissions() } else { now.permissions() };
        let losses = metadata::lost(self.stat, is_owned, permissions);
        losses.iter().try_for_each(|loss| self.job.lose(self.place, loss))?;
        let trust = if is_owned { Trust::Full } else { Trust::NoCapabilities };
        Ok(Kept { permissions: now.permissions(), trust })
    }
}
