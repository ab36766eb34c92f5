//! Where io_uring may not be used: a job that does not insist on it runs all the same and says why, one that does is
//! refused before anything is touched.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::fixture::{has, must, skip, traced};
use support::{Comparison, Engine, Job, Scratch, seed, tree};

/// Runs its arguments as a command for which io_uring_setup fails with the errno ERRNO, as in a container.
const SANDBOX: &str = r#"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (ERRNO & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };
    if (argc < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("sandbox");
        return 99;
    }
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 99;
}
"#;

/// Compiles the sandbox; `None`, and a line, where that is not possible.
fn sandbox(test: &str, at: &Path, errno: &str) -> Option<PathBuf> {
    if !has("cc") {
        skip(test, "no cc");
        return None;
    }
    let (code, program) = (at.join(format!("{errno}.c")), at.join(format!("sandbox-{errno}")));
    fs::write(&code, SANDBOX).unwrap();
    must(Command::new("cc").arg(format!("-DERRNO={errno}")).arg("-o").arg(&program).arg(&code));
    let tried = Command::new(&program).arg("/bin/true").output().unwrap();
    if !tried.status.success() {
        skip(test, String::from_utf8_lossy(&tried.stderr).trim());
        return None;
    }
    Some(program)
}

#[test]
fn a_job_goes_on_without_io_uring_or_refuses_to() {
    let test = "a_job_goes_on_without_io_uring_or_refuses_to";
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let at = tree::open_dir(&tree);
    let mut rng = support::Rng::new(seed(test, 81));
    tree::regular(&mut rng, &at, c"small", 5000);
    tree::regular(&mut rng, &at, c"large", 9 << 20);
    for (errno, cause, remedy) in
        [("EPERM", "forbids io_uring", "seccomp profile"), ("ENOSYS", "has no io_uring", "Linux 5.15")]
    {
        let Some(sandbox) = sandbox(test, scratch.path(), errno) else { return };
        let job = |name: &str, engine| {
            let state = scratch.path().join(format!("{errno}-{name}-state"));
            Job::new(&tree, scratch.path().join(format!("{errno}-{name}")), state, engine).within(&sandbox)
        };
        let auto = job("auto", Engine::Auto);
        let outcome = auto.run().expect(0);
        Comparison::new(&tree, auto.dest()).assert_same();
        let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("io_uring")).collect();
        assert!(matches!(lines[..], [line] if line.contains(cause) && line.contains(remedy)), "{outcome}");
        assert!(outcome.says("\"engine\":\"sync\"") && outcome.says("\"submissions\":0,"), "{outcome}");

        let uring = job("uring", Engine::Uring);
        let outcome = uring.run().expect(2);
        assert!(outcome.stderr.lines().count() == 1, "{outcome}");
        assert!(outcome.stderr.contains(cause) && outcome.stderr.contains(remedy), "{outcome}");
        assert!(!uring.dest().exists() && !scratch.path().join(format!("{errno}-uring-state")).exists(), "{outcome}");

        let sync = job("sync", Engine::Sync);
        let outcome = sync.run().expect(0);
        Comparison::new(&tree, sync.dest()).assert_same();
        assert!(!outcome.stderr.contains("io_uring"), "nobody asked for it: {outcome}");
    }
}

/// Linux 5.6 to 5.10 have a ring that nobody can wait for with a time limit: what the first io_uring_setup tells of its
/// features is put as theirs (linux/io_uring.h: entries, completions, flags, two of the polling thread, features).
#[test]
fn a_ring_of_an_old_kernel_is_none() {
    let test = "a_ring_of_an_old_kernel_is_none";
    if !has("strace") {
        skip(test, "no strace");
        return;
    }
    if Engine::all().len() == 1 {
        return;
    }
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let at = tree::open_dir(&tree);
    tree::regular(&mut support::Rng::new(seed(test, 83)), &at, c"large", 9 << 20);
    let params = ["04000000", "08000000", "08000000", "00000000", "00000000", "ff000000"].concat();
    let inject = format!("-o /dev/null -e inject=io_uring_setup:poke_exit=@arg2={params}:when=1");
    let job = |name: &str, engine| {
        let state = scratch.path().join(format!("{name}-state"));
        Job::new(&tree, scratch.path().join(name), state, engine).within(&traced(&scratch, &inject))
    };
    let auto = job("auto", Engine::Auto);
    let outcome = auto.run().expect(0);
    Comparison::new(&tree, auto.dest()).assert_same();
    let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("io_uring")).collect();
    assert!(matches!(said[..], [line] if line.contains("no io_uring") && line.contains("Linux 5.15")), "{outcome}");
    assert!(outcome.says("\"engine\":\"sync\""), "{outcome}");
    let outcome = job("uring", Engine::Uring).run().expect(2);
    assert!(outcome.stderr.contains("Linux 5.15"), "{outcome}");
}

/// An unprivileged user.
const NOBODY: u32 = 65_534;

/// The memory of a ring counts against RLIMIT_MEMLOCK of an ordinary user (Linux 6.18). Threads that get none, or only
/// a small one, do their work all the same.
#[test]
fn a_thread_that_gets_no_memory_for_its_ring_goes_on_without() {
    let test = "a_thread_that_gets_no_memory_for_its_ring_goes_on_without";
    if !has("setpriv") {
        skip(test, "no setpriv");
        return;
    }
    if Engine::all().len() == 1 {
        return;
    }
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut rng = support::Rng::new(seed(test, 82));
    let mut write = |name: String, len: usize| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        fs::write(tree.join(name), bytes).unwrap();
    };
    (0..50).for_each(|number| write(format!("small-{number}"), 5000));
    write("large".to_owned(), 9 << 20);
    must(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(scratch.path()));
    let before = getrlimit(Resource::Memlock);
    for bytes in [8 << 10, 256 << 10] {
        // Of this process, and so of those that it starts; root's rings do not count.
        setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), ..before }).unwrap();
        let (copy, state) = (format!("copy-{bytes}"), format!("state-{bytes}"));
        let job = Job::new(&tree, scratch.path().join(copy), scratch.path().join(state), Engine::Uring).user(NOBODY);
        let outcome = job.run();
        setrlimit(Resource::Memlock, before).unwrap();
        let outcome = outcome.expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
        let lines = outcome.stderr.lines().filter(|line| line.contains("io_uring")).count();
        assert_eq!(lines, usize::from(outcome.says("plain system calls")), "said once: {outcome}");
        assert!(lines == 0 || outcome.stderr.contains("ulimit -l"), "{outcome}");
        assert!(lines == 1 || !outcome.says("\"engine\":\"sync\""), "nobody says why: {outcome}");
    }
}
