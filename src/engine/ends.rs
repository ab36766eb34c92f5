//! Both ends of a job, open: two file systems, or a bucket on either side.
//!
//! A bucket's root is /dev/null with the bucket's name for a path: nothing can be looked up in it by mistake. Whether
//! the bucket is there, and answers to these credentials, is known before anything is touched.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{BadSectors, Config, EqualBlocks, NEAR_TIME_MAX, S3Options};
use crate::delete::has_below;
use crate::error::{Error, Result};
use crate::filesystem::{FileSystem, Inodes};
use crate::job::{BucketRoot, KeyNames};
use crate::location::Location;
use crate::provider::s3::{Bucket, Client, From, Key, Page, keys};
use crate::report::{Activity, Busy};
use crate::ring::{Handle, Side, Stat, Time};
use crate::roots::{self, DestOrigin, Root, Roots, SingleFile};

/// Both ends of a job.
pub(crate) struct Ends {
    /// Their roots.
    pub roots: Roots,
    /// Names of source and destination, as the catalog keeps them.
    pub names: (Vec<u8>, Vec<u8>),
    /// The source's bucket, if it is one.
    pub source: Option<BucketRoot>,
    /// The destination's bucket, if it is one.
    pub dest: Option<BucketRoot>,
}

/// A bucket end: where it begins, and the one object it is about if it is about one.
struct BucketEnd {
    /// Where keys begin.
    root: BucketRoot,
    /// As typed, without what does not count.
    name: Vec<u8>,
    /// The object's name below the root.
    single: Option<CString>,
    /// Its size in bytes.
    bytes: u64,
}

/// Opens both ends. Refused (exit 2) before anything is touched: what cannot be reached, and what would copy a tree
/// into itself. `busy` is told which end is waited for.
pub(super) fn open(config: &Config, busy: &Busy) -> Result<Ends> {
    let opened = try_open(config, busy);
    busy.set(Activity::Computing);
    opened
}

fn try_open(config: &Config, busy: &Busy) -> Result<Ends> {
    refuse_options_of_devices(config)?;
    match (&config.source, &config.dest) {
        (Location::Posix(_), Location::Posix(_)) => {
            let examined = roots::examine(config, busy)?;
            let names = (examined.source_path(), examined.dest_path());
            Ok(Ends { roots: examined.open(busy)?, names, source: None, dest: None })
        }
        (Location::Posix(_), Location::S3 { bucket, prefix }) => open_up(config, (bucket, prefix), busy),
        (Location::S3 { bucket, prefix }, Location::Posix(_)) => {
            open_down(config, (bucket, prefix), roots::open_dest_alone, busy)
        }
        (Location::S3 { bucket, prefix }, Location::S3 { bucket: to, prefix: to_prefix }) => {
            open_across(config, (bucket, prefix), (to, to_prefix))
        }
    }
}

/// Opens both ends to look at them, refusing what [`open`] refuses. Nothing is made: what stands for a destination that
/// is not there holds no names. `busy` is told which end is waited for.
pub(crate) fn look(config: &Config, busy: &Busy) -> Result<Ends> {
    let looked = try_look(config, busy);
    busy.set(Activity::Computing);
    looked
}

fn try_look(config: &Config, busy: &Busy) -> Result<Ends> {
    refuse_options_of_devices(config)?;
    match (&config.source, &config.dest) {
        (Location::Posix(_), Location::Posix(_)) => {
            let examined = roots::examine(config, busy)?;
            let names = (examined.source_path(), examined.dest_path());
            let roots = examined.look(place_holder, busy)?;
            Ok(Ends { roots, names, source: None, dest: None })
        }
        (Location::S3 { bucket, prefix }, Location::Posix(_)) => {
            let look = |config: &Config, single| roots::look_at_dest_alone(config, single, place_holder);
            open_down(config, (bucket, prefix), look, busy)
        }
        _ => try_open(config, busy),
    }
}

/// What objects know nothing of is not left out in silence.
fn refuse_options_of_devices(config: &Config) -> Result<()> {
    let bucket = [&config.source, &config.dest].into_iter().find(|end| matches!(end, Location::S3 { .. }));
    let option = match &config.devices {
        devices if devices.equal_blocks == EqualBlocks::Leave => "--skip-equal",
        // Of a source that is read as a device, more is known when it is opened.
        _ if matches!((&config.source, &config.dest), (Location::Posix(_), Location::S3 { .. })) => return Ok(()),
        devices if devices.bad_sectors == BadSectors::Skip => "--skip-bad-sectors",
        _ => return Ok(()),
    };
    bucket.map_or(Ok(()), |end| Err(Error::refused(end.display(), format!("is in a bucket: {option} is for devices"))))
}

