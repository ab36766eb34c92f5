//! Where keys come from: the sources that every AWS tool asks, in this order.
//!
//! ```text
//! environment -> profile -> SSO -> web identity -> process -> container -> instance
//!       '---- not with --profile ----'                           |            |
//!                                                not where the profile names a role to assume
//! ```
//! The first source that is set up is the one: a profile that is named must be there, and a source that is set up and
//! fails is told, and no other one asked in its place. Whatever it would answer, it would be for another account than
//! was meant. The instance's metadata service comes last with 1 s a request, or a laptop would wait for an address that
//! nobody answers. What each of them is asked is `reqsign-aws-core`'s affair; this file gives it files, processes, HTTP
//! and time limits. A profile's process runs on a thread of the runtime's pool: the lane goes on meanwhile.
//!
//! I10: [`Keys`] cannot be printed, and of an error of a source nothing is shown.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqsign_aws_core::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider, SSOCredentialProvider,
};
use reqsign_core::{CommandExecute, CommandOutput, Context, Env, Error, FileRead, HttpSend, ProvideCredentialDyn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::settings::{Profile, Settings, Variables};

/// Time of one request to the metadata service.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Time of one request to any other source of keys.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time of a profile's process, as AWS's own libraries have it.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks whether a process that has said all has ended.
const PROCESS_LOOK: Duration = Duration::from_millis(5);
/// Longest answer of a process (I4): keys take some hundred bytes, session tokens a few thousand.
const PROCESS_BYTES_MAX: usize = 64 << 10;

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

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `AWS_ACCESS_KEY_ID` and its kind.
    Environment,
    /// Keys in the shared files.
    Profile,
    /// The profile's SSO session.
    Sso,
    /// A role for a token in a file.
    WebIdentity,
    /// The profile's `credential_process`.
    Process,
    /// The role of a container.
    Container,
    /// The role of an instance.
    Instance,
}

/// Who asks a source.
type Provider = Box<dyn ProvideCredentialDyn<Credential = Credential>>;

/// One source.
struct Source {
    /// What it is.
    kind: Kind,
    /// Asks it.
    provider: Provider,
    /// Files, processes, variables and HTTP for it.
    context: Context,
}

/// The sources that there may be for one end of a job.
pub(super) struct Sources {
    /// In the order they are asked in.
    list: Vec<Source>,
}

/// Which of the sources gave keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Giver(usize);

impl Sources {
    /// None of them is asked yet. `Err` says for the user what is wrong.
    pub fn new(settings: &Settings, variables: &Variables) -> Result<Sources, String> {
        let is_asked = settings.profile.as_ref().is_some_and(|profile| profile.variable.is_none());
        let off = variables.get("AWS_EC2_METADATA_DISABLED");
        let is_instance_off = off.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let is_left_out = |kind: Kind| match kind {
            Kind::Environment => is_asked,
            Kind::WebIdentity => is_asked || settings.assumes_role,
            Kind::Container => settings.assumes_role,
            Kind::Instance => settings.assumes_role || is_instance_off,
            Kind::Profile | Kind::Sso | Kind::Process => false,
        };
        let sts = variables.get("AWS_ENDPOINT_URL_STS").map(|url| url.trim_end_matches('/').to_owned());
        let environment = Environment(Arc::new(for_sources(settings, variables)));
        let context = |kind| -> Result<Context, String> {
            let http = Http::new(kind, sts.clone()).map_err(|_| "TLS cannot be set up on this system".to_owned())?;
            let context = Context::new().with_file_read(Files).with_command_execute(Processes).with_http_send(http);
            Ok(context.with_env(environment.clone()))
        };
        let (usual, container) = (context(Kind::WebIdentity)?, context(Kind::Container)?);
        let instance = context(Kind::Instance)?;
        let source = |(kind, provider)| {
            let context = match kind {
                Kind::Instance => &instance,
                Kind::Container => &container,
                _ => &usual,
            };
            Source { kind, provider, context: context.clone() }
        };
        let all = providers(settings.profile.as_ref()).into_iter();
        Ok(Sources { list: all.filter(|(kind, _)| !is_left_out(*kind)).map(source).collect() })
    }

