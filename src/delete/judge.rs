//! Which names of the destination are extras. A name that the source does not list is none while it may be what the
//! destination calls an object that it does (spelling.rs).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::missing::is_held;
use super::{BATCH, Deletion, Doomed, Remover};
use crate::catalog::Record;
use crate::error::{Errno, Error, Result, escape, join};
use crate::filter::Sort;
use crate::listing::each_page;
use crate::provider::posix::Posix;
use crate::report::Count;
use crate::ring::{Kind, Name, Side, Stat};
use crate::spelling::{self, Folds, Suspects, Verdict};
use crate::walk::{DirNode, DirPair, Entry};

/// What a name of the destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The source has it, under this name.
    Kept(Name),
    /// The source has it not.
    Extra,
}

/// What both sides have in a directory.
#[derive(Default)]
pub(super) struct Met {
    /// Directories.
    pub dirs: Vec<Arc<DirNode>>,
    /// Names that are recorded as copied.
    pub held: u64,
    /// Whether what the source lacks stays.
    pub is_changed: bool,
    /// Whether there is any of that.
    pub is_withheld: bool,
}

/// Whether the sides of a directory may answer for names that they list otherwise.
pub(super) struct BothFold {
    source: Folds,
    dest: Folds,
}

impl BothFold {
    /// Whether one of them is likely to.
    pub(super) fn are_likely(&self) -> bool {
        self.source.is_likely() || self.dest.is_likely()
    }
}

/// A directory that is looked at.
type Looked<'l> = (&'l Arc<DirNode>, &'l DirPair, &'l mut BothFold);

/// A name of the destination, and whether the source has one like it.
type Answered = (Name, Stat, bool);

fn sort_of(stat: &Stat) -> Sort {
    if stat.kind() == Kind::Dir { Sort::Dir } else { Sort::Other }
}