/// Opens a destination: its root, its path, whether it was there, and the name of the one file that a job is about.
type OpenDest = fn(&Config, Option<(CString, u64)>) -> Result<(Root, Vec<u8>, DestOrigin, Option<CString>)>;

fn open_up(config: &Config, (bucket, prefix): (&str, &[u8]), busy: &Busy) -> Result<Ends> {
    busy.set(Activity::SourceNames);
    let (source, source_path, file) = roots::open_source_alone(config)?;
    if config.devices.bad_sectors == BadSectors::Skip && source.device.is_none() {
        return Err(Error::refused(source_path, "is no block device: --skip-bad-sectors is for those"));
    }
    busy.set(Activity::Requests);
    let mut dest = block_on(open_bucket(bucket, prefix, &config.dest_s3, Side::Dest, KeyNames::Posix))?;
    let single = file.map(|source_name| {
        // A name without a slash at its end is the object's own.
        let dest_name = split_key(&mut dest.root, prefix).unwrap_or_else(|| source_name.clone());
        SingleFile { source_name, dest_name }
    });
    let names = (source_path, dest.name);
    let dest_origin = if dest.root.is_empty { DestOrigin::Made } else { DestOrigin::Found };
    let roots = Roots { source, dest: place_holder(&names.1)?, dest_origin, single };
    Ok(Ends { roots, names, source: None, dest: Some(dest.root) })
}

fn open_down(config: &Config, (bucket, prefix): (&str, &[u8]), open_dest: OpenDest, busy: &Busy) -> Result<Ends> {
    busy.set(Activity::Requests);
    let source = block_on(async {
        let mut end = open_bucket(bucket, prefix, &config.source_s3, Side::Source, KeyNames::Posix).await?;
        find_source(&mut end, prefix).await?;
        Ok(end)
    })?;
    let single = source.single.clone().map(|name| (name, source.bytes));
    busy.set(Activity::DestNames);
    let (dest, dest_path, dest_origin, dest_name) = open_dest(config, single)?;
    let single = source.single.zip(dest_name).map(|(source_name, dest_name)| SingleFile { source_name, dest_name });
    let names = (source.name, dest_path);
    let roots = Roots { source: place_holder(&names.0)?, dest, dest_origin, single };
    Ok(Ends { roots, names, source: Some(source.root), dest: None })
}

fn open_across(config: &Config, from: (&str, &[u8]), to: (&str, &[u8])) -> Result<Ends> {
    let (source, mut dest) = block_on(async {
        let mut source = open_bucket(from.0, from.1, &config.source_s3, Side::Source, KeyNames::Pieces).await?;
        find_source(&mut source, from.1).await?;
        let dest = open_bucket(to.0, to.1, &config.dest_s3, Side::Dest, KeyNames::Pieces).await?;
        Ok((source, dest))
    })?;
    let single = source.single.clone().map(|source_name| {
        let dest_name = split_key(&mut dest.root, to.1).unwrap_or_else(|| source_name.clone());
        SingleFile { source_name, dest_name }
    });
    let is_one_bucket = source.root.bucket.is_same(&dest.root.bucket);
    let (a, b) = (&source.root.prefix, &dest.root.prefix);
    let is_inside = a.starts_with(b.as_str()) || b.starts_with(a.as_str());
    let is_itself = single.as_ref().is_none_or(|single| single.source_name == single.dest_name && a == b);
    if is_one_bucket && is_inside && is_itself {
        return Err(Error::refused(dest.name, "the destination is, lies in, or holds the source"));
    }
    let names = (source.name, dest.name);
    let dest_origin = if dest.root.is_empty { DestOrigin::Made } else { DestOrigin::Found };
    let roots = Roots { source: place_holder(&names.0)?, dest: place_holder(&names.1)?, dest_origin, single };
    Ok(Ends { roots, names, source: Some(source.root), dest: Some(dest.root) })
}

/// Runs requests that are made before there are lanes.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::refused("s3", format!("no runtime can be started: {error}")))?;
    runtime.block_on(work)
}

