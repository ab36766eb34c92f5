//! Names of a bucket that its destination may take for one another.

use std::sync::Arc;

use super::listing::items;
use super::{Lane, Way};
use crate::error::Result;
use crate::forms;
use crate::job::KeyNames;
use crate::names::loosely;
use crate::provider::s3::From;
use crate::walk::{DestDir, DirNode, DirPair, Twins};

impl Lane {
    /// Which names beside a directory its destination may take for it. False if the job is to stop.
    pub(super) async fn find_twins_of(&self, dir: &DirNode) -> Result<bool> {
        let Some(parent) = dir.parent.as_ref().filter(|_| self.way == Way::Down) else { return Ok(true) };
        let opened = self.reopening(parent, || self.open_dir(parent))?;
        self.look_at_dest(parent, &opened)?;
        self.find_twins(parent, &opened).await
    }

    /// Which names of a directory its destination may take for one another. What is there under one of them may be
    /// another's of this run, if the destination keeps names in another form and the directory was there before: so the
    /// bucket is asked first. False if the job is to stop: nothing is to be made there then.
    pub(super) async fn find_twins(&self, dir: &Arc<DirNode>, open: &DirPair) -> Result<bool> {
        let (job, caller) = (self.job(), &*self.errands.caller);
        let is_settled = self.way != Way::Down || dir.dest() == DestDir::Created || dir.twins().is_some();
        let is_alone = job.has_device() || job.single.is_some();
        if is_settled || is_alone || !forms::changes_names(job, caller, dir, &open.dest) {
            return Ok(true);
        }
        let root = job.source.bucket.as_ref().expect("I8: the way says that the source is a bucket");
        let (prefix, mut twins) = (root.dir_key(dir), Twins::default());
        // Ends: each reading leaves less to the next.
        while !twins.is_read() {
            if !self.read_names(&prefix, &mut twins).await? {
                return Ok(false);
            }
            twins.end();
        }
        dir.set_twins(twins);
        Ok(true)
    }

    /// Reads the names of a bucket's directory once; false if the job is to stop.
    async fn read_names(&self, prefix: &str, twins: &mut Twins) -> Result<bool> {
        let mut from = From::Start;
        // Ends: each page goes on behind the one before.
        while !self.job().walker.is_stopped() {
            let page = self.source().list(prefix, &from).await?;
            let items = items(prefix, page.objects, page.prefixes).into_iter();
            for name in items.filter_map(|item| item.name(KeyNames::Posix).ok()) {
                twins.meet(name.to_bytes(), &loosely(name.to_bytes()));
            }
            match page.next {
                Some(token) => from = From::Token(token),
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}