impl Remover<'_> {
    /// A directory that was not asked for names yet.
    pub(super) fn folds(&self) -> BothFold {
        let Deletion { job, is_source_local, .. } = *self.deletion;
        let dest = Folds::new(job.dest_file_system.tells_names_apart());
        BothFold { source: Folds::new(is_source_local || self.asked.is_some()), dest }
    }

    /// Judges names of a directory: which are doomed, and which are directories that both sides have.
    pub(super) fn judge_page(
        &mut self,
        (dir, open, folds): Looked<'_>,
        page: &mut VecDeque<Entry>,
        met: &mut Met,
    ) -> Result<()> {
        let known = match &self.asked {
            None => HashSet::new(),
            Some((asked, _)) => match asked.listed(dir, page) {
                Ok(known) => known,
                Err(error) => {
                    page.clear();
                    self.fail(&error);
                    return Ok(());
                }
            },
        };
        let names = page.drain(..).map(|entry| entry.name);
        for (name, dest, found) in self.judge((dir, open, folds), names, &known) {
            let entry = |name| self.deletion.job.catalog.reader()?.entry(dir.id, name);
            match found {
                Found::Extra if met.is_changed => met.is_withheld = true,
                Found::Extra => {
                    let record = entry(&name)?;
                    self.doomed.push(Doomed { dir: dir.clone(), name, dest, record });
                    if self.doomed.len() >= BATCH {
                        self.remove_doomed()?;
                    }
                }
                Found::Kept(name) => {
                    let record = entry(&name)?;
                    met.held += u64::from(record.as_ref().is_some_and(is_held));
                    if let Some(Record::Dir(id)) = record.filter(|_| dest.kind() == Kind::Dir) {
                        met.dirs.push(DirNode::child(dir, id, name));
                    }
                }
            }
        }
        Ok(())
    }

    /// What names of the destination are; the source has those of `known`. Those that are none of ours, or of which
    /// nothing can be known, are left out.
    pub(super) fn judge(
        &self,
        (dir, open, folds): Looked<'_>,
        names: impl Iterator<Item = Name>,
        known: &HashSet<Name>,
    ) -> Vec<(Name, Stat, Found)> {
        let Deletion { job, caller, .. } = *self.deletion;
        let mut answered = Vec::new();
        for name in names {
            let dest = match Posix::new(caller, Side::Dest).stat(&open.dest, &name) {
                Ok(dest) => dest,
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    let path = join(&job.path(Side::Dest, dir), &name);
                    self.fail(&Error::os("stat", path, errno));
                    continue;
                }
            };
            if (dest.dev, dest.ino) == job.state_dir || !job.takes(dir, &name, sort_of(&dest)) {
                continue;
            }
            let is_there = match known.contains(&name) {
                true => Some(true),
                false => self.look_for(dir, open, &name).map(|found| found.is_some()),
            };
            answered.extend(is_there.map(|is_there| (name, dest, is_there)));
        }
        if let Err(errno) = self.keep_listed(open, &mut folds.source, &mut answered) {
            self.fail(&job.dir_error(Side::Source, dir, "list", errno));
            return Vec::new();
        }
        let verdicts = match self.verdicts((dir, open, folds), &answered) {
            Ok(verdicts) => verdicts,
            Err(error) => {
                self.fail(&error);
                vec![Verdict::Unsure; answered.len()]
            }
        };
        let mut verdicts = verdicts.into_iter();
        let judged = answered.into_iter().filter_map(|(name, dest, is_there)| match is_there {
            true => Some((name.clone(), dest, Found::Kept(name))),
            false => match verdicts.next().unwrap_or(Verdict::Extra) {
                Verdict::Extra => job.clears(dir, &name, sort_of(&dest)).then_some((name, dest, Found::Extra)),
                Verdict::Same(of_source) => Some((name, dest, Found::Kept(of_source))),
                Verdict::Unsure => {
                    self.withhold(dir, &name);
                    None
                }
            },
        });
        judged.collect()
    }

    /// Whether the source has a name, and whether that is a directory. `None`: what cannot be asked for is not known to
    /// be gone.
    pub(super) fn look_for(&self, dir: &DirNode, open: &DirPair, name: &Name) -> Option<Option<bool>> {
        if let Some((asked, _)) = &self.asked {
            return asked.look_for(dir, name).inspect_err(|error| self.fail(error)).ok();
        }
        match Posix::new(self.deletion.caller, Side::Source).stat(&open.source, name) {
            Ok(stat) => Some(Some(stat.kind() == Kind::Dir)),
            Err(Errno::NOENT) => Some(None),
            Err(_) => None,
        }
    }

    /// Where a source that folds names has answered, what it lists counts.
    fn keep_listed(
        &self,
        open: &DirPair,
        folds: &mut Folds,
        answered: &mut [Answered],
    ) -> std::result::Result<(), Errno> {
        if self.asked.is_some() {
            return Ok(());
        }
        let source = Posix::new(self.deletion.caller, Side::Source);
        let there = answered.iter().filter(|(.., is_there)| *is_there).map(|(name, ..)| name);
        let gone = spelling::unlisted(source, &open.source, folds, there)?;
        answered.iter_mut().for_each(|(name, _, is_there)| *is_there &= !gone.contains(name));
        Ok(())
    }

    /// What those are that the source does not list; none where a directory of the destination tells all names apart.
    fn verdicts(&self, (dir, open, folds): Looked<'_>, answered: &[Answered]) -> Result<Vec<Verdict>> {
        let Deletion { job, caller, .. } = *self.deletion;
        let (source, dest) = (Posix::new(caller, Side::Source), Posix::new(caller, Side::Dest));
        let failed = |side| move |errno| job.dir_error(side, dir, "list", errno);
        let suspects = answered.iter().filter(|(.., is_there)| !is_there).map(|(name, stat, _)| (name.clone(), *stat));
        let how = (&mut folds.dest, job.dest.inodes.is_lasting());
        let held = Suspects::of(dest, &open.dest, how, suspects).map_err(failed(Side::Dest))?;
        let Some(mut held) = held else { return Ok(Vec::new()) };
        match &self.asked {
            Some((asked, _)) => asked.each_name(dir, |name| held.meet(name))?,
            None => each_page(source, &open.source, |page| page.drain(..).for_each(|entry| held.meet(&entry.name)))
                .map_err(failed(Side::Source))?,
        }
        Ok(held.verdicts().collect())
    }

    /// A name stays that may be the destination's for an object of the source.
    fn withhold(&self, dir: &DirNode, name: &Name) {
        let Deletion { job, counters, .. } = *self.deletion;
        counters.add(Count::DeletesWithheld, 1);
        let path = escape(&join(&job.path(Side::Dest, dir), name));
        let why = "the destination may have another name of the source under it";
        job.console.note(&format!("gfast: not deleted: {path}: {why}"));
    }
}
