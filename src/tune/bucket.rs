//! Buckets, as a measurement needs them: a prefix for scratch objects, and a sample of what is there.
//!
//! Keys are deleted and listed with the client of the lanes, many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};

use super::sample::{File, Limits};
use crate::config::S3Options;
use crate::error::{Error, Result};
use crate::provider::s3::{Bucket, Client, From, Key, Page, keys};
use crate::ring::Side;

/// Requests that delete, at a time.
const DELETES_MAX: usize = 32;
/// How late a server may store what a client that is gone has sent.
const LATE_TIME: Duration = Duration::from_secs(1);
/// Pages of one listing: more are the sign of a server that tells the same for ever.
const PAGES_MAX: usize = 10_000;

/// A prefix of a bucket with nothing but our own objects.
pub(super) struct Prefix {
    /// Waits for answers.
    runtime: Runtime,
    /// The bucket.
    bucket: Arc<Bucket>,
    /// What the keys begin with; ends in a slash.
    prefix: String,
}

impl Prefix {
    /// Refused: the bucket cannot be reached, or something begins with the prefix.
    pub fn keep(bucket: &str, prefix: &str, options: &S3Options) -> Result<Prefix> {
        let runtime = runtime()?;
        let page = runtime.block_on(async {
            let bucket = Arc::new(Bucket::open(bucket, prefix, options, Side::Dest).await?);
            let page = Client::new(bucket.clone())?.list(prefix, &From::Start).await?;
            Ok((bucket, page))
        });
        match page? {
            (bucket, page) if page == Page::default() => Ok(Prefix { runtime, bucket, prefix: prefix.to_owned() }),
            _ => Err(Error::refused(format!("s3://{bucket}/{prefix}"), "something is there already")),
        }
    }

    /// Deletes all below one name, or all; uploads under way included.
    pub fn clear(&self, name: &str) -> Result<()> {
        let prefix = if name.is_empty() { self.prefix.clone() } else { format!("{}{name}/", self.prefix) };
        self.runtime.block_on(LocalSet::new().run_until(clear(&self.bucket, &prefix)))
    }

    /// Deletes all, and once more what a server has stored after its client was killed.
    pub fn sweep(&self) -> Result<()> {
        self.clear("")?;
        std::thread::sleep(LATE_TIME);
        self.clear("")
    }
}

async fn clear(bucket: &Arc<Bucket>, prefix: &str) -> Result<()> {
    let client = Arc::new(Client::new(bucket.clone())?);
    for upload in client.list_uploads(prefix).await? {
        // A server that cannot select by prefix tells all uploads.
        if let (true, Ok(key)) = (upload.key.starts_with(prefix), Key::new(upload.key)) {
            client.abort_upload(&key, &upload.id).await?;
        }
    }
    let mut prefixes = vec![prefix.to_owned()];
    while let Some(prefix) = prefixes.pop() {
        let mut from = From::Start;
        for _ in 0..PAGES_MAX {
            let page = client.list(&prefix, &from).await?;
            delete(&client, page.objects.into_iter().map(|object| object.key)).await?;
            prefixes.extend(page.prefixes.into_iter().filter(|below| *below != prefix));
            match page.next {
                Some(token) => from = From::Token(token),
                None => break,
            }
        }
    }
    Ok(())
}

async fn delete(client: &Arc<Client>, keys: impl Iterator<Item = String>) -> Result<()> {
    let mut under_way = JoinSet::new();
    let done = |joined: std::result::Result<Result<()>, _>| joined.unwrap_or(Ok(()));
    for key in keys.filter_map(|key| Key::new(key).ok()) {
        if under_way.len() >= DELETES_MAX
            && let Some(joined) = under_way.join_next().await
        {
            done(joined)?;
        }
        let client = client.clone();
        under_way.spawn_local(async move { client.delete(&key).await });
    }
    while let Some(joined) = under_way.join_next().await {
        done(joined)?;
    }
    Ok(())
}

/// A sample of the objects below a prefix: page after page of one "directory" after the other, until there is enough
/// or it takes too long. Names are those that a copy would give them.
pub(super) fn sample(bucket: &str, prefix: &str, options: &S3Options, limits: &Limits) -> Result<Vec<File>> {
    runtime()?.block_on(async {
        let client = Client::new(Arc::new(Bucket::open(bucket, prefix, options, Side::Source).await?))?;
        let (started, mut files) = (Instant::now(), Vec::new());
        let mut prefixes = VecDeque::from([prefix.to_owned()]);
        while let Some(below) = prefixes.pop_front() {
            let mut from = From::Start;
            while files.len() < limits.names && started.elapsed() < limits.time {
                let page = client.list(&below, &from).await?;
                let named = page.objects.iter().filter_map(|object| {
                    Some(File { path: path_of(object.key.strip_prefix(prefix)?)?, size: object.size })
                });
                files.extend(named);
                prefixes.extend(page.prefixes.into_iter().filter(|next| *next != below));
                match page.next {
                    Some(token) => from = From::Token(token),
                    None => break,
                }
            }
        }
        Ok(files)
    })
}

/// The path that a key is copied to; `None` for one that is not copied, or is a directory.
fn path_of(key: &str) -> Option<Vec<u8>> {
    let sound = |name: &Vec<u8>| !matches!(name.as_slice(), b"" | b"." | b"..") && !name.contains(&b'/');
    let names = key.split('/').map(|component| keys::name_of(component).filter(sound));
    Some(names.collect::<Option<Vec<_>>>()?.join(&b'/'))
}

fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::refused("s3", format!("no runtime can be started: {error}")))
}
