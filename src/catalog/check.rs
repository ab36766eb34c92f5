//! Looks through LMDB's data file before it is mapped, so that nothing in it can kill the process later.
//!
//! LMDB trusts its file: a file cut short is a SIGBUS, a zero-length one silently a new database, a bad page an
//! assertion that aborts or a read outside the map, a flipped bit a wrong answer. So every page that the newest commit
//! reaches is read here with pread and must be what LMDB would have written:
//! ```text
//!   page 0, 1    meta: magic, version, page size, the free and the main tree, last page, transaction
//!   free tree    transaction -> pages that may be written again: inside the file, none of them in use
//!   main tree    name -> tree, exactly ours
//!   our trees    pages number themselves, lie inside the file, occur once, are packed without gaps, hold keys in
//!                order within their parent's bounds, at equal depth, as many as the tree says; values carry their CRC
//! ```
//! The layout is that of lmdb-master-sys 0.2 (mdb.c: MDB_meta, MDB_db, MDB_page, MDB_node), in the machine's byte
//! order. 64 MB, a million entries, take 0.04 s from the page cache. Beyond [`FULL_CHECK_BYTES_MAX`] leaf pages of the
//! trees are left out: their values still answer for themselves by their CRC.
//! Pages that the file may lack at its end are free ones only: LMDB does not write a page that its own transaction
//! frees.

use std::cmp::Ordering;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use super::bytes::unseal;
use super::store::TREE_NAMES;

/// Files up to this size are read whole.
const FULL_CHECK_BYTES_MAX: u64 = 512 << 20;

const MAGIC: u32 = 0xbeef_c0de;
const VERSION: u32 = 1;
const PAGE_HEADER_BYTES: usize = 16;
const NODE_HEADER_BYTES: usize = 8;
const META_BYTES: usize = PAGE_HEADER_BYTES + 24 + 2 * TREE_BYTES + 16;
const TREE_BYTES: usize = 48;
const PAGE_BRANCH: u16 = 1;
const PAGE_LEAF: u16 = 2;
const PAGE_OVERFLOW: u16 = 4;
const PAGE_META: u16 = 8;
const NODE_OVERFLOW: u16 = 1;
const NODE_TREE: u16 = 2;
/// The free tree's flag: its keys are integers.
const INTEGER_KEY: u16 = 8;
/// LMDB's cursor stack.
const DEPTH_MAX: u16 = 32;
const KEY_BYTES_MAX: usize = 511;

/// What a check found wrong.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file could not be read.
    Unreadable(std::io::Error),
    /// The file is not a whole catalog.
    Damaged(&'static str),
}

type Checked<T> = Result<T, Fault>;

fn demand(holds: bool, otherwise: &'static str) -> Checked<()> {
    if holds { Ok(()) } else { Err(Fault::Damaged(otherwise)) }
}

/// Checks all that the newest commit in `file` reaches.
pub(super) fn check(file: &File) -> Checked<()> {
    let len = file.metadata().map_err(Fault::Unreadable)?.len();
    let meta = newest_meta(file, len)?;
    if len <= FULL_CHECK_BYTES_MAX {
        // One sequential read instead of one per page; without it the check is only slower.
        let _ = rustix::fs::fadvise(file, 0, NonZeroU64::new(len), rustix::fs::Advice::WillNeed);
    }
    let file_pages = len / meta.page_bytes as u64;
    let mut check = Check {
        file,
        page_bytes: meta.page_bytes,
        file_pages,
        last_page: meta.last_page,
        reads_leaves: len <= FULL_CHECK_BYTES_MAX,
        seen: vec![0; (file_pages / 64 + 1) as usize],
        free_beyond_end: 0,
        trees: Vec::new(),
    };
    check.mark(0)?;
    check.mark(1)?;
    check.tree(Kind::Free, &meta.free)?;
    // No overflow: what is not below the file's pages was counted one by one.
    demand(meta.last_page < file_pages + check.free_beyond_end, "its data file is cut short")?;
    check.tree(Kind::Main, &meta.main)?;
    let trees = std::mem::take(&mut check.trees);
    demand(trees.len() == TREE_NAMES.len(), "a tree is missing")?;
    trees.iter().try_for_each(|tree| check.tree(Kind::Ours, tree))
}

