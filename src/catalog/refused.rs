//! Names for keys of a bucket that no name can stand for. What is refused is recorded like an entry that failed, under
//! a name that none has, and is taken up again by listing its directory, never by this name (I8).
//!
//! ```text
//! /        an empty component; so a name says nothing but that
//! /a       the component `a`, which is a directory's as well
//! /a\0b    one that holds a NUL, in text
//! ```
//! A name of a file system holds no slash. Of the pieces of keys between two buckets one that begins with a slash is
//! `/` itself, an empty component, which is a directory's there and never a file's.

use std::ffi::CStr;

use super::key::NAME_BYTES_MAX;
use crate::ring::op::Name;

/// The name under which a refused component is recorded. Of one that is too long for that the beginning is.
pub(crate) fn refused_name(component: &str) -> Name {
    let mut name = format!("/{}", component.replace('\0', "\\0"));
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    Name::new(name).expect("I8: its NULs are text by now")
}

/// Whether the name of a file that failed stands for a refused key.
pub(crate) fn is_refused(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"/")
}

/// The name to be shown for a recorded one: the component that was refused, or the name itself.
pub(crate) fn shown_name(name: &CStr) -> &CStr {
    match name.to_bytes_with_nul() {
        [b'/', component @ ..] if component.len() > 1 => CStr::from_bytes_with_nul(component).unwrap_or(name),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::is_recordable;
    use super::*;

    #[test]
    fn refused_names_are_recordable_and_no_entry_s() {
        let long = "\u{e4}".repeat(512);
        for (component, shown) in [("", "/"), ("a", "a"), (".", "."), ("a\nb", "a\nb"), ("n\0l", "n\\0l")] {
            let name = refused_name(component);
            assert!(is_refused(&name) && is_recordable(&name), "{component:?}");
            assert_eq!(shown_name(&name).to_bytes(), shown.as_bytes());
        }
        for component in [&long, &"\0".repeat(1024)] {
            let name = refused_name(component);
            assert!(is_recordable(&name) && name.count_bytes() > 1000, "{} bytes", name.count_bytes());
        }
        assert!(!is_refused(c"") && !is_refused(c"a/") && shown_name(c"") == c"");
    }
}
