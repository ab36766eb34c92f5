//! Which source gives the keys, and that it stays the one.

use super::*;
use crate::config::S3Options;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory that goes when it is dropped, also after a failure.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("gfast-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// An environment with the two shared files of this directory, whether they are there or not, and no instance.
    fn variables(&self, more: &[(&str, &str)]) -> Variables {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
        let (config, credentials) = (path("config"), path("credentials"));
        let own = [
            ("AWS_EC2_METADATA_DISABLED", "TRUE"),
            ("AWS_CONFIG_FILE", &config),
            ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
        ];
        own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a process answers.
fn answer(access_key: &str, expiration: &str) -> String {
    format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{access_key}\",\"SecretAccessKey\":\"s\",\"SessionToken\":\"t\",\
         \"Expiration\":\"{expiration}\"}}"
    )
}

async fn open(profile: Option<&str>, variables: &Variables) -> Result<Credentials, String> {
    let options = S3Options { profile: profile.map(str::to_owned), ..S3Options::default() };
    Credentials::open(&Settings::load(&options, variables), variables).await
}

fn first(profile: Option<&str>, variables: &Variables) -> Result<Arc<Keys>, String> {
    block(async { Ok(open(profile, variables).await?.latest()) })
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

const ENVIRONMENT: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "a1"), ("AWS_SECRET_ACCESS_KEY", "s1")];

#[test]
fn keys_come_from_the_environment_unless_a_profile_is_asked_for() {
    let dir = Dir::new("credentials");
    dir.write("credentials", "[p]\naws_access_key_id = a2\naws_secret_access_key = s2\n");
    dir.write("config", "[profile bare]\nregion = r\n");
    let variables = dir.variables(&ENVIRONMENT);
    let keys = first(None, &variables).unwrap();
    assert_eq!((keys.access_key.as_str(), keys.secret.as_str()), ("a1", "s1"));
    assert_eq!(first(Some("p"), &variables).unwrap().access_key, "a2");
    assert_eq!(first(Some("bare"), &variables).err().unwrap(), "the profile bare holds no credentials");
    for variable in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
        assert_eq!(first(None, &dir.variables(&[(variable, "p")])).unwrap().access_key, "a2", "{variable}");
    }
}

/// Whoever else could give keys: a name that is nobody's is a mistake.
#[test]
fn a_profile_that_is_named_must_be_there() {
    let dir = Dir::new("typo");
    dir.write("credentials", "[default]\naws_access_key_id = a2\naws_secret_access_key = s2\n");
    let asked = first(Some("typo"), &dir.variables(&ENVIRONMENT)).err().unwrap();
    assert_eq!(asked, "there is no profile typo in AWS's config and credentials files");
    let variables = dir.variables(&[ENVIRONMENT[0], ENVIRONMENT[1], ("AWS_PROFILE", "typo")]);
    let named = first(None, &variables).err().unwrap();
    assert_eq!(named, "there is no profile typo, which AWS_PROFILE names, in AWS's config and credentials files");
    assert_eq!(first(Some("default"), &variables).unwrap().access_key, "a2");
}

#[test]
fn a_process_of_the_profile_is_asked() {
    let dir = Dir::new("process");
    let told = dir.write("told", &answer("a3", "2033-05-18T03:33:20Z"));
    dir.write("config", &format!("[default]\ncredential_process = /bin/cat {told}\n"));
    let keys = first(None, &dir.variables(&[])).unwrap();
    assert_eq!((keys.access_key.as_str(), keys.token.as_deref()), ("a3", Some("t")));
    assert_eq!(keys.expires, Some(2_000_000_000));
    // One that fails is told; what the container would give is for somebody else.
    fs::remove_file(told).unwrap();
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/")];
    let failed = first(None, &dir.variables(&container)).err().unwrap();
    assert_eq!(failed, "the credential_process of the profile gives no credentials");
}

/// Keys that turn up at a source that comes first are another account's.
#[test]
fn new_keys_come_from_the_source_of_the_old() {
    let dir = Dir::new("same");
    let told = dir.write("told", &answer("a3", "2001-09-09T01:46:40Z"));
    dir.write("config", &format!("[default]\ncredential_process = /bin/cat {told}\n"));
    block(async {
        let credentials = open(None, &dir.variables(&[])).await.unwrap();
        dir.write("credentials", "[default]\naws_access_key_id = other\naws_secret_access_key = s\n");
        dir.write("told", &answer("a4", "2033-05-18T03:33:20Z"));
        assert!(credentials.renew(&credentials.latest()).await);
        assert_eq!(credentials.latest().access_key, "a4");
        // It fails: the keys stay what they were, and nobody else is asked.
        fs::remove_file(&told).unwrap();
        assert!(!credentials.renew(&credentials.latest()).await);
        assert_eq!(credentials.latest().access_key, "a4");
    });
}

/// A script that answers once `go` is there, and gives up after 10 s; it counts how often it ran.
fn script_of(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "echo ran >>{dir}/runs\nfor n in $(seq 1000); do if [ -e {dir}/go ]; then cat {dir}/told; exit; fi; \
         sleep 0.01; done\nexit 1\n"
    )
}

/// What the process waits for is done by another task of the same thread.
#[test]
fn a_process_does_not_hold_the_lane() {
    let dir = Dir::new("beside");
    dir.write("told", &answer("a5", "2001-09-09T01:46:40Z"));
    let go = dir.write("go", "");
    let script = dir.write("script", &script_of(&dir.0));
    dir.write("config", &format!("[default]\ncredential_process = /bin/sh {script}\n"));
    block(async {
        let credentials = open(None, &dir.variables(&[])).await.unwrap();
        fs::remove_file(&go).unwrap();
        dir.write("told", &answer("a6", "2033-05-18T03:33:20Z"));
        let stale = credentials.latest();
        let beside = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            dir.write("go", "");
        };
        let (is_new, ()) = tokio::join!(credentials.renew(&stale), beside);
        assert!(is_new, "the process waited in vain for the lane");
        assert_eq!(credentials.latest().access_key, "a6");
    });
}

/// Keys that are good for minutes yet do not make every request wait for their source.
#[test]
fn a_source_without_new_keys_is_not_asked_by_every_request() {
    let dir = Dir::new("rest");
    dir.write("told", &answer("a7", "2033-05-18T03:33:20Z"));
    dir.write("go", "");
    let script = dir.write("script", &script_of(&dir.0));
    dir.write("config", &format!("[default]\ncredential_process = /bin/sh {script}\n"));
    block(async {
        let credentials = open(None, &dir.variables(&[])).await.unwrap();
        for _ in 0..5 {
            assert_eq!(credentials.at(2_000_000_000 - 100).await.access_key, "a7");
        }
    });
    assert_eq!(fs::read_to_string(dir.0.join("runs")).unwrap().lines().count(), 2, "once, and once for new ones");
}

#[test]
fn where_there_are_none_the_remedy_is_told() {
    let dir = Dir::new("none");
    assert!(first(None, &dir.variables(&[])).err().unwrap().contains("AWS_ACCESS_KEY_ID"));
    dir.write("config", "[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n");
    let container = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/");
    let role = first(None, &dir.variables(&[("AWS_PROFILE", "role"), container])).err().unwrap();
    assert!(role.contains("a role to assume"), "{role}");
}
