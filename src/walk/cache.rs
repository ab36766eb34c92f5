//! Open directories, and the way to those that are not open.

use std::collections::HashMap;
use std::sync::Arc;

use super::DirNode;
use crate::catalog::DirId;
use crate::ring::{Handle, Name};

/// Both sides of one directory, open.
#[derive(Clone, Debug)]
pub struct DirPair {
    /// The source's.
    pub source: Handle,
    /// The destination's.
    pub dest: Handle,
}

/// The open directories of one thread. A side is opened when it is needed, so each has a cache of its own.
#[derive(Debug)]
pub struct OpenDirs {
    /// The source's.
    pub source: DirCache<Handle>,
    /// The destination's.
    pub dest: DirCache<Handle>,
    /// Directories that an earlier pass had finished and that had to be made again, since they were last taken.
    pub made: Vec<Arc<DirNode>>,
}

impl OpenDirs {
    /// Caches that keep `capacity` directories of each side open besides the roots.
    pub fn new(roots: DirPair, capacity: usize) -> OpenDirs {
        let (source, dest) = (DirCache::new(roots.source, capacity), DirCache::new(roots.dest, capacity));
        OpenDirs { source, dest, made: Vec::new() }
    }

    /// Closes both sides of a directory and of those above it: one has become stale.
    pub fn forget(&mut self, node: &DirNode) {
        self.source.forget(node);
        self.dest.forget(node);
    }
}

/// A bounded set of open directories, oldest use out first.
#[derive(Debug)]
pub struct DirCache<T> {
    /// Open directories with the time of their last use.
    open: HashMap<DirId, (T, u64)>,
    /// The root, always open.
    root: T,
    /// Most directories kept open besides the root.
    capacity: usize,
    /// Counts uses.
    clock: u64,
}

impl<T: Clone> DirCache<T> {
    /// A cache that keeps `capacity` directories open besides the root.
    pub fn new(root: T, capacity: usize) -> DirCache<T> {
        DirCache { open: HashMap::with_capacity(capacity + 1), root, capacity, clock: 0 }
    }

    /// The directory, if it is open.
    pub fn get(&mut self, node: &DirNode) -> Option<T> {
        if node.parent.is_none() {
            return Some(self.root.clone());
        }
        self.clock += 1;
        let (value, used) = self.open.get_mut(&node.id)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Keeps a directory open. A full cache drops the older half, so that the cost per insertion stays constant.
    pub fn insert(&mut self, node: &DirNode, value: T) {
        if self.open.len() >= self.capacity {
            let mut uses: Vec<u64> = self.open.values().map(|(_, used)| *used).collect();
            let middle = uses.len() / 2;
            let (_, &mut oldest_kept, _) = uses.select_nth_unstable(middle);
            self.open.retain(|_, (_, used)| *used >= oldest_kept);
        }
        self.clock += 1;
        self.open.insert(node.id, (value, self.clock));
    }

    /// Closes a directory and those above it, so that all of them are looked up again. The root stays open.
    pub fn forget(&mut self, node: &DirNode) {
        let mut at = Some(node);
        while let Some(dir) = at {
            self.open.remove(&dir.id);
            at = dir.parent.as_deref();
        }
    }

    /// The nearest open ancestor of `node` (itself not), and the nodes from there down to `node`.
    pub fn nearest<'a>(&mut self, node: &'a Arc<DirNode>) -> (T, Vec<&'a Arc<DirNode>>) {
        let mut below = vec![node];
        let mut at = node;
        while let Some(parent) = &at.parent {
            if let Some(open) = self.get(parent) {
                below.reverse();
                return (open, below);
            }
            below.push(parent);
            at = parent;
        }
        below.reverse();
        below.remove(0);
        (self.root.clone(), below)
    }
}

/// Splits the way from an open ancestor down to a directory into paths that fit in one system call each, with the node
/// each of them ends at. PATH_MAX is 4,096 with its NUL.
pub fn path_steps<'a>(below: &[&'a Arc<DirNode>]) -> Vec<(Name, &'a Arc<DirNode>)> {
    const PATH_BYTES_MAX: usize = 4095;
    let mut steps: Vec<(Vec<u8>, &'a Arc<DirNode>)> = Vec::new();
    for &node in below {
        let name = node.name.as_bytes();
        match steps.last_mut() {
            Some((path, end)) if path.len() + 1 + name.len() <= PATH_BYTES_MAX => {
                path.push(b'/');
                path.extend_from_slice(name);
                *end = node;
            }
            _ => steps.push((name.to_vec(), node)),
        }
    }
    let name = |path: Vec<u8>| Name::new(path).expect("I8: names from a listing hold no NUL");
    steps.into_iter().map(|(path, node)| (name(path), node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(levels: u64) -> Vec<Arc<DirNode>> {
        let mut nodes = vec![DirNode::root()];
        for level in 0..levels {
            let parent = &nodes[nodes.len() - 1];
            nodes.push(DirNode::child(parent, DirId(level + 2), Name::new(format!("level{level}")).unwrap()));
        }
        nodes
    }

    #[test]
    fn a_deep_chain_is_reopened_in_few_steps_and_freed_without_recursion() {
        let nodes = chain(10_000);
        let mut cache: DirCache<u32> = DirCache::new(0, 4);
        let (from, below) = cache.nearest(&nodes[10_000]);
        assert_eq!((from, below.len()), (0, 10_000));
        let steps = path_steps(&below);
        assert!(steps.len() <= 10_000 * 10 / 4095 + 2, "{} steps", steps.len());
        assert_eq!(steps.last().unwrap().1.id, nodes[10_000].id);
        cache.insert(&nodes[9_999], 7);
        assert_eq!(cache.nearest(&nodes[10_000]).0, 7);
        let last = nodes[10_000].clone();
        drop(nodes);
        assert!(last.path().starts_with(b"level0/level1/"));
    }

    #[test]
    fn the_cache_never_exceeds_its_capacity() {
        let nodes = chain(100);
        let mut cache: DirCache<u32> = DirCache::new(0, 8);
        for node in &nodes[1..] {
            cache.insert(node, 1);
            assert!(cache.open.len() <= 8);
            assert!(cache.get(node).is_some());
        }
    }
}