    /// The keys of the first source that has any. `Err` says for the user which one fails; `None`: none is set up.
    pub async fn first(&self) -> Result<Option<(Giver, Keys)>, String> {
        for (index, source) in self.list.iter().enumerate() {
            match source.provider.provide_credential_dyn(&source.context).await {
                Ok(found) => {
                    if let Some(keys) = found.and_then(keys) {
                        return Ok(Some((Giver(index), keys)));
                    }
                }
                // Elsewhere than on an instance nobody answers.
                Err(_) if source.kind == Kind::Instance => {}
                Err(_) => return Err(source.kind.failure().to_owned()),
            }
        }
        Ok(None)
    }

    /// What the source that gave keys gives now.
    pub async fn again(&self, Giver(index): Giver) -> Option<Keys> {
        let source = &self.list[index];
        source.provider.provide_credential_dyn(&source.context).await.ok().flatten().and_then(keys)
    }
}

impl Kind {
    /// What it means that a source that is set up fails.
    fn failure(self) -> &'static str {
        match self {
            Kind::Environment => "the credentials in the environment cannot be used",
            Kind::Profile => "AWS's config and credentials files cannot be understood",
            Kind::Sso => "the SSO session of the profile gives no credentials; log in again (aws sso login)",
            Kind::WebIdentity => {
                "the role of AWS_ROLE_ARN is not given for the web identity in AWS_WEB_IDENTITY_TOKEN_FILE"
            }
            Kind::Process => "the credential_process of the profile gives no credentials",
            Kind::Container => {
                "the endpoint of the container's role (AWS_CONTAINER_CREDENTIALS_*) gives no credentials"
            }
            Kind::Instance => "the instance's metadata service gives no credentials",
        }
    }
}

/// All there are, in their order. A profile that was named is named to each of those that know profiles: of the
/// variables they read only one.
fn providers(profile: Option<&Profile>) -> [(Kind, Provider); 7] {
    let name = || profile.map(|profile| profile.name.clone());
    let keys = ProfileCredentialProvider::new();
    let keys = name().map_or(keys.clone(), |name| keys.with_profile(name));
    let sso = SSOCredentialProvider::new();
    let sso = name().map_or(sso.clone(), |name| sso.with_profile(name));
    let process = ProcessCredentialProvider::new();
    let process = name().map_or(process.clone(), |name| process.with_profile(name));
    [
        (Kind::Environment, Box::new(EnvCredentialProvider::new())),
        (Kind::Profile, Box::new(keys)),
        (Kind::Sso, Box::new(sso)),
        (Kind::WebIdentity, Box::new(AssumeRoleWithWebIdentityCredentialProvider::new())),
        (Kind::Process, Box::new(process)),
        (Kind::Container, Box::new(ECSCredentialProvider::new())),
        (Kind::Instance, Box::new(IMDSv2CredentialProvider::new())),
    ]
}

/// The variables, as the sources take them.
fn for_sources(settings: &Settings, variables: &Variables) -> Variables {
    let mut variables = variables.clone();
    // Some sources want a region, wherever it was told.
    variables.entry("AWS_REGION".to_owned()).or_insert_with(|| settings.region.clone());
    if let Some(url) = variables.get_mut("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        url.truncate(url.trim_end_matches('/').len());
    }
    variables
}

/// Keys that can sign.
fn keys(credential: Credential) -> Option<Keys> {
    let is_whole = !credential.access_key_id.is_empty() && !credential.secret_access_key.is_empty();
    is_whole.then(|| Keys {
        access_key: credential.access_key_id,
        secret: credential.secret_access_key,
        token: credential.session_token.filter(|token| !token.is_empty()),
        expires: credential.expires_in.map(|time| time.as_second()),
    })
}

/// Variables as sources ask for them.
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
        std::fs::read(path).map_err(|_| Error::config_invalid("a file cannot be read"))
    }
}

