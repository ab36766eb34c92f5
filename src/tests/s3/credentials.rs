//! Where keys come from, as a user sets it up: profiles, web identity, the roles of containers and instances; and keys
//! that end while a job runs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::support::fault::{Fault, FaultServer, Kind, Rule, Terms};
use super::support::scripted::{Asked, Reply, Scripted};
use super::support::{Comparison, Engine, Job, Outcome, Rng};
use super::{ACCESS_KEY, PART_BYTES, SECRET_KEY, Scene, fault_server, noise, plain_tree};

/// What must be shown to get keys, and never be seen in an output.
const PROOF: &str = "canary-proof-of-who-asks";
/// Session tokens, which are secrets as well.
const TOKENS: [&str; 2] = ["canary-token-one", "canary-token-two"];
/// Later than any test.
const FAR: &str = "2099-01-01T00:00:00Z";

/// A job up without keys.
fn job_without_keys(scene: &Scene, state: &str) -> Job {
    let job = scene.job(scene.join("tree"), "s3://b/p", state);
    job.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "")
}

fn scene_of(server: &FaultServer) -> Scene {
    let scene = Scene::new(server, Engine::all()[0]);
    noise(&scene.dir("tree").join("f"), &mut Rng::new(1), 100);
    scene
}

/// No secret in what a job says.
#[track_caller]
fn is_discreet(outcome: Outcome) -> Outcome {
    for secret in [SECRET_KEY, PROOF, TOKENS[0], TOKENS[1]] {
        assert!(!outcome.stdout.contains(secret) && !outcome.stderr.contains(secret), "a secret is told");
    }
    outcome
}

fn answer(body: String) -> Option<Reply> {
    Some(Reply::Answer("200 OK", vec![("content-type", "application/json".to_owned())], body.into_bytes()))
}

fn denied() -> Option<Reply> {
    Some(Reply::Answer("403 Forbidden", Vec::new(), PROOF.into()))
}

/// The keys that the fault server knows, as container and instance tell them.
fn keys(token: &str) -> String {
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{ACCESS_KEY}\",\
         \"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"{token}\",\"Expiration\":\"{FAR}\"}}"
    )
}

/// The same, as STS tells them.
fn role(token: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{FAR}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

fn header<'a>(asked: &'a Asked, name: &str) -> &'a str {
    asked.headers.get(name).map_or("", String::as_str)
}

/// The endpoint of a container's role: whoever shows the proof gets the token in force.
fn container(token: Arc<Mutex<&'static str>>) -> Scripted {
    Scripted::start(move |asked, _| match header(asked, "authorization") == PROOF {
        true if asked.line.starts_with("GET /role") => answer(keys(&token.lock())),
        _ => denied(),
    })
}

/// With the container's role as the only source of keys.
fn in_container(job: Job, scene: &Scene, container: &Scripted) -> Job {
    let proof = scene.join("proof");
    fs::write(&proof, format!("{PROOF}\n")).unwrap();
    job.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", container.endpoint))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", proof)
}

#[test]
fn a_container_gives_its_role() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let container = container(Arc::new(Mutex::new(TOKENS[0])));
    let job = in_container(job_without_keys(&scene, "state"), &scene, &container);
    is_discreet(job.run().expect(0));
    assert!(server.object("b", "p/f").is_some());
    // One that does not know who asks: said as such.
    fs::write(scene.join("proof"), "somebody else").unwrap();
    let job = job_without_keys(&scene, "denied");
    let job = job.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/role", container.endpoint));
    let outcome = is_discreet(job.run().expect(2));
    assert!(outcome.says("container"), "{outcome}");
}

/// Whoever asks STS shows the token of the file, and gets keys for the role.
#[test]
fn a_web_identity_is_given_its_role() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let sts = Scripted::start(|asked, is_read| match is_read {
        false => None,
        true => {
            let form = String::from_utf8_lossy(&asked.body).into_owned();
            let wanted = ["Action=AssumeRoleWithWebIdentity", "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx", PROOF];
            match asked.line.starts_with("POST /") && wanted.iter().all(|word| form.contains(word)) {
                true => answer(role(TOKENS[0])),
                false => denied(),
            }
        }
    });
    let job = |state: &str| {
        job_without_keys(&scene, state)
            .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", scene.join("token"))
            .env("AWS_ENDPOINT_URL_STS", format!("{}/", sts.endpoint))
    };
    fs::write(scene.join("token"), PROOF).unwrap();
    is_discreet(job("state").run().expect(0));
    assert!(server.object("b", "p/f").is_some());
    fs::write(scene.join("token"), "somebody else").unwrap();
    let outcome = is_discreet(job("denied").run().expect(2));
    assert!(outcome.says("web identity"), "{outcome}");
}

/// STS is asked through the proxy that the environment names, a container's endpoint is not.
#[test]
fn a_proxy_stands_before_sts_alone() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let proxy = Scripted::start(|asked, is_read| match is_read {
        false => None,
        true if asked.line.starts_with("POST http://sts.far.invalid/") => answer(role(TOKENS[0])),
        true => denied(),
    });
    let behind = |state: &str| {
        let job = job_without_keys(&scene, state).env("http_proxy", &proxy.endpoint).env("HTTP_PROXY", &proxy.endpoint);
        // The bucket is near.
        job.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1")
    };
    fs::write(scene.join("token"), PROOF).unwrap();
    let job = behind("state").env("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
    let job = job.env("AWS_WEB_IDENTITY_TOKEN_FILE", scene.join("token"));
    is_discreet(job.env("AWS_ENDPOINT_URL_STS", "http://sts.far.invalid").run().expect(0));
    let asked = || proxy.count.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(asked(), 1);
    let mut container = container(Arc::new(Mutex::new(TOKENS[0])));
    container.endpoint = container.endpoint.replace("127.0.0.1", "localhost");
    is_discreet(in_container(behind("in-container"), &scene, &container).run().expect(0));
    assert_eq!(asked(), 1);
}