/// What the newest meta page says.
struct Meta {
    page_bytes: usize,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

/// One tree, as its parent describes it.
#[derive(Clone, Copy)]
struct Tree {
    depth: u16,
    branch_pages: u64,
    leaf_pages: u64,
    entries: u64,
    /// `None` for an empty tree.
    root: Option<u64>,
}

fn newest_meta(file: &File, len: u64) -> Checked<Meta> {
    let first = read_meta(file, len, 0)?;
    let second = read_meta(file, len, first.page_bytes as u64)?;
    demand(first.page_bytes == second.page_bytes, "its meta pages differ in page size")?;
    // Commits write the two in turn, the even ones to the first.
    let (even, odd) = (first.transaction, second.transaction);
    demand(even % 2 == 0 && odd % 2 == 1 && even.abs_diff(odd) == 1, "its meta pages are not of two commits in turn")?;
    Ok(if even > odd { first } else { second })
}

fn read_meta(file: &File, len: u64, offset: u64) -> Checked<Meta> {
    demand(offset + META_BYTES as u64 <= len, "its data file is cut short")?;
    let mut page = [0; META_BYTES];
    file.read_exact_at(&mut page, offset).map_err(Fault::Unreadable)?;
    demand(u16_at(&page, 10) == PAGE_META, "a meta page is not one")?;
    let meta = &page[PAGE_HEADER_BYTES..];
    demand(u32_at(meta, 0) == MAGIC && u32_at(meta, 4) == VERSION, "a meta page is not one")?;
    let (free, main) = (&meta[24..24 + TREE_BYTES], &meta[24 + TREE_BYTES..24 + 2 * TREE_BYTES]);
    let page_bytes = u32_at(free, 0) as usize;
    demand(page_bytes.is_power_of_two() && (512..=32_768).contains(&page_bytes), "its page size is impossible")?;
    demand(u64_at(&page, 0) == offset / page_bytes as u64, "a meta page is not in its place")?;
    demand(u16_at(free, 4) == INTEGER_KEY && u16_at(main, 4) == 0, "a meta page has unknown flags")?;
    let rest = &meta[24 + 2 * TREE_BYTES..];
    Ok(Meta {
        page_bytes,
        free: read_tree(free)?,
        main: read_tree(main)?,
        last_page: u64_at(rest, 0),
        transaction: u64_at(rest, 8),
    })
}

fn read_tree(bytes: &[u8]) -> Checked<Tree> {
    let root = u64_at(bytes, 40);
    let tree = Tree {
        depth: u16_at(bytes, 6),
        branch_pages: u64_at(bytes, 8),
        leaf_pages: u64_at(bytes, 16),
        entries: u64_at(bytes, 32),
        root: (root != u64::MAX).then_some(root),
    };
    demand(tree.depth <= DEPTH_MAX && (tree.depth == 0) == tree.root.is_none(), "a tree's depth is impossible")?;
    Ok(tree)
}

/// Whose keys and values a tree holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Main,
    Ours,
}

/// One key with its value, or with the page below it.
struct Node<'p> {
    key: &'p [u8],
    flags: u16,
    data: &'p [u8],
    page_below: u64,
}

/// The keys that may occur below a node: from `first`, before `end`.
#[derive(Clone, Copy)]
struct Bounds<'p> {
    first: Option<&'p [u8]>,
    end: Option<&'p [u8]>,
}

#[derive(Default)]
struct Counts {
    branch_pages: u64,
    leaf_pages: u64,
    entries: u64,
}

struct Check<'f> {
    file: &'f File,
    page_bytes: usize,
    file_pages: u64,
    last_page: u64,
    reads_leaves: bool,
    /// A bit for each page of the file that is in use or free.
    seen: Vec<u64>,
    /// Free pages that the file has not been extended to.
    free_beyond_end: u64,
    /// Trees named by the main tree.
    trees: Vec<Tree>,
}

