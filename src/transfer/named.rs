//! Objects that are complete as they are made: symlinks, FIFOs, sockets, device nodes. No bytes, so no seal to wait
//! for.

use super::attributes::Kept;
use super::{Copied, Seal, Work};
use crate::config::Metadata;
use crate::error::{Cause, Errno, Error, Result};
use crate::job::LinkChanges;
use crate::provider::metadata::{self, UNSEALED};
use crate::provider::xattrs::{Made, Trust};
use crate::report::{Count, Loss};
use crate::ring::{Kind, Name, Side, Stat};
use crate::walk::DestDir;

impl Work<'_> {
    pub(super) fn copy_symlink(&self) -> Result<Copied> {
        self.make_symlink(&self.source_target()?)
    }

    /// A symlink with this target.
    pub(crate) fn make_symlink(&self, target: &Name) -> Result<Copied> {
        let changes = self.link_changes()?;
        let made = self.make_named(|name| self.dest().make_symlink(self.dest_dir(), name, target))?;
        self.settle_by_name(made, Count::Symlinks, changes)
    }

    /// What the destination's directory does with owner and times of a symlink. Servers of network and FUSE mounts may
    /// follow it (sshfs), out of the tree, too (I8): tried once, on one that leads to itself.
    pub(super) fn link_changes(&self) -> Result<LinkChanges> {
        let (dest, at) = (self.dest(), self.dest_dir());
        let dev = dest.stat_handle(at).map_err(|errno| self.error("stat the directory of", errno))?.dev;
        if dev == self.job.dest.stat.dev && !self.job.dest_file_system.is_remote() {
            return Ok(LinkChanges::Own);
        }
        let known = self.job.link_changes.lock().get(&dev).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let probe = self.place.temp_name(self.job);
        self.replacing(&probe, || dest.make_symlink(at, &probe, &probe))?;
        let is_set = dest.set_times_at(at, &probe, UNSEALED, UNSEALED).is_ok();
        dest.unlink(at, &probe).map_err(|errno| self.error("remove the temporary symlink of", errno))?;
        let found = if is_set { LinkChanges::Own } else { LinkChanges::Never };
        self.job.link_changes.lock().insert(dev, found);
        Ok(found)
    }

    /// A FIFO, socket or device node. `None`: it could not be made, which is counted as a loss.
    pub(crate) fn copy_special(&self) -> Result<Option<Copied>> {
        let mode = match self.job.config.metadata {
            Metadata::Keep => self.stat.mode,
            Metadata::TimesOnly => self.stat.mode & !self.job.identity.umask,
        };
        let made = self.make_named(|name| self.dest().make_node(self.dest_dir(), name, mode & !0o6000, self.stat.rdev));
        let is_device = matches!(self.stat.mode & libc::S_IFMT, libc::S_IFBLK | libc::S_IFCHR);
        match made {
            Ok(made) => self.settle_by_name(made, Count::Specials, LinkChanges::Own).map(Some),
            Err(Error { cause: Cause::Os(errno), .. }) if metadata::is_denied(errno) => {
                let loss = if is_device { Loss::DeviceNode } else { Loss::FifoOrSocket };
                self.job.lose(self.place, loss)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes an object under its own name, or under the temporary one where that is taken.
    fn make_named(&self, make: impl Fn(&Name) -> std::result::Result<(), Errno>) -> Result<Option<Name>> {
        if let Some(device) = self.job.device(Side::Dest) {
            return Err(Error::refused_object(&device.path, "a device holds the content of a file, and nothing else"));
        }
        match make(&self.place.dest_name) {
            Ok(()) => {
                self.remove_leftover(None);
                return Ok(None);
            }
            Err(Errno::EXIST) => {
                self.own_name()?;
                if self.make_way()? {
                    return self.make_named(make);
                }
            }
            Err(errno) => return Err(self.error("create", errno)),
        }
        let temp = self.place.temp_name(self.job);
        self.replacing(&temp, || make(&temp))?;
        Ok(Some(temp))
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
        match dest.set_times_at(at, name, self.stat.atime, self.stat.mtime) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.job.lose(self.place, Loss::Times)?,
            Err(errno) => return Err(self.error("set times of", errno)),
        }
        Ok(made)
    }

    /// A symlink keeps what it was made with: what it should have and has not is lost.
    fn leave_as_made(&self, name: &Name) -> Result<Stat> {
        let made = self.dest().stat(self.dest_dir(), name).map_err(|errno| self.error("stat", errno))?;
        if self.keeps_metadata() && (made.uid, made.gid) != (self.stat.uid, self.stat.gid) {
            self.job.lose(self.place, Loss::Owner)?;
        }
        self.job.lose(self.place, Loss::Times)?;
        let kept = Kept { permissions: made.permissions(), trust: Trust::NoCapabilities };
        self.keep_attributes_at(name, kept, Made::New)?;
        Ok(made)
    }

    /// Owner, then set-id bits, which nothing is made with: I9, not without their owner.
    fn keep_owner_by_name(&self, name: &Name, made: &Stat) -> Result<Kept> {
        let (dest, at) = (self.dest(), self.dest_dir());
        if (made.uid, made.gid) != (self.stat.uid, self.stat.gid) {
            match dest.set_owner_at(at, name, self.stat.uid, self.stat.gid) {
                Ok(()) => {}
                Err(errno) if metadata::is_denied(errno) => {
                    self.job.lose(self.place, Loss::Owner)?;
                    return Ok(Kept { permissions: made.permissions(), trust: Trust::NoCapabilities });
                }
                Err(errno) => return Err(self.error("set owner of", errno)),
            }
        }
        if made.kind() == Kind::Symlink || made.permissions() == self.stat.permissions() {
            return Ok(Kept { permissions: made.permissions(), trust: Trust::Full });
        }
        let set = dest.set_mode_at(at, name, self.stat.permissions());
        set.map_err(|errno| self.error("set mode of", errno))?;
        Ok(Kept { permissions: self.stat.permissions(), trust: Trust::Full })
    }
}