/// IMDSv2: a token for a PUT, the role's name for the token, its keys for both.
#[test]
fn an_instance_gives_its_role() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let metadata = Scripted::start(|asked, _| match asked.line.as_str() {
        "PUT /latest/api/token" if !header(asked, "x-aws-ec2-metadata-token-ttl-seconds").is_empty() => {
            answer(PROOF.to_owned())
        }
        _ if header(asked, "x-aws-ec2-metadata-token") != PROOF => denied(),
        "GET /latest/meta-data/iam/security-credentials/" => answer("the-role".to_owned()),
        "GET /latest/meta-data/iam/security-credentials/the-role" => answer(keys(TOKENS[0])),
        _ => denied(),
    });
    let job = job_without_keys(&scene, "state").env("AWS_EC2_METADATA_DISABLED", "false");
    let job = job.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("{}/", metadata.endpoint));
    is_discreet(job.run().expect(0));
    assert!(server.object("b", "p/f").is_some());
}

/// A profile of files that lie elsewhere: keys in one, where to ask in the other.
#[test]
fn a_profile_is_read_from_the_files_that_are_named() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let keys = format!("[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    fs::write(scene.join("credentials"), format!("[default]\naws_access_key_id = AKIAOTHER\n{keys}")).unwrap();
    let config = format!("[profile work]\nregion = eu-west-3\nendpoint_url = {}\n", server.endpoint());
    fs::write(scene.join("config"), config).unwrap();
    server.set_terms(Terms { region: Some("eu-west-3".to_owned()), ..Terms::default() });
    let run = |state: &str, named: Option<&str>, args: &[&str]| {
        let job = Job::new(scene.join("tree"), "s3://b/p", scene.join(state), scene.engine);
        let job = job.env("AWS_CONFIG_FILE", scene.join("config")).env("HOME", scene.scratch.path());
        let job = job.env("AWS_SHARED_CREDENTIALS_FILE", scene.join("credentials"));
        let job = job.env("AWS_EC2_METADATA_DISABLED", "true").args(args);
        is_discreet(named.map_or(job.clone(), |name| job.env("AWS_PROFILE", name)).run())
    };
    run("variable", Some("work"), &[]).expect(0);
    run("option", None, &["--profile=work"]).expect(0);
    run("both", Some("nobody"), &["--profile=work"]).expect(0);
    assert!(server.object("b", "p/f").is_some());
}

/// A name that no file knows is a mistake, whoever else would give keys.
#[test]
fn a_profile_that_is_not_there_is_refused() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    let container = container(Arc::new(Mutex::new(TOKENS[0])));
    fs::create_dir(scene.join(".aws")).unwrap();
    fs::write(scene.join(".aws/config"), "[default]\nregion = us-east-1\n").unwrap();
    let without = || in_container(job_without_keys(&scene, "state"), &scene, &container);
    let with = || scene.job(scene.join("tree"), "s3://b/p", "state");
    for job in [
        without().arg("--profile=typo"),
        without().env("AWS_PROFILE", "typo"),
        with().arg("--profile=typo"),
        with().env("AWS_PROFILE", "typo"),
    ] {
        let outcome = is_discreet(job.run().expect(2));
        assert!(outcome.says("there is no profile typo"), "{outcome}");
        assert!(server.keys("b").is_empty() && !Path::new(&scene.join("state")).exists(), "{outcome}");
    }
    with().arg("--profile=default").env("AWS_PROFILE", "typo").run().expect(2);
    without().run().expect(0);
}

/// The session ends while the job runs: the source has another one, and nobody notices.
#[test]
fn a_session_that_ends_is_followed_by_another() {
    for (status, large) in [(400, 3 * PART_BYTES), (403, 0)] {
        for is_up in [true, false] {
            let server = fault_server(1);
            let scene = Scene::new(&server, Engine::all()[0]);
            plain_tree(&scene.dir("tree"), 41, 60, large);
            let token = Arc::new(Mutex::new(TOKENS[0]));
            let container = container(token.clone());
            let (kind, job) = if is_up {
                (Kind::Put, job_without_keys(&scene, "state"))
            } else {
                scene.job(scene.join("tree"), "s3://b/p", "up").run().expect(0);
                let job = scene.job("s3://b/p", scene.join("back"), "state");
                (Kind::Get, job.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", ""))
            };
            server.reset_counts();
            server.script(Rule::new(Fault::StallMs(20)).on(&[Kind::Put, Kind::PutPart, Kind::Get]));
            let running = in_container(job, &scene, &container).arg("--streams=4").start();
            assert!(running.run_until(|_| server.counts().of(kind) >= 10), "ended too soon");
            *token.lock() = TOKENS[1];
            server.set_terms(Terms { expired_token: Some((status, TOKENS[0].to_owned())), ..Terms::default() });
            let outcome = is_discreet(running.wait().expect(0));
            assert_eq!(outcome.number("failed"), 0, "{outcome}");
            let asked = container.count.load(std::sync::atomic::Ordering::Relaxed);
            assert!(asked >= 2, "{asked} times asked for keys: {outcome}");
            server.heal();
            server.set_terms(Terms::default());
            if is_up {
                scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
            }
            Comparison::new(&scene.join("tree"), &scene.join("back")).assert_same();
        }
    }
}