impl Check<'_> {
    fn tree(&mut self, kind: Kind, tree: &Tree) -> Checked<()> {
        let mut counts = Counts::default();
        if let Some(root) = tree.root {
            self.walk(kind, tree, root, 1, Bounds { first: None, end: None }, &mut counts)?;
        }
        let counted = counts.branch_pages == tree.branch_pages && counts.leaf_pages == tree.leaf_pages;
        let entries = counts.entries == tree.entries || (kind == Kind::Ours && !self.reads_leaves);
        demand(kind == Kind::Free || (counted && entries), "a tree does not hold what it says")
    }

    /// Checks the page `number` at `level` (the root's is 1) and all below it. Ends: `level` only grows, up to the
    /// depth.
    fn walk(
        &mut self,
        kind: Kind,
        tree: &Tree,
        number: u64,
        level: u16,
        bounds: Bounds<'_>,
        counts: &mut Counts,
    ) -> Checked<()> {
        self.mark(number)?;
        let is_leaf = level == tree.depth;
        *(if is_leaf { &mut counts.leaf_pages } else { &mut counts.branch_pages }) += 1;
        if is_leaf && kind == Kind::Ours && !self.reads_leaves {
            return Ok(());
        }
        let page = self.read(number, 1)?;
        let nodes = nodes_of(&page, number, is_leaf)?;
        check_order(kind, &nodes, is_leaf, bounds)?;
        if is_leaf {
            counts.entries += nodes.len() as u64;
            return nodes.iter().try_for_each(|node| self.value(kind, node));
        }
        demand(nodes.len() > 1 || kind == Kind::Free, "a page is not in its form")?;
        for (index, node) in nodes.iter().enumerate() {
            let first = if index == 0 { bounds.first } else { Some(node.key) };
            let end = nodes.get(index + 1).map_or(bounds.end, |next| Some(next.key));
            self.walk(kind, tree, node.page_below, level + 1, Bounds { first, end }, counts)?;
        }
        Ok(())
    }

    fn value(&mut self, kind: Kind, node: &Node<'_>) -> Checked<()> {
        match kind {
            Kind::Ours => {
                demand(node.flags == 0, "a value is of no known kind")?;
                unseal(node.key, node.data).map(drop).map_err(|damage| Fault::Damaged(damage.0))
            }
            Kind::Main => {
                let is_ours = TREE_NAMES.iter().any(|name| name.as_bytes() == node.key);
                demand(
                    is_ours && node.flags == NODE_TREE && node.data.len() == TREE_BYTES,
                    "a tree is not one of ours",
                )?;
                demand(u16_at(node.data, 4) == 0, "a tree has unknown flags")?;
                self.trees.push(read_tree(node.data)?);
                Ok(())
            }
            Kind::Free if node.flags == NODE_OVERFLOW => {
                let long = self.overflow(node)?;
                self.free_list(&long)
            }
            Kind::Free => {
                demand(node.flags == 0, "a value is of no known kind")?;
                self.free_list(node.data)
            }
        }
    }

    /// A value too long for its page: pages of its own, of which the first says how many.
    fn overflow(&mut self, node: &Node<'_>) -> Checked<Vec<u8>> {
        let number = u64_at(node.data, 0);
        let len = node.page_below as u32 as usize;
        let count = (PAGE_HEADER_BYTES + len).div_ceil(self.page_bytes) as u64;
        demand(count <= self.file_pages, "a value is longer than the file")?;
        (number..number.saturating_add(count)).try_for_each(|page| self.mark(page))?;
        let pages = self.read(number, count)?;
        let says_so = u64_at(&pages, 0) == number
            && u16_at(&pages, 10) == PAGE_OVERFLOW
            && u64::from(u32_at(&pages, 12)) == count;
        demand(says_so, "a page is not in its form")?;
        Ok(pages[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + len].to_vec())
    }

    /// A count and as many page numbers, descending.
    fn free_list(&mut self, list: &[u8]) -> Checked<()> {
        demand(list.len() >= 8, "the free list is cut short")?;
        let (count, pages) = (u64_at(list, 0), list[8..].chunks_exact(8));
        demand(count <= pages.len() as u64, "the free list is cut short")?;
        let mut above = u64::MAX;
        for page in pages.take(count as usize) {
            let page = u64_at(page, 0);
            demand(page < above && page <= self.last_page, "the free list is not in order")?;
            above = page;
            if page < self.file_pages {
                self.mark(page)?;
            } else {
                self.free_beyond_end += 1;
            }
        }
        Ok(())
    }

    fn mark(&mut self, page: u64) -> Checked<()> {
        demand(page < self.file_pages && page <= self.last_page, "its data file is cut short")?;
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        demand(self.seen[word] & bit == 0, "a page is in use twice")?;
        self.seen[word] |= bit;
        Ok(())
    }

    fn read(&self, page: u64, count: u64) -> Checked<Vec<u8>> {
        let mut bytes = vec![0; count as usize * self.page_bytes];
        self.file.read_exact_at(&mut bytes, page * self.page_bytes as u64).map_err(Fault::Unreadable)?;
        Ok(bytes)
    }
}

