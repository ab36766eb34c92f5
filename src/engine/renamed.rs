//! A device that the kernel calls otherwise than when its job began is the same device, and the job goes on.
//!
//! ```text
//! recorded   /dev/sdb -> /images/disk     by-id leads to /dev/sdc now: its serial number is the one that was recorded
//! now        /dev/sdc -> /images/disk     so the job is asked for by the names that it was recorded with
//! ```
//! What is read and written is held open already; names only lead to records. A path that leads to another device by
//! now finds no job here, and is refused when the catalog of its name is opened. So is one that cannot be known for the
//! same device: two disks without serial numbers may have each other's names after a reboot, and going on would write
//! the rest of the copy over the source.

use std::ffi::CString;
use std::sync::Arc;

use crate::catalog::{Catalog, JobIdentity, KnownBy};
use crate::config::Config;
use crate::error::{Result, escape};
use crate::location::Location;
use crate::report::Console;
use crate::ring::Name;
use crate::roots::{Root, Roots};

/// The names of source and destination by which the catalog knows the job between `names`; the roots get the names and
/// identities of its records.
pub(super) fn recorded_names(
    config: &Config,
    roots: &mut Roots,
    names: &(Vec<u8>, Vec<u8>),
    console: &Console,
) -> (Vec<u8>, Vec<u8>) {
    let (source, dest) = (roots.source.known_by(&names.0), roots.dest.known_by(&names.1));
    let recorded = Catalog::recorded_between(&config.state_dir, source, dest);
    let Some(job) = recorded.filter(|_| roots.has_device()) else { return names.clone() };
    for (now, then) in [(&names.0, &job.source), (&names.1, &job.dest)] {
        if now != then {
            console.note(&format!("gfast: {} is the device that this job began with as {}", escape(now), escape(then)));
        }
    }
    go_by(&mut roots.source, job.source_root.ino);
    go_by(&mut roots.dest, job.dest_root.ino);
    rename(config, roots, &job);
    (job.source, job.dest)
}

/// Refuses a device that cannot be known for the one with which the job between `names` began, before anything else is
/// said of what it carries.
pub(super) fn refuse_unknown(config: &Config, roots: &Roots, names: &(Vec<u8>, Vec<u8>)) -> Result<()> {
    let by_path = [&names.0, &names.1].map(|name| KnownBy::Path(name));
    let Some(job) = Catalog::recorded_between(&config.state_dir, by_path[0], by_path[1]) else { return Ok(()) };
    for (root, then) in [(&roots.source, job.source_root), (&roots.dest, job.dest_root)] {
        if let Some(device) = &root.device {
            device.refuse_unknown(then.ino, "to begin anew make sure of both names, and use another --state-dir")?;
        }
    }
    Ok(())
}

/// Its records were written with the identity that the job knows it by.
fn go_by(root: &mut Root, identity: u64) {
    if let Some(device) = root.device.as_mut().and_then(Arc::get_mut)
        && device.is_known_as(identity)
    {
        device.go_by(identity);
    }
}

/// Gives the one object of the job the names that it has in the records. The key of an object that was named after its
/// source stays what it was, too.
fn rename(config: &Config, roots: &mut Roots, job: &JobIdentity) {
    let Some(single) = &mut roots.single else { return };
    if roots.source.device.is_some() {
        let recorded = last_name(&job.source).unwrap_or_else(|| single.source_name.clone());
        if matches!(&config.dest, Location::S3 { prefix, .. } if prefix.is_empty() || prefix.ends_with(b"/")) {
            single.dest_name.clone_from(&recorded);
        }
        single.source_name = recorded;
    }
    if roots.dest.device.is_some() {
        single.dest_name = last_name(&job.dest).unwrap_or_else(|| single.dest_name.clone());
    }
}

fn last_name(path: &[u8]) -> Option<Name> {
    CString::new(path.rsplit(|&byte| byte == b'/').next()?).ok()
}
