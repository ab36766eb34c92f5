//! Who asks: the chain every AWS tool goes through, and keys asked for anew before they expire.
//!
//! Environment, shared files, SSO, web identity, a process of the profile, container, instance role: the chain itself
//! is `reqsign-aws-core`; this file gives it files, processes, HTTP and time limits. The instance's metadata service
//! comes last with 1 s a request, or a laptop would wait for an address that nobody answers. A profile that is named on
//! the command line comes before keys in the environment.
//!
//! I10: [`Keys`] cannot be printed, and of an error of the chain only its kind is shown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use reqsign_aws_core::{Credential, DefaultCredentialProvider, IMDSv2CredentialProvider};
use reqsign_core::{CommandExecute, CommandOutput, Context, Env, FileRead, HttpSend, ProvideCredential};

use super::settings::{Settings, Variables};

/// Keys are asked for anew this long before they expire: no request runs longer without being signed again.
const REFRESH_SECS: i64 = 300;
/// Time of one request to the metadata service.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Time of one request to any other source of keys.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);

/// What signs a request.
pub(super) struct Keys {
    /// Names the account; not secret.
    pub access_key: String,
    /// Signs.
    pub secret: String,
    /// Goes with temporary keys.
    pub token: Option<String>,
    /// Seconds since 1970 after which the keys are worthless.
    pub expires: Option<i64>,
}

/// The keys of one end of a job, shared by its lanes.
pub(super) struct Credentials {
    /// All sources but the metadata service.
    chain: DefaultCredentialProvider,
    /// Files, processes, variables and HTTP for them.
    context: Context,
    /// The metadata service, unless it is switched off, with its own time limit.
    metadata: Option<(IMDSv2CredentialProvider, Context)>,
    /// The keys in use.
    current: Mutex<Arc<Keys>>,
    /// Held by the lane that asks for new ones.
    refresh: tokio::sync::Mutex<()>,
}

impl Credentials {
    /// Finds the first keys. `Err` says for the user what is missing.
    pub async fn open(settings: &Settings, variables: &Variables) -> Result<Credentials, String> {
        let off = variables.get("AWS_EC2_METADATA_DISABLED");
        let is_metadata_off = off.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let mut variables = variables.clone();
        // Some sources want a region, wherever it was told.
        variables.entry("AWS_REGION".to_owned()).or_insert_with(|| settings.region.clone());
        let environment = Environment(Arc::new(variables));
        let context = |timeout| -> Result<Context, String> {
            let http = Http::new(timeout).map_err(|_| "TLS cannot be set up on this system".to_owned())?;
            let context = Context::new().with_file_read(Files).with_command_execute(Processes).with_http_send(http);
            Ok(context.with_env(environment.clone()))
        };
        let builder = DefaultCredentialProvider::builder().no_imds();
        let chain = match &settings.profile {
            Some(profile) => builder.with_profile(profile).no_env().build(),
            None => builder.build(),
        };
        let metadata = match is_metadata_off {
            true => None,
            false => Some((IMDSv2CredentialProvider::new(), context(METADATA_TIMEOUT)?)),
        };
        let none = Keys { access_key: String::new(), secret: String::new(), token: None, expires: None };
        let credentials = Credentials {
            chain,
            context: context(SOURCE_TIMEOUT)?,
            metadata,
            current: Mutex::new(Arc::new(none)),
            refresh: tokio::sync::Mutex::new(()),
        };
        match credentials.load(settings.assumes_role).await {
            Some(keys) => *credentials.current.lock() = Arc::new(keys),
            None => return Err(missing(settings)),
        }
        Ok(credentials)
    }

    /// The keys to sign with at `now` (seconds since 1970), new ones where the old are about to expire.
    pub async fn at(&self, now: i64) -> Arc<Keys> {
        let keys = self.current.lock().clone();
        let is_fresh = |keys: &Keys| keys.expires.is_none_or(|expires| expires - now > REFRESH_SECS);
        if is_fresh(&keys) {
            return keys;
        }
        self.renew(&keys).await;
        self.current.lock().clone()
    }

    /// The keys in use, fresh or not.
    pub fn latest(&self) -> Arc<Keys> {
        self.current.lock().clone()
    }

    /// Asks for keys other than `stale`, which a server called expired. Whether there are such now.
    pub async fn renew(&self, stale: &Arc<Keys>) -> bool {
        let _only_one = self.refresh.lock().await;
        let current = self.current.lock().clone();
        if !Arc::ptr_eq(&current, stale) {
            return true;
        }
        let Some(keys) = self.load(false).await else { return false };
        let is_new = (&keys.access_key, &keys.token) != (&stale.access_key, &stale.token);
        *self.current.lock() = Arc::new(keys);
        is_new
    }

    /// Asks the chain, then the metadata service, unless the profile means a role that neither can give.
    async fn load(&self, assumes_role: bool) -> Option<Keys> {
        let found = self.chain.provide_credential(&self.context).await.ok().flatten();
        let found = match (found, &self.metadata) {
            (None, Some((metadata, context))) if !assumes_role => {
                metadata.provide_credential(context).await.ok().flatten()
            }
            (found, _) => found,
        };
        found.filter(|found| !found.access_key_id.is_empty() && !found.secret_access_key.is_empty()).map(keys)
    }
}