/// A profile's `credential_process`: run once an hour or so, while the lane goes on.
#[derive(Clone, Copy, Debug)]
struct Processes;

impl CommandExecute for Processes {
    async fn command_execute<'a>(
        &'a self,
        program: &'a str,
        arguments: &'a [&'a str],
    ) -> reqsign_core::Result<CommandOutput> {
        let mut command = Command::new(program);
        command.args(arguments);
        let ended = tokio::task::spawn_blocking(move || run(command, PROCESS_TIMEOUT)).await;
        let failed = || Error::config_invalid("the credential process cannot be run");
        ended.map_err(|_| failed())?.ok_or_else(failed)
    }
}

/// Runs a program to its end; what it printed. `None` if it cannot be run, or is not through in `time`: it is killed
/// then. What it says beside its answer goes nowhere (I10).
fn run(mut command: Command, time: Duration) -> Option<CommandOutput> {
    let until = Instant::now() + time;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let answer = answer_of(&mut child, until);
    if answer.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

/// What a process prints until its end. Ends: the process does, or time is over.
fn answer_of(child: &mut Child, until: Instant) -> Option<CommandOutput> {
    let mut pipe = child.stdout.take()?;
    let (mut stdout, mut block) = (Vec::new(), [0; 4096]);
    loop {
        let left = until.checked_duration_since(Instant::now())?;
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) | Ok(0) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        match pipe.read(&mut block).ok()? {
            0 => break,
            len => stdout.extend_from_slice(&block[..len]),
        }
        if stdout.len() > PROCESS_BYTES_MAX {
            return None;
        }
    }
    loop {
        if let Some(status) = child.try_wait().ok()? {
            return Some(CommandOutput { status: status.code().unwrap_or(-1), stdout, stderr: Vec::new() });
        }
        until.checked_duration_since(Instant::now())?;
        std::thread::sleep(PROCESS_LOOK);
    }
}

/// Requests to the sources of keys.
#[derive(Clone, Debug)]
struct Http {
    /// Sends them.
    client: reqwest::Client,
    /// Where roles are asked for instead of at AWS.
    sts: Option<String>,
}

impl Http {
    /// For a kind of source. STS and SSO are out there, behind the proxy that there may be; the roles of containers and
    /// instances are given by this machine.
    fn new(kind: Kind, sts: Option<String>) -> reqwest::Result<Http> {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let builder = match kind {
            Kind::Instance => builder.no_proxy().timeout(METADATA_TIMEOUT),
            Kind::Container => builder.no_proxy().timeout(SOURCE_TIMEOUT),
            _ => builder.timeout(SOURCE_TIMEOUT),
        };
        Ok(Http { client: builder.build()?, sts })
    }

    /// The library knows AWS's own STS only.
    fn address(&self, uri: &http::Uri) -> String {
        let is_sts = uri.host().is_some_and(|host| host.starts_with("sts."));
        match self.sts.as_ref().filter(|_| is_sts) {
            Some(sts) => format!("{sts}{}", uri.path_and_query().map_or("/", |path| path.as_str())),
            None => uri.to_string(),
        }
    }
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = || Error::unexpected("no answer from a source of credentials");
        let (mut head, body) = request.into_parts();
        head.uri = self.address(&head.uri).parse().map_err(|_| failed())?;
        let request = reqwest::Request::try_from(http::Request::from_parts(head, body)).map_err(|_| failed())?;
        let answer = self.client.execute(request).await.map_err(|_| failed())?;
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = answer.bytes().await.map_err(|_| failed())?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let shell = |script: &str, time_ms| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            run(command, Duration::from_millis(time_ms))
        };
        let said = shell("echo yes; exit 3", 10_000).unwrap();
        assert_eq!((said.status, said.stdout.as_slice()), (3, &b"yes\n"[..]));
        // One that waits, one that closes its output before it waits, one that says too much.
        for script in ["exec sleep 100", "exec >&-; exec sleep 100"] {
            assert!(shell(script, 100).is_none(), "{script}");
        }
        assert!(shell("exec cat /dev/zero", 10_000).is_none());
    }
}
