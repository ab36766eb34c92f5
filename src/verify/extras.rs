//! What the destination has and the source has not. A name that the source does not list is no extra while it is what
//! the destination calls an object that it does (spelling.rs).

use std::collections::VecDeque;
use std::sync::Arc;

use super::auditor::Auditor;
use super::compare::{Aspect, Aspects};
use crate::error::{Cause, Errno, Error, Result};
use crate::filesystem::FileSystem;
use crate::filter::Sort;
use crate::listing::each_page;
use crate::provider::posix::{Posix, is_missing};
use crate::ring::{Handle, Interpreter, Kind, Name, Side, Stat};
use crate::spelling::{self, Folds, Suspects, Verdict};
use crate::walk::{DirNode, DirPair, Entry};

/// Records read from the catalog at a time.
const PAGE: usize = 1024;

impl<I: Interpreter> Auditor<I> {
    /// Asks the source for names of the destination.
    pub(super) fn ask_source(
        &self,
        dir: &Arc<DirNode>,
        open: &DirPair,
        names: VecDeque<Entry>,
    ) -> std::result::Result<(), (Side, Errno)> {
        let audit = &self.audit;
        let names = names.into_iter().filter_map(|entry| self.described(dir, &open.dest, entry.name));
        let (there, mut gone) = match self.answered(dir, open, names) {
            Ok(answered) => answered,
            Err(error) => {
                audit.findings.trouble(&error);
                return Ok(());
            }
        };
        if audit.catalog.is_none() {
            let mut folds = Folds::new(is_local(&open.source));
            let source = Posix::new(&*self.caller, Side::Source);
            let unlisted = spelling::unlisted(source, &open.source, &mut folds, there.iter().map(|(name, _)| name));
            let unlisted = unlisted.map_err(|errno| (Side::Source, errno))?;
            gone.extend(there.into_iter().filter(|(name, _)| unlisted.contains(name)));
        }
        let verdicts = self.verdicts(dir, open, &gone)?;
        let mut verdicts = verdicts.into_iter();
        for (name, _) in gone {
            let path = dir.path_of(&name);
            match verdicts.next().unwrap_or(Verdict::Extra) {
                Verdict::Extra => audit.findings.differ(&path, Aspects::only(Aspect::Extra), None),
                Verdict::Same(_) => {}
                Verdict::Unsure => {
                    let cause = Cause::Protected("the destination may have another name of the source under it");
                    audit.findings.trouble(&Error { verb: "compare", object: path, cause });
                }
            }
        }
        Ok(())
    }

    /// A name with what it is, if it belongs to what is compared.
    fn described(&self, dir: &DirNode, at: &Handle, name: Name) -> Option<(Name, Stat)> {
        let audit = &self.audit;
        let dest = match Posix::new(&*self.caller, Side::Dest).stat(at, &name) {
            Ok(dest) => dest,
            Err(errno) => {
                if !is_missing(errno) {
                    audit.fail(Side::Dest, dir, &name, "stat", errno);
                }
                return None;
            }
        };
        let sort = if dest.kind() == Kind::Dir { Sort::Dir } else { Sort::Other };
        let is_state = Some((dest.dev, dest.ino)) == audit.state_dir;
        (!is_state && audit.choice.takes(&dir.path_of(&name), sort)).then_some((name, dest))
    }

    /// Names for which the source answers, and others. One that it says nothing of is neither.
    #[expect(clippy::type_complexity, reason = "two lists of one kind")]
    fn answered(
        &self,
        dir: &DirNode,
        open: &DirPair,
        names: impl Iterator<Item = (Name, Stat)>,
    ) -> Result<(Vec<(Name, Stat)>, Vec<(Name, Stat)>)> {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for (name, stat) in names {
            let is_there = match &self.audit.catalog {
                Some(catalog) => catalog.reader()?.entry(dir.id, &name)?.is_some(),
                None => match Posix::new(&*self.caller, Side::Source).stat(&open.source, &name) {
                    Ok(_) => true,
                    Err(errno) if is_missing(errno) => false,
                    Err(errno) => {
                        self.audit.fail(Side::Source, dir, &name, "stat", errno);
                        continue;
                    }
                },
            };
            if is_there { &mut there } else { &mut gone }.push((name, stat));
        }
        Ok((there, gone))
    }

    fn verdicts(
        &self,
        dir: &DirNode,
        open: &DirPair,
        gone: &[(Name, Stat)],
    ) -> std::result::Result<Vec<Verdict>, (Side, Errno)> {
        let (audit, mut folds) = (&self.audit, Folds::new(is_local(&open.dest)));
        let how = (&mut folds, audit.dest.inodes.is_lasting());
        let dest = Posix::new(&*self.caller, Side::Dest);
        let held = Suspects::of(dest, &open.dest, how, gone.iter().cloned()).map_err(|errno| (Side::Dest, errno))?;
        let Some(mut held) = held else { return Ok(Vec::new()) };
        match &audit.catalog {
            None => {
                let source = Posix::new(&*self.caller, Side::Source);
                let met = each_page(source, &open.source, |page| page.drain(..).for_each(|e| held.meet(&e.name)));
                met.map_err(|errno| (Side::Source, errno))?;
            }
            Some(catalog) => {
                let mut after: Option<Name> = None;
                // Ends: each page lies strictly behind the one before.
                loop {
                    let page = catalog.reader().and_then(|reader| reader.entries(dir.id, after.as_deref(), PAGE));
                    let page = match page {
                        Ok(page) => page,
                        Err(error) => {
                            audit.findings.trouble(&error);
                            return Ok(vec![Verdict::Unsure; gone.len()]);
                        }
                    };
                    page.iter().for_each(|(name, _)| held.meet(name));
                    let Some((last, _)) = page.last() else { break };
                    after = Some(last.clone());
                }
            }
        }
        Ok(held.verdicts().collect())
    }
}

fn is_local(dir: &Handle) -> bool {
    FileSystem::of(dir).is_ok_and(FileSystem::tells_names_apart)
}
