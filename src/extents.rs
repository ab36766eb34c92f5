//! Parts of an object, as offsets and lengths in bytes: where a device cannot be read.

use std::fmt;

/// Most parts that are kept apart: what is farther on is counted with the last one's neighbours (I4).
const EXTENTS_MAX: usize = 4096;
/// Parts that are written out in a text.
const EXTENTS_SHOWN_MAX: usize = 256;

/// Parts of an object, ascending, none of them touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// First byte and one past the last byte of each.
    parts: Vec<(u64, u64)>,
}

impl Extents {
    /// One part of `len` bytes.
    pub fn of(offset: u64, len: u64) -> Extents {
        let mut extents = Extents::default();
        extents.add(offset, len);
        extents
    }

    /// Adds `len` bytes from `offset` on. When there are too many parts the two that lie nearest become one: the map
    /// names a little too much then, and never too little.
    pub fn add(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (mut start, mut end) = (offset, offset + len);
        self.parts.retain(|&(a, b)| {
            let is_apart = b < start || end < a;
            if !is_apart {
                (start, end) = (start.min(a), end.max(b));
            }
            is_apart
        });
        let at = self.parts.partition_point(|&(a, _)| a < start);
        self.parts.insert(at, (start, end));
        if self.parts.len() > EXTENTS_MAX {
            let gap = |i: &usize| self.parts[i + 1].0 - self.parts[*i].1;
            if let Some(nearest) = (0..self.parts.len() - 1).min_by_key(gap) {
                self.parts[nearest].1 = self.parts[nearest + 1].1;
                self.parts.remove(nearest + 1);
            }
        }
    }

    /// Adds all parts of another.
    pub fn extend(&mut self, other: &Extents) {
        other.parts.iter().for_each(|&(start, end)| self.add(start, end - start));
    }

    /// Offset and length of each, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().map(|(start, end)| (*start, end - start))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether any of them lies in `len` bytes from `offset` on.
    pub fn touch(&self, offset: u64, len: u64) -> bool {
        self.parts.iter().any(|&(start, end)| start < offset + len && offset < end)
    }
}

impl fmt::Display for Extents {
    /// `4096+512, 1048576+4096`: offset and length of each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.parts.iter().take(EXTENTS_SHOWN_MAX).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{start}+{}", end - start)?;
        }
        match self.parts.len().saturating_sub(EXTENTS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_touch_become_one_in_any_order() {
        let mut extents = Extents::default();
        for (offset, len) in [(4096, 512), (0, 512), (5120, 512), (4608, 512), (9, 0), (100, 50)] {
            extents.add(offset, len);
        }
        assert_eq!(extents.to_string(), "0+512, 4096+1536");
        assert_eq!((extents.bytes(), extents.is_empty()), (2048, false));
        assert!(extents.touch(0, 1) && extents.touch(5000, 9000) && !extents.touch(512, 3584));
    }

    #[test]
    fn however_many_there_are_none_is_lost_and_memory_is_bounded() {
        let mut extents = Extents::default();
        let offset = |i: u64| i * i * 1024;
        (0..6000).for_each(|i| extents.add(offset(i), 512));
        assert_eq!(extents.parts.len(), EXTENTS_MAX);
        assert!((0..6000).all(|i| extents.touch(offset(i), 512)));
        assert!(extents.to_string().ends_with("more"));
    }
}
