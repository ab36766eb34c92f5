//! What a power cut leaves of a [`Disk`]: pessimistic, as ext4 and xfs may leave it at the worst moment.
//!
//! Of what was not synced, these are there or not, each independently of the others:
//!
//! - every change of names. Changes of one name come in order, a rename is whole or not at all, and a name that is
//!   there has its inode;
//! - for every inode a version of (mode, owner, attributes), one of the times, one of the size. So a file may have its
//!   final name, size and mtime, and none of its bytes: the trap of I2;
//! - for every dirty block the new bytes, the old ones, or zeros where nothing was before.
//!
//! A seed also draws how much of each survives (nothing, some, all), so that the extremes come up often.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{BLOCK_BYTES, Content};
use super::disk::{Attrs, Body, Dir, Disk, File, Ino, Node, ROOT};
use super::random::Random;

/// How much of what was not synced survives, in permille.
struct Survival {
    /// Changes of names.
    names: u32,
    /// Attributes: the newest version, else any.
    attrs: u32,
    /// Dirty blocks.
    blocks: u32,
}

impl Survival {
    fn draw(random: &mut Random) -> Survival {
        let mut part = || [0, 500, 900, 1000][random.index(4)];
        Survival { names: part(), attrs: part(), blocks: part() }
    }
}

impl Disk {
    /// The file system found after a power cut now; everything in it is durable.
    pub fn crash(mut self, seed: u64) -> Disk {
        let mut random = Random::new(seed ^ 0x0dea_d0ff);
        let survival = Survival::draw(&mut random);
        let before = std::mem::take(&mut self.nodes);
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut found = vec![ROOT];
        while let Some(ino) = found.pop() {
            if links.contains_key(&ino) {
                links.entry(ino).and_modify(|count| *count += 1);
                continue;
            }
            links.insert(ino, 1);
            let node = survive(&before[&ino], &survival, &mut random);
            if let Body::Dir(dir) = &node.body {
                found.extend(dir.live.values());
            }
            self.nodes.insert(ino, node);
        }
        self.recount(&links);
        self
    }

    /// The number of names of every inode, and the space taken, from the names that survived.
    fn recount(&mut self, links: &BTreeMap<Ino, u32>) {
        let dirs: BTreeSet<Ino> = self.nodes.iter().filter(|(_, n)| n.is_dir()).map(|(&ino, _)| ino).collect();
        let mut used_bytes = 0;
        for (ino, node) in &mut self.nodes {
            node.nlink = match &node.body {
                Body::Dir(dir) => 2 + dir.live.values().filter(|child| dirs.contains(child)).count() as u32,
                _ => links[ino],
            };
            if let Body::File(file) = &node.body {
                used_bytes += file.live.allocated_bytes();
            }
        }
        self.set_used(used_bytes);
    }
}

/// One inode after the power cut.
fn survive(node: &Node, survival: &Survival, random: &mut Random) -> Node {
    let attrs = survive_attrs(node, survival, random);
    let body = match &node.body {
        Body::File(file) => {
            let content = survive_bytes(file, attrs.size, survival, random);
            Body::File(File { live: content.clone(), durable: content, dirty: BTreeSet::new() })
        }
        Body::Dir(dir) => {
            let names = survive_names(dir, survival, random);
            Body::Dir(Dir { parent: dir.parent, live: names.clone(), durable: names, changes: Vec::new() })
        }
        other => other.clone(),
    };
    Node { body, nlink: 0, attrs: attrs.clone(), history: Vec::new(), durable: Some(attrs) }
}

fn survive_attrs(node: &Node, survival: &Survival, random: &mut Random) -> Attrs {
    let versions: Vec<&Attrs> = node.durable.iter().chain(&node.history).collect();
    let mut version = || match random.chance(survival.attrs) {
        true => versions[versions.len() - 1].clone(),
        false => versions[random.index(versions.len())].clone(),
    };
    let Attrs { atime, mtime, ctime, .. } = version();
    let size = version().size;
    Attrs { atime, mtime, ctime, size, ..version() }
}

fn survive_names(dir: &Dir, survival: &Survival, random: &mut Random) -> BTreeMap<Vec<u8>, Ino> {
    let mut names = dir.durable.clone();
    let mut lost: BTreeSet<&[u8]> = BTreeSet::new();
    for change in &dir.changes {
        let is_blocked = change.iter().any(|(name, _)| lost.contains(&name[..]));
        if is_blocked || !random.chance(survival.names) {
            lost.extend(change.iter().map(|(name, _)| &name[..]));
            continue;
        }
        for (name, ino) in change {
            match ino {
                Some(ino) => names.insert(name.clone(), *ino),
                None => names.remove(name),
            };
        }
    }
    names
}

fn survive_bytes(file: &File, size: u64, survival: &Survival, random: &mut Random) -> Content {
    let mut content = file.durable.clone();
    for &index in &file.dirty {
        if random.chance(survival.blocks) {
            content.take_block(index, &file.live);
        } else if !file.durable.is_allocated(index) && index * BLOCK_BYTES < size {
            content.zero_block(index);
        }
    }
    content.cut(size);
    content
}
