//! What was found best between two storages, kept in the state directory for later jobs.
//!
//! ```text
//! STATE/profiles   {"schema":1,"profiles":[{"source":"ext4:..","dest":"xfs:..","measured":"2026-11-23","streams":64}]}
//! ```
//! The file is replaced whole, by rename, mode 0600. It is advice: whatever is wrong with it is said in one line and a
//! job runs with the defaults.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::settings::Options;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Errno, Error, Result, escape};
use crate::report::Console;

/// The number that changes when a field changes its meaning or goes.
const SCHEMA: u32 = 1;
/// Most pairs of storages that are remembered; the oldest is forgotten.
const PROFILES_MAX: usize = 256;
/// More bytes than all of them need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The settings that were best between two storages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Profile {
    /// Key of the source's place.
    pub source: String,
    /// Key of the destination's.
    pub dest: String,
    /// The day they were measured, in UTC.
    pub measured: String,
    /// What differs from the defaults.
    #[serde(flatten)]
    pub options: Options,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Profiles {
    /// [`SCHEMA`].
    schema: u32,
    /// Newest first.
    profiles: Vec<Profile>,
}

/// Gives a job the settings that were measured between its two ends, as far as its command line leaves them open, and
/// says so.
pub fn advise(config: &mut Config) {
    let console = Console::stderr(config.output);
    let path = path_in(&config.state_dir);
    let ignored = |why: &str| {
        console.note(&format!("gfast: {} is ignored: {why}", escape(path.as_os_str().as_encoded_bytes())));
    };
    let profiles = match load(&path) {
        Ok(profiles) if profiles.is_empty() => return,
        Ok(profiles) => profiles,
        Err(why) => return ignored(&why),
    };
    // An end that cannot be reached is the job's own business to tell.
    let places = Place::of(&config.source, &config.source_s3).and_then(|source| {
        let dest = Place::of(&config.dest, &config.dest_s3)?;
        Ok((source, dest))
    });
    let Ok((source, dest)) = places else { return };
    let Some(profile) = profiles.into_iter().find(|one| (&one.source, &one.dest) == (&source.key, &dest.key)) else {
        return;
    };
    let filled = profile.options.fill(config);
    let left = match (filled == profile.options, filled == Options::default()) {
        (true, _) => filled.text(),
        (false, true) => "nothing, the command line says otherwise".to_owned(),
        (false, false) => format!("{}, the rest is as the command line says", filled.text()),
    };
    let day = escape(profile.measured.as_bytes());
    console.note(&format!("gfast: profile of {day} for {} -> {}: {left}", source.name, dest.name));
}

/// Keeps a profile in place of the one there is for the same two storages; where.
pub(super) fn save(state_dir: &Path, profile: Profile) -> Result<PathBuf> {
    Catalog::check_place(state_dir)?;
    let failed = |verb, path: &Path, error: &std::io::Error| {
        Error::os(verb, path.as_os_str().as_encoded_bytes(), Errno::from_io_error(error).unwrap_or(Errno::IO))
    };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.map_err(|error| failed("create", state_dir, &error))?;
    let metadata = fs::metadata(state_dir).map_err(|error| failed("stat", state_dir, &error))?;
    if is_others(&metadata) {
        return Err(Error::refused(state_dir.as_os_str().as_encoded_bytes(), "others may write to it"));
    }
    let path = path_in(state_dir);
    // What cannot be read is replaced: it was of no use to anybody.
    let mut profiles = load(&path).unwrap_or_default();
    profiles.retain(|one| (&one.source, &one.dest) != (&profile.source, &profile.dest));
    profiles.insert(0, profile);
    profiles.truncate(PROFILES_MAX);
    let text = encode(profiles)?;
    let fresh = state_dir.join(format!("profiles.{}", std::process::id()));
    let written = write(&fresh, text.as_bytes()).and_then(|()| fs::rename(&fresh, &path));
    let written = written.and_then(|()| File::open(state_dir)?.sync_all());
    match written {
        Ok(()) => Ok(path),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(failed("write", &path, &error))
        }
    }
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("profiles")
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The profiles of a file; none if there is no file. `Err` says in words why they cannot be used.
fn load(path: &Path) -> std::result::Result<Vec<Profile>, String> {
    let file = match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || is_others(&metadata) {
        return Err("others may have written it".to_owned());
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| error.to_string())?;
    decode(&text)
}

/// Whether somebody else could have changed it.
fn is_others(metadata: &fs::Metadata) -> bool {
    metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0
}

fn encode(profiles: Vec<Profile>) -> Result<String> {
    let text = serde_json::to_string(&Profiles { schema: SCHEMA, profiles });
    text.map(|text| text + "\n").map_err(|error| Error::refused("profiles", error.to_string()))
}

fn decode(text: &[u8]) -> std::result::Result<Vec<Profile>, String> {
    let damaged = || "it is damaged; gfast tune --write makes a new one".to_owned();
    let profiles: Profiles = serde_json::from_slice(text).map_err(|_| damaged())?;
    match profiles.schema {
        SCHEMA if profiles.profiles.iter().all(|one| one.options.are_sound()) => Ok(profiles.profiles),
        SCHEMA => Err(damaged()),
        _ => Err("a newer gfast wrote it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BufferChoice, DirectChoice, EngineChoice};

    fn profile() -> Profile {
        let options = Options {
            streams: Some(64),
            buffer_size: Some(4 << 20),
            engine: Some(EngineChoice::Sync),
            direct: Some(DirectChoice::Never),
            part_size: None,
            depth: Some(48),
            buffers: Some(BufferChoice::Plain),
        };
        Profile { source: "ext4:1".into(), dest: "xfs:\"2".into(), measured: "2026-11-23".into(), options }
    }

    #[test]
    fn what_is_written_is_read_and_unknown_fields_are_passed_over() {
        let profiles = vec![profile(), Profile::default()];
        let text = encode(profiles.clone()).unwrap();
        assert!(text.contains(r#""engine":"sync","direct":"never","depth":48,"buffers":"plain"}"#), "{text}");
        assert_eq!(decode(text.as_bytes()), Ok(profiles.clone()));
        let newer = text.replacen("{\"source\"", "{\"of_the_future\":[1],\"source\"", 1);
        assert_eq!(decode(newer.as_bytes()), Ok(profiles));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let text = encode(vec![profile()]).unwrap();
        for end in 0..text.len() - 2 {
            assert!(decode(&text.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for (from, to) in [
            ("64", "0"),
            ("64", "1025"),
            ("4194304", "4097"),
            ("4194304", "-1"),
            ("\"sync\"", "\"fast\""),
            ("64", "\"64\""),
            ("48", "0"),
            ("48", "129"),
            ("\"plain\"", "\"fast\""),
        ] {
            assert!(decode(text.replacen(from, to, 1).as_bytes()).is_err(), "{from} -> {to}");
        }
        let newer = text.replacen("\"schema\":1", "\"schema\":2", 1);
        assert_eq!(decode(newer.as_bytes()), Err("a newer gfast wrote it".to_owned()));
    }
}