async fn open_bucket(name: &str, typed: &[u8], options: &S3Options, side: Side, names: KeyNames) -> Result<BucketEnd> {
    let display = [format!("s3://{name}/").as_bytes(), typed].concat();
    let refused = |why: &'static str| Error::refused(&display, why);
    let typed = std::str::from_utf8(typed).map_err(|_| refused("the prefix is not UTF-8, as all keys are"))?;
    if typed.starts_with('/') || typed.split('/').any(|part| part == "." || part == "..") {
        return Err(refused("no key can begin like this: a component is empty at its start, `.` or `..`"));
    }
    let prefix = if typed.is_empty() || typed.ends_with('/') { typed.to_owned() } else { format!("{typed}/") };
    let bucket = Arc::new(Bucket::open(name, &prefix, options, side).await?);
    let name = format!("s3://{name}/{prefix}").into_bytes();
    let root = BucketRoot { bucket, prefix, names, is_empty: false, is_near: false };
    let mut end = BucketEnd { root, name, single: None, bytes: 0 };
    if side == Side::Dest {
        let page = first_page(&mut end.root).await?;
        end.root.is_empty = page.objects.is_empty() && page.prefixes.is_empty() && page.next.is_none();
    }
    Ok(end)
}

/// Whether the source is what lies below a prefix or, if nothing does, one object; refuses what is not there.
async fn find_source(end: &mut BucketEnd, typed: &[u8]) -> Result<()> {
    match find_single(end, typed).await? {
        true => Ok(()),
        false => Err(Error::refused(&end.name, "there is no object of this name and none below it")),
    }
}

/// Notes the one object that is meant if nothing lies below the prefix; false if there is neither.
async fn find_single(end: &mut BucketEnd, typed: &[u8]) -> Result<bool> {
    let page = first_page(&mut end.root).await?;
    let is_told = !(page.objects.is_empty() && page.prefixes.is_empty());
    let client = Client::new(end.root.bucket.clone())?;
    if is_told || (page.next.is_some() && has_below(&client, &end.root.prefix).await?) {
        return Ok(true);
    }
    let typed = String::from_utf8_lossy(typed).into_owned();
    let key = Key::new(typed.clone()).ok().filter(|_| !typed.ends_with('/'));
    if let Some(key) = key
        && let Some(object) = client.head(&key).await?
    {
        end.bytes = object.size;
        end.single = split_key(&mut end.root, typed.as_bytes());
        return Ok(true);
    }
    Ok(false)
}

/// The first page of a bucket end, and how far away the server is.
async fn first_page(root: &mut BucketRoot) -> Result<Page> {
    let client = Client::new(root.bucket.clone())?;
    let started = Instant::now();
    let page = client.list(&root.prefix, &From::Start).await?;
    root.is_near = started.elapsed() <= NEAR_TIME_MAX;
    Ok(page)
}

/// Makes the parent of a key the root; the key's last component as a name. `None` for a key that ends in a slash.
fn split_key(root: &mut BucketRoot, typed: &[u8]) -> Option<CString> {
    let typed = std::str::from_utf8(typed).ok()?;
    let at = typed.rfind('/').map_or(0, |slash| slash + 1);
    let (prefix, component) = typed.split_at(at);
    if component.is_empty() {
        return None;
    }
    let name = match root.names {
        KeyNames::Posix => CString::new(keys::name_of(component)?).ok()?,
        KeyNames::Pieces => CString::new(component).ok()?,
    };
    root.prefix = prefix.to_owned();
    Some(name)
}

/// Opens a bucket to read what lies below a prefix; its name as the catalog keeps it, and the name below the root of
/// the one object that is meant, if it is one.
pub(crate) async fn find_to_read(
    (bucket, prefix): (&str, &[u8]),
    options: &S3Options,
    side: Side,
    names: KeyNames,
) -> Result<(BucketRoot, Vec<u8>, Option<CString>)> {
    let mut end = open_bucket(bucket, prefix, options, side, names).await?;
    // Nothing below it is nothing to be found, and no error.
    find_single(&mut end, prefix).await?;
    Ok((end.root, end.name, end.single))
}

/// Opens a bucket to read the object that a file of this name was copied to.
pub(crate) async fn find_copy_to_read(
    (bucket, prefix): (&str, &[u8]),
    options: &S3Options,
    names: KeyNames,
    source_name: &CString,
) -> Result<(BucketRoot, Vec<u8>, CString)> {
    let mut end = open_bucket(bucket, prefix, options, Side::Dest, names).await?;
    let name = split_key(&mut end.root, prefix).unwrap_or_else(|| source_name.clone());
    Ok((end.root, end.name, name))
}

/// What stands for a bucket, or for what is not there, where a directory is expected.
fn place_holder(name: &[u8]) -> Result<Root> {
    Ok(Root {
        handle: nowhere()?,
        path: name.to_vec(),
        stat: Stat::default(),
        birth: Time::default(),
        file_system: FileSystem::Other,
        inodes: Inodes::Lasting,
        device: None,
    })
}

/// A handle in which no name can be looked up.
pub(super) fn nowhere() -> Result<Handle> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty());
    Ok(Arc::new(null.map_err(|errno| Error::os("open", "/dev/null", errno))?))
}
