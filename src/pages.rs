//! Pages of a bucket's listing: how far the names of a directory have outcomes, in the order of their keys.
//!
//! ```text
//! page     1      2      3      4      (a name at a time, by any lane)
//! open     0      0      17     0      names without an outcome
//!                 '- mark: all names up to its key have outcomes, a resume lists what lies behind it
//! ```
//! A mark goes into the intake after the outcomes of the names it covers, and batches are consistent cuts: so it is
//! recorded with them or after them (I1). What those outcomes leave to be done is in the catalog's index of open files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// The pages of one listing that are under way, in its order.
#[derive(Debug, Default)]
pub struct Pages {
    /// Those whose names, or whose predecessors' names, have no outcomes yet: as many as fit into a lane's slices (I4).
    queue: Mutex<VecDeque<Arc<Page>>>,
}

/// Names that were handed on together.
#[derive(Debug)]
pub struct Page {
    /// Names without an outcome, and one for the listing until it has handed them on.
    open: AtomicUsize,
    /// The last key of which it and all keys before it were handed on by then; `None` where the listing is to be read
    /// again.
    mark: Option<String>,
    /// The listing.
    pages: Arc<Pages>,
}

impl Pages {
    /// The next page, of `count` names.
    pub fn begin(self: &Arc<Pages>, count: usize, mark: Option<String>) -> Arc<Page> {
        let page = Arc::new(Page { open: AtomicUsize::new(count + 1), mark, pages: self.clone() });
        self.queue.lock().push_back(page.clone());
        page
    }
}

impl Page {
    /// One of its names has its outcome, or all were handed on. Answers the key up to which all names have theirs, if
    /// that has become known.
    pub fn release(&self) -> Option<String> {
        if self.open.fetch_sub(1, Ordering::AcqRel) != 1 {
            return None;
        }
        let (mut queue, mut mark) = (self.pages.queue.lock(), None);
        // Ends: every turn takes a page away.
        while queue.front().is_some_and(|page| page.open.load(Ordering::Acquire) == 0) {
            mark = queue.pop_front().and_then(|page| page.mark.clone()).or(mark);
        }
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_waits_for_all_pages_before_it() {
        let pages = Arc::new(Pages::default());
        let first = pages.begin(1, Some("a".to_owned()));
        let second = pages.begin(0, Some("b".to_owned()));
        let third = pages.begin(0, None);
        assert_eq!(second.release(), None, "the first page is open");
        assert_eq!(first.release(), None);
        assert_eq!(first.release().as_deref(), Some("b"));
        assert_eq!(third.release(), None);
        assert!(pages.queue.lock().is_empty());
    }
}
