//! Where io_uring may not be used: a job that does not insist on it runs all the same and says why, one that does is
//! refused before anything is touched.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::fixture::{has, must, skip};
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
