//! Extended attributes of files, set and read without following symlinks.

use std::path::Path;

use rustix::fs::XattrFlags;

/// `cap_net_raw=ep` as the kernel keeps it: revision 2, effective; permitted 0x2000, inheritable none.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Sets an attribute.
pub fn set_xattr(path: &Path, key: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()).unwrap_or_else(|errno| panic!("{path:?}: {errno}"));
}

/// The value of an attribute, if it is there.
pub fn get_xattr(path: &Path, key: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let len = rustix::fs::lgetxattr(path, key, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}