/// The nodes of a page, which fill it from `upper` to its end without gaps.
fn nodes_of(page: &[u8], number: u64, is_leaf: bool) -> Checked<Vec<Node<'_>>> {
    const FORM: &str = "a page is not in its form";
    let flags = if is_leaf { PAGE_LEAF } else { PAGE_BRANCH };
    demand(u64_at(page, 0) == number && u16_at(page, 10) == flags, FORM)?;
    let (lower, upper) = (usize::from(u16_at(page, 12)), usize::from(u16_at(page, 14)));
    demand(PAGE_HEADER_BYTES < lower && lower % 2 == 0 && lower <= upper && upper <= page.len(), FORM)?;
    let mut nodes = Vec::with_capacity((lower - PAGE_HEADER_BYTES) / 2);
    let mut filled = 0;
    for pointer in page[PAGE_HEADER_BYTES..lower].chunks_exact(2) {
        let start = usize::from(u16_at(pointer, 0));
        demand(start >= upper && start % 2 == 0 && start + NODE_HEADER_BYTES <= page.len(), FORM)?;
        let node = &page[start..];
        let (word, flags, key_len) = (u32_at(node, 0), u16_at(node, 4), usize::from(u16_at(node, 6)));
        let data_len = match is_leaf {
            false => 0,
            true if flags == NODE_OVERFLOW => 8,
            true => word as usize,
        };
        let len = NODE_HEADER_BYTES.saturating_add(key_len).saturating_add(data_len);
        demand(len <= node.len() && key_len <= KEY_BYTES_MAX, FORM)?;
        let (key, data) = node[NODE_HEADER_BYTES..len].split_at(key_len);
        // A leaf's word is its value's length; a branch's page number has its upper half in place of the flags.
        let page_below = if is_leaf { u64::from(word) } else { u64::from(word) | u64::from(flags) << 32 };
        nodes.push(Node { key, flags, data, page_below });
        filled += len.next_multiple_of(2);
    }
    demand(filled == page.len() - upper, FORM)?;
    Ok(nodes)
}

/// Keys ascend within their bounds. A branch's first key stands for its bound and is not looked at.
fn check_order(kind: Kind, nodes: &[Node<'_>], is_leaf: bool, bounds: Bounds<'_>) -> Checked<()> {
    const ORDER: &str = "keys are not in order";
    let nodes = if is_leaf { nodes } else { nodes.get(1..).unwrap_or_default() };
    let has_form = |node: &Node<'_>| if kind == Kind::Free { node.key.len() == 8 } else { !node.key.is_empty() };
    demand(nodes.iter().all(has_form), ORDER)?;
    demand(nodes.is_sorted_by(|a, b| order(kind, a.key, b.key) == Ordering::Less), ORDER)?;
    if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
        let above = bounds.first.is_none_or(|bound| order(kind, bound, first.key) != Ordering::Greater);
        let below = bounds.end.is_none_or(|bound| order(kind, last.key, bound) == Ordering::Less);
        demand(above && below, ORDER)?;
    }
    Ok(())
}

fn order(kind: Kind, a: &[u8], b: &[u8]) -> Ordering {
    match kind {
        Kind::Free => u64_at(a, 0).cmp(&u64_at(b, 0)),
        Kind::Main | Kind::Ours => a.cmp(b),
    }
}

/// Numbers at places that the callers have checked to be there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let (low, high) = (u64::from(u32_at(bytes, at)), u64::from(u32_at(bytes, at + 4)));
    if cfg!(target_endian = "little") { high << 32 | low } else { low << 32 | high }
}
