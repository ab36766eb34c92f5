//! A lease on a file, held by a process of its own, as a file server holds it for a client that caches the file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::fixture::{has, must, skip};

/// Takes a write lease on its argument, says so, and keeps it whoever asks for it, until it is killed.
const HOLDER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int fd = argc < 2 ? -1 : open(argv[1], O_RDWR);
    signal(SIGIO, SIG_IGN);
    if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK)) {
        perror("lease");
        return 1;
    }
    puts("held");
    fflush(stdout);
    for (;;) pause();
}
"#;

/// A lease, given back when dropped.
#[derive(Debug)]
pub struct Lease(Child);

/// Compiles the holder; `None`, and a line, where that is not possible.
pub fn holder(test: &str, at: &Path) -> Option<PathBuf> {
    if !has("cc") {
        skip(test, "no cc");
        return None;
    }
    let (code, program) = (at.join("holder.c"), at.join("holder"));
    fs::write(&code, HOLDER).unwrap();
    must(Command::new("cc").arg("-o").arg(&program).arg(&code));
    Some(program)
}

impl Lease {
    /// A write lease on `file`, by the program that [`holder`] has made.
    pub fn take(holder: &Path, file: &Path) -> Lease {
        let mut child = Command::new(holder).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "held", "{}", file.display());
        Lease(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
