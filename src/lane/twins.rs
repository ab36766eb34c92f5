//! Names of a bucket that its destination may take for one another.

use super::listing::items;
use super::{Lane, Way};
use crate::error::Result;
use crate::filter::Sort;
use crate::forms;
use crate::job::KeyNames;
use crate::names::loosely;
use crate::provider::s3::From;
use crate::ring::Name;
use crate::walk::{DestDir, DirNode, DirPair, KnownTwins};

impl Lane {
    /// Which names of the directory its destination may take for one another. What is there under one of them may be
    /// this run's, if the destination keeps names in another form and the directory was there before: so the bucket is
    /// asked first.
    pub(super) async fn find_twins(&self, dir: &DirNode, open: &DirPair, prefix: &str) -> Result<()> {
        let (job, caller) = (self.job(), &*self.errands.caller);
        let is_new = self.way != Way::Down || dir.dest() == DestDir::Created;
        if is_new || dir.twins().is_some() || !forms::changes_names(job, caller, dir, &open.dest) {
            return Ok(());
        }
        let mut twins = KnownTwins::default();
        self.each_key_name(dir, prefix, |name| twins.meet(&name, &loosely(name.to_bytes()))).await?;
        if !twins.end() {
            let name_twin = |name: Name| {
                let folded = loosely(name.to_bytes());
                twins.name(name, &folded);
            };
            self.each_key_name(dir, prefix, name_twin).await?;
        }
        dir.set_twins(twins);
        Ok(())
    }

    /// Takes all names of a bucket's directory that are part of the job.
    async fn each_key_name(&self, dir: &DirNode, prefix: &str, mut take: impl FnMut(Name)) -> Result<()> {
        let (job, mut from) = (self.job(), From::Start);
        // Ends: each page goes on behind the one before.
        loop {
            let page = self.source().list(prefix, &from).await?;
            let items = items(prefix, page.objects, page.prefixes).into_iter();
            let names = items.filter_map(|item| item.name(KeyNames::Posix).ok());
            names.filter(|name| job.takes(dir, name, Sort::Other)).for_each(&mut take);
            match page.next {
                Some(token) => from = From::Token(token),
                None => return Ok(()),
            }
        }
    }
}
