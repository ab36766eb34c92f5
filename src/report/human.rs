//! Numbers, times and commands as people read and type them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// A count: 9,999 and less in full, then 12.3k, 8.1M, 2.0G in steps of 1000.
pub fn count(value: u64) -> String {
    if value < 10_000 {
        return value.to_string();
    }
    scaled(value as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes in steps of 1024: 12 B, 1.0 MiB.
pub fn bytes(value: u64) -> String {
    if value < 1024 {
        return format!("{value} B");
    }
    scaled(value as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// One decimal, with the unit that leaves a number below `step`.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 0.05 below the step would be rounded up to it: "1000.0k" is "1.0M".
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{value:.1}{}", units[unit])
}

/// A time: 840 ns, 12.5 us, 3.4 ms, 1.7 s, 4m05s, 1h31m, 3d04h.
pub fn duration(value: Duration) -> String {
    let (nanos, secs) = (value.as_nanos(), value.as_secs());
    match secs {
        0 if nanos < 1_000 => format!("{nanos} ns"),
        0 if nanos < 1_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        0 => format!("{:.1} ms", nanos as f64 / 1e6),
        1..60 => format!("{:.1} s", value.as_secs_f64()),
        60..3_600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h{:02}m", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// A command line that a POSIX shell splits into exactly `words` again; bytes that are not printable go through
/// `$'...'`, which bash, ksh, zsh and POSIX.1-2024 have.
pub fn shell_command(words: &[OsString]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| shell_word(word.as_bytes())).collect();
    quoted.join(" ")
}

fn shell_word(word: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.iter().map(|&b| char::from(b)).collect();
    }
    match std::str::from_utf8(word) {
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => format!("$'{}'", word.iter().map(|&b| dollar_quoted(b)).collect::<String>()),
    }
}

fn dollar_quoted(byte: u8) -> String {
    match byte {
        b'\'' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        // Three octal digits end by themselves; \xNN would swallow a hex digit that follows.
        _ => format!("\\{byte:03o}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn numbers_keep_one_decimal_and_roll_over() {
        assert_eq!([0, 9_999, 12_345, 999_960, u64::MAX].map(count), ["0", "9999", "12.3k", "1.0M", "18.4E"]);
        assert_eq!([0, 1_023, 1 << 20, (1 << 30) - 1].map(bytes), ["0 B", "1023 B", "1.0 MiB", "1.0 GiB"]);
        let times = [840, 12_500, 3_400_000, 1_700_000_000, 245_000_000_000, 5_460_000_000_000, 273_600_000_000_000];
        let shown = times.map(|nanos| duration(Duration::from_nanos(nanos)));
        assert_eq!(shown, ["840 ns", "12.5 us", "3.4 ms", "1.7 s", "4m05s", "1h31m", "3d04h"]);
    }

    #[test]
    fn a_shell_reads_the_same_words_back() {
        let words =
            [&b"gfast"[..], b"-source", b"/a b", b"it's", b"", b"x\ny'\\", b"\xff1", b"--a=1", "\u{e4}".as_bytes()];
        let words = words.map(|word| OsString::from_vec(word.to_vec()));
        let script = format!("for word in {}; do printf '%s\\0' \"$word\"; done", shell_command(&words));
        let output = std::process::Command::new("bash").arg("-c").arg(script).output().unwrap();
        let read: Vec<&[u8]> = output.stdout.split(|&b| b == 0).collect();
        let mut expected: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        expected.push(b"");
        assert_eq!(read, expected);
    }
}
