//! Extended attributes and ACLs of simulated inodes: part of their attributes, and lost or kept with them.

use super::disk::{Attrs, Disk, Ino};
use super::world::{World, component};
use crate::error::Errno;
use crate::ring::{Handle, Kind, Name, Side};

/// Key of the ACL that decides about access.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Key of the ACL that a directory hands on.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

impl World {
    /// The inode that an operation on attributes is about: a name's, or the open object's own.
    fn attributed(&mut self, side: Side, at: &Handle, name: &Name) -> Result<Ino, Errno> {
        let at = self.ino(side, at)?;
        match name.is_empty() {
            true => Ok(at),
            false => self.disk(side).lookup(at, component(name)),
        }
    }

    /// listxattr.
    pub(super) fn list_xattrs(&mut self, side: Side, at: &Handle, name: &Name) -> Result<Vec<u8>, Errno> {
        let ino = self.attributed(side, at, name)?;
        let attrs = &self.disk(side).node(ino).attrs;
        Ok(attrs.xattrs.keys().flat_map(|key| [&key[..], b"\0"].concat()).collect())
    }

    /// getxattr.
    pub(super) fn get_xattr(&mut self, side: Side, at: &Handle, name: &Name, key: &Name) -> Result<Vec<u8>, Errno> {
        let ino = self.attributed(side, at, name)?;
        let attrs = &self.disk(side).node(ino).attrs;
        attrs.xattrs.get(key.to_bytes()).cloned().ok_or(Errno::NODATA)
    }

    /// setxattr.
    pub(super) fn set_xattr(
        &mut self,
        side: Side,
        at: &Handle,
        name: &Name,
        (key, value): (&Name, &[u8]),
    ) -> Result<(), Errno> {
        let ino = self.attributed(side, at, name)?;
        self.disk(side).set_xattr(ino, key.to_bytes(), value)
    }

    /// removexattr.
    pub(super) fn remove_xattr(&mut self, side: Side, at: &Handle, name: &Name, key: &Name) -> Result<(), Errno> {
        let ino = self.attributed(side, at, name)?;
        let disk = self.disk(side);
        if !disk.node(ino).attrs.xattrs.contains_key(key.to_bytes()) {
            return Err(Errno::NODATA);
        }
        disk.change(ino, |attrs| drop(attrs.xattrs.remove(key.to_bytes())));
        Ok(())
    }
}

impl Attrs {
    /// Whether it has an access ACL.
    pub(super) fn has_acl(&self) -> bool {
        self.xattrs.contains_key(ACCESS)
    }

    /// Whether it hands a default ACL on.
    pub(super) fn has_default_acl(&self) -> bool {
        self.xattrs.contains_key(DEFAULT)
    }

    /// What is created in a directory of these attributes inherits its default ACL.
    pub(super) fn hand_on(&self, child: &mut Attrs) {
        let Some(acl) = self.xattrs.get(DEFAULT) else { return };
        let keys = match child.mode & libc::S_IFMT {
            libc::S_IFLNK => &[][..],
            libc::S_IFDIR => &[ACCESS, DEFAULT],
            _ => &[ACCESS],
        };
        child.xattrs.extend(keys.iter().map(|key| (key.to_vec(), acl.clone())));
    }
}

impl Disk {
    /// What root may set, and of whom.
    fn set_xattr(&mut self, ino: Ino, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        let kind = self.kind(ino);
        match key {
            ACCESS if kind == Kind::Symlink => return Err(Errno::OPNOTSUPP),
            DEFAULT if kind != Kind::Dir => return Err(Errno::ACCESS),
            ACCESS | DEFAULT => {}
            key if key.starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Dir) => return Err(Errno::PERM),
            key if [&b"user."[..], b"trusted.", b"security."].iter().any(|family| key.starts_with(family)) => {}
            _ => return Err(Errno::OPNOTSUPP),
        }
        self.change(ino, |attrs| drop(attrs.xattrs.insert(key.to_vec(), value.to_vec())));
        Ok(())
    }

    /// Adds an attribute to the object at `path`.
    pub fn add_xattr(&mut self, path: &[u8], key: &[u8], value: &[u8]) {
        let ino = self.find(path).expect("the test built this object");
        self.set_xattr(ino, key, value).expect("the test sets what may be set");
        self.sync_all();
    }
}