fn keys(credential: Credential) -> Keys {
    Keys {
        access_key: credential.access_key_id,
        secret: credential.secret_access_key,
        token: credential.session_token.filter(|token| !token.is_empty()),
        expires: credential.expires_in.map(|time| time.as_second()),
    }
}

fn missing(settings: &Settings) -> String {
    let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile";
    match &settings.profile {
        _ if settings.assumes_role => "the profile names a role to assume, which gfast cannot; give the profile a \
             credential_process (aws configure export-credentials --format process)"
            .to_owned(),
        Some(profile) => format!("the profile {profile} holds no credentials"),
        None => format!("there are no credentials: {remedy}"),
    }
}

/// Variables as the chain asks for them.
#[derive(Clone)]
struct Environment(Arc<Variables>);

impl std::fmt::Debug for Environment {
    /// Values may be secrets (I10).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Env for Environment {
    fn var(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn vars(&self) -> HashMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        self.0.get("HOME").map(PathBuf::from)
    }
}

/// Files of a few kilobytes: read on the spot.
#[derive(Clone, Copy, Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        std::fs::read(path).map_err(|_| reqsign_core::Error::config_invalid("a file cannot be read"))
    }
}

/// A profile's `credential_process`: run on the spot, once an hour or so.
#[derive(Clone, Copy, Debug)]
struct Processes;

impl CommandExecute for Processes {
    async fn command_execute<'a>(
        &'a self,
        program: &'a str,
        arguments: &'a [&'a str],
    ) -> reqsign_core::Result<CommandOutput> {
        let output = std::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output();
        let output = output.map_err(|_| reqsign_core::Error::config_invalid("the credential process cannot be run"))?;
        let status = output.status.code().unwrap_or(-1);
        Ok(CommandOutput { status, stdout: output.stdout, stderr: output.stderr })
    }
}

/// Requests to the sources of keys.
#[derive(Clone, Debug)]
struct Http(reqwest::Client);

impl Http {
    fn new(timeout: Duration) -> reqwest::Result<Http> {
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        builder.timeout(timeout).build().map(Http)
    }
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |_: reqwest::Error| reqsign_core::Error::unexpected("no answer from a source of credentials");
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let answer = self.0.execute(request).await.map_err(failed)?;
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = answer.bytes().await.map_err(failed)?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(settings: Settings, variables: &[(&str, &str)]) -> Result<Arc<Keys>, String> {
        let off = [("AWS_EC2_METADATA_DISABLED", "TRUE")];
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = variables.iter().chain(&off).map(pair).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let credentials = Credentials::open(&settings, &variables).await?;
            Ok(credentials.at(0).await)
        })
    }

    #[test]
    fn keys_come_from_the_environment_unless_a_profile_is_named() {
        let file = std::env::temp_dir().join(format!("gfast-credentials-{}", std::process::id()));
        std::fs::write(&file, "[p]\naws_access_key_id = a2\naws_secret_access_key = s2\n").unwrap();
        let path = file.to_str().unwrap();
        let variables =
            [("AWS_ACCESS_KEY_ID", "a1"), ("AWS_SECRET_ACCESS_KEY", "s1"), ("AWS_SHARED_CREDENTIALS_FILE", path)];
        let from_environment = open(Settings::default(), &variables).unwrap();
        let profile = |name: &str| Settings { profile: Some(name.to_owned()), ..Settings::default() };
        let from_profile = open(profile("p"), &variables);
        let from_none = open(profile("q"), &variables);
        std::fs::remove_file(&file).unwrap();
        assert_eq!((from_environment.access_key.as_str(), from_environment.secret.as_str()), ("a1", "s1"));
        assert_eq!(from_profile.unwrap().access_key, "a2");
        assert_eq!(from_none.err().unwrap(), "the profile q holds no credentials");
    }

    #[test]
    fn a_process_of_the_profile_is_asked() {
        let file = std::env::temp_dir().join(format!("gfast-process-{}", std::process::id()));
        let answer = r#"{"Version":1,"AccessKeyId":"a3","SecretAccessKey":"s3","SessionToken":"t","#;
        let answer = format!("{answer}\"Expiration\":\"2033-05-18T03:33:20Z\"}}");
        let config = file.with_extension("config");
        std::fs::write(&file, answer).unwrap();
        std::fs::write(&config, format!("[default]\ncredential_process = /bin/cat {}\n", file.display())).unwrap();
        let keys = open(Settings::default(), &[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(&config).unwrap();
        let keys = keys.unwrap();
        assert_eq!((keys.access_key.as_str(), keys.token.as_deref()), ("a3", Some("t")));
        assert_eq!(keys.expires, Some(2_000_000_000));
    }

    #[test]
    fn where_there_are_none_the_remedy_is_told() {
        let nowhere = [("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"), ("AWS_CONFIG_FILE", "/nonexistent")];
        assert!(open(Settings::default(), &nowhere).err().unwrap().contains("AWS_ACCESS_KEY_ID"));
    }
}
