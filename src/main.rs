//! The program: signals, command line, run, summary, exit code.

use std::io::Write;
use std::process::ExitCode as Status;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gfast::cli::{self, Parsed, Steering};
use gfast::config::{Config, Output};
use gfast::engine::Asks;
use gfast::error::Error;
use gfast::nudges::Nudges;
use gfast::report::ExitCode;
use gfast::stop::Stop;
use gfast::tune::Form;
use gfast::verify::{Request, Verdict};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

fn main() -> Status {
    gfast::tui::leave_session();
    let ends = Abrupt::of(std::env::args_os().nth(1));
    end_on_panic(ends);
    let stop = Stop::new();
    // Modes are given exactly as meant; the user's umask counts only where Config says so.
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    let (nudges, parsed) = (handle_signals(&stop, ends), shown_or_run(cli::parse(std::env::args_os())));
    let code = match (nudges, parsed) {
        (Err(error), _) => fail(&error),
        (_, Parsed::Err(error)) => fail(&error),
        (_, Parsed::Print(text)) => print(&text, ExitCode::Done),
        (_, Parsed::Trouble(error)) => trouble(&error),
        (_, Parsed::Verify(request)) => return verify(&request, &stop),
        (_, Parsed::Report(request)) => report(&request),
        (_, Parsed::Steer(request)) => steer(&request),
        (_, Parsed::View(request)) => return view(gfast::tui::attach(&request)),
        (_, Parsed::Show(config, command)) => {
            // The job reads the umask for itself.
            rustix::process::umask(umask);
            return view(gfast::tui::start(&command, &config.state_dir, &stop));
        }
        (_, Parsed::Rehearse(config)) => rehearse(&config, &stop),
        (_, Parsed::Tune(request)) => tune(&request, &stop),
        (_, Parsed::Sweep) => sweep(),
        (Ok(nudges), Parsed::Run(config)) => {
            let mut config = Config { umask: umask.bits(), ..*config };
            gfast::tune::advise(&mut config);
            run(&config, &Asks { stop, nudges })
        }
    };
    Status::from(code.code())
}

/// Exit codes of a process that ends at once.
#[derive(Clone, Copy)]
struct Abrupt {
    /// By a defect.
    defect: u8,
    /// By a second signal.
    signal: u8,
}

impl Abrupt {
    /// As the command wants it, which is the first word: `verify` knows no other codes than 0, 1 and 2.
    fn of(command: Option<std::ffi::OsString>) -> Abrupt {
        let trouble = Verdict::Trouble.code();
        match command.is_some_and(|command| command == "verify") {
            true => Abrupt { defect: trouble, signal: trouble },
            false => Abrupt { defect: ExitCode::Fatal.code(), signal: ExitCode::Interrupted.code() },
        }
    }
}

/// A defect in one thread ends the whole process at once, which is as safe as any kill: nobody waits for a thread that
/// is gone.
fn end_on_panic(ends: Abrupt) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let _ = writeln!(
            std::io::stderr(),
            "gfast: this is a defect of gfast; the job is resumable: run the same command again"
        );
        std::process::exit(ends.defect.into());
    }));
}

/// The first SIGINT or SIGTERM asks for a stop, the second ends the process at once, which is as safe as any kill. The
/// others would kill by default: SIGUSR1 and SIGUSR2, which ask a job for more or fewer streams, and SIGXFSZ where
/// EFBIG is meant. SIGPIPE is ignored by Rust's runtime.
fn handle_signals(stop: &Stop, ends: Abrupt) -> Result<Nudges, Error> {
    let failed = |error: std::io::Error| Error::refused("signals", format!("cannot be handled: {error}"));
    for signal in [SIGINT, SIGTERM] {
        let code = ends.signal.into();
        // In this order: the second handler raises the flag that arms the first.
        signal_hook::flag::register_conditional_shutdown(signal, code, stop.flag()).map_err(failed)?;
        signal_hook::flag::register(signal, stop.flag()).map_err(failed)?;
    }
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    Nudges::install().map_err(failed)
}

fn run(config: &Config, asks: &Asks) -> ExitCode {
    let summary = match gfast::engine::run(config, asks) {
        Ok(summary) => summary,
        Err(error) => return fail(&error),
    };
    let code = summary.exit_code();
    match config.output {
        Output::Quiet if code == ExitCode::Done => code,
        Output::Text | Output::Quiet => print(&summary.text(), code),
        Output::Json | Output::QuietJson => print(&summary.json(), code),
    }
}

/// Compares; all that is not "same" or "different" is 2.
fn verify(request: &Request, stop: &Stop) -> Status {
    let code = match gfast::verify::run(request, stop) {
        Ok(verdict) => verdict.code(),
        Err(error) => trouble(&error).code(),
    };
    Status::from(code)
}

/// A job that is to be shown where nothing can be shown is a job like any other.
fn shown_or_run(parsed: Parsed) -> Parsed {
    match parsed {
        Parsed::Show(config, _) if !gfast::tui::is_there() => {
            let _ = writeln!(std::io::stderr(), "gfast: there is no terminal for -tui: the job runs without it");
            Parsed::Run(config)
        }
        parsed => parsed,
    }
}

/// Ends as the view says, or its job.
fn view(shown: gfast::error::Result<u8>) -> Status {
    shown.map_or_else(|error| Status::from(fail(&error).code()), Status::from)
}

/// Says what a job would do.
fn rehearse(config: &Config, stop: &Stop) -> ExitCode {
    let mut stdout = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    gfast::rehearsal::run(config, stop, &mut stdout).unwrap_or_else(|error| fail(&error))
}

/// Measures which settings are best.
fn tune(request: &gfast::tune::Request, stop: &Stop) -> ExitCode {
    match gfast::tune::run(request, stop) {
        Ok(Some(findings)) if request.form == Form::Json => print(&findings.json(), ExitCode::Done),
        Ok(Some(findings)) => print(&findings.text(), ExitCode::Done),
        Ok(None) => ExitCode::Interrupted,
        Err(error) => fail(&error),
    }
}

/// Removes what a measurement has made, when it ends.
fn sweep() -> ExitCode {
    if gfast::tune::serve() { ExitCode::Done } else { ExitCode::Fatal }
}

/// Writes or checks a report. It changes nothing: the first signal ends it at once, also while a reader lets it wait.
fn report(request: &gfast::ledger::Request) -> ExitCode {
    for signal in [SIGINT, SIGTERM] {
        let code = ExitCode::Interrupted.code().into();
        let always = Arc::new(AtomicBool::new(true));
        if let Err(error) = signal_hook::flag::register_conditional_shutdown(signal, code, always) {
            return fail(&Error::refused("signals", format!("cannot be handled: {error}")));
        }
    }
    let mut stdout = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let written = gfast::ledger::run(request, &mut stdout);
    let flushed = stdout.flush().map_err(|error| Error::refused("stdout", format!("cannot be written: {error}")));
    match written.and(flushed) {
        Ok(()) => ExitCode::Done,
        Err(error) => fail(&error),
    }
}

/// Tells a running job something.
fn steer(request: &Steering) -> ExitCode {
    let told = request.run(&mut std::io::stdout().lock());
    told.map_or_else(|error| fail(&error), |()| ExitCode::Done)
}

fn trouble(error: &Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "gfast: {error}");
    ExitCode::Refused
}

/// Writes a result to stdout. A reader that has gone away wanted no more of it; a result that is lost otherwise is an
/// error.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "gfast: cannot write to stdout: {error}");
            code.and(ExitCode::Fatal)
        }
        _ => code,
    }
}

/// Says why nothing was done.
fn fail(error: &Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "gfast: {error}");
    ExitCode::of(error)
}
