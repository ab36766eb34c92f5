//! Where requests go and how they are addressed: options, environment and the shared configuration files of AWS, in
//! this order. Pure, but for [`Settings::load`], which reads the files.
//!
//! ```text
//! endpoint   --endpoint-url > AWS_ENDPOINT_URL_S3 > AWS_ENDPOINT_URL > services section > profile > AWS's own
//! region     --region > AWS_REGION > AWS_DEFAULT_REGION > profile > us-east-1 (and what the bucket says)
//! profile    --profile > AWS_PROFILE > AWS_DEFAULT_PROFILE > default (one that is named must be there)
//! CA bundle  AWS_CA_BUNDLE > profile
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;

use reqwest::Url;
use rusty_s3::UrlStyle;

use crate::config::S3Options;

/// The region of requests when none is known.
const REGION_DEFAULT: &str = "us-east-1";

/// What is known before the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Where requests go; `None` is AWS's endpoint of the region.
    pub endpoint: Option<String>,
    /// The region requests are signed for, until the bucket says otherwise.
    pub region: String,
    /// `path` or `virtual`, where the profile says so.
    pub addressing: Option<String>,
    /// File of certificates that are trusted instead of the system's.
    pub ca_bundle: Option<String>,
    /// The profile, where one was named.
    pub profile: Option<Profile>,
    /// Whether the profile names a role to assume.
    pub assumes_role: bool,
    /// The storage class of new objects.
    pub storage_class: Option<String>,
}

/// A profile that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Its name.
    pub name: String,
    /// The variable that named it; `None`: it was asked for on the command line.
    pub variable: Option<&'static str>,
    /// Whether a file knows it.
    pub is_known: bool,
}

/// Variables of an environment by name.
pub type Variables = BTreeMap<String, String>;

/// The process's variables; empty ones and those that are not UTF-8 count as not set, as in every AWS tool.
pub fn process_variables() -> Variables {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(_, value)| !value.trim().is_empty()).collect()
}

/// Scheme and host of the server that requests with these options go to, as far as is known before the first: what
/// tells one server from another. Holds no credentials, even if the URL did (I10).
pub fn server_of(options: &S3Options, variables: &Variables) -> String {
    let settings = Settings::load(options, variables);
    let endpoint = settings.endpoint_in(&settings.region);
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}")
}

/// What tells that server from any other, as `Settings::server` writes it.
pub fn server_id(options: &S3Options, variables: &Variables) -> String {
    Settings::load(options, variables).server()
}

/// The part of AWS that a host belongs to if it answers for its S3: names of buckets are unique in each. Other servers
/// may run on its machines.
fn partition(host: &str) -> Option<&'static str> {
    let is_s3 = host.split('.').any(|label| label == "s3" || label.starts_with("s3-"));
    match host.strip_suffix(".amazonaws.com.cn").or_else(|| host.strip_suffix(".amazonaws.com")) {
        Some(_) if !is_s3 => None,
        Some(_) if host.ends_with(".cn") => Some("amazonaws.com.cn"),
        Some(region) if region.contains("us-gov-") => Some("us-gov.amazonaws.com"),
        found => found.map(|_| "amazonaws.com"),
    }
}

impl Settings {
    /// What options, environment and files say. A file that cannot be read says nothing.
    pub fn load(options: &S3Options, variables: &Variables) -> Settings {
        let read = |name: &str, default: &str| {
            let in_home = || Some(format!("{}/.aws/{default}", variables.get("HOME")?));
            let path = variables.get(name).cloned().or_else(in_home);
            path.and_then(|path| std::fs::read(path).ok())
                .map_or_else(String::new, |text| String::from_utf8_lossy(&text).into_owned())
        };
        let config = read("AWS_CONFIG_FILE", "config");
        let credentials = read("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        Settings::resolve(options, variables, &config, &credentials)
    }

    /// The same from given texts. `credentials` counts too: other tools read a profile's settings from both files.
    pub fn resolve(options: &S3Options, variables: &Variables, config: &str, credentials: &str) -> Settings {
        let variable = |name: &str| variables.get(name).cloned();
        let named_by = |name: &'static str| Some((variable(name)?, Some(name)));
        let asked = options.profile.clone().map(|name| (name, None));
        let named = asked.or_else(|| named_by("AWS_PROFILE")).or_else(|| named_by("AWS_DEFAULT_PROFILE"));
        let name = named.as_ref().map_or("default", |(name, _)| name).to_owned();
        let section = if name == "default" { name.clone() } else { format!("profile {name}") };
        let config = parse(config);
        let credentials = parse(credentials);
        let is_known = config.contains_key(&section) || credentials.contains_key(&name);
        let profile = |key: &str| {
            let from = |file: &Ini, section: &str| file.get(section).and_then(|keys| keys.get(key)).cloned();
            from(&config, &section).or_else(|| from(&credentials, &name)).filter(|value| !value.is_empty())
        };
        let services = profile("services").map(|name| format!("services {name}"));
        let service = services.and_then(|section| config.get(&section)?.get("s3.endpoint_url").cloned());
        let endpoint = options.endpoint_url.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL")).or(service);
        let region = options.region.clone().or_else(|| variable("AWS_REGION"));
        let region = region.or_else(|| variable("AWS_DEFAULT_REGION")).or_else(|| profile("region"));
        Settings {
            endpoint: endpoint.or_else(|| profile("s3.endpoint_url")).or_else(|| profile("endpoint_url")),
            region: region.unwrap_or_else(|| REGION_DEFAULT.to_owned()),
            addressing: profile("s3.addressing_style"),
            ca_bundle: variable("AWS_CA_BUNDLE").or_else(|| profile("ca_bundle")),
            profile: named.map(|(name, variable)| Profile { name, variable, is_known }),
            assumes_role: profile("role_arn").is_some(),
            storage_class: options.storage_class.clone(),
        }
    }

    /// Where requests signed for `region` go.
    pub fn endpoint_in(&self, region: &str) -> String {
        match &self.endpoint {
            Some(endpoint) if endpoint.contains("://") => endpoint.clone(),
            Some(endpoint) => format!("https://{endpoint}"),
            None if region.starts_with("cn-") => format!("https://s3.{region}.amazonaws.com.cn"),
            None => format!("https://s3.{region}.amazonaws.com"),
        }
    }

    /// What tells the server from any other, however it is written: its host, and port and path where they do not go
    /// without saying. HTTP and HTTPS lead to the same one, and so do all regions and hosts of AWS.
    pub fn server(&self) -> String {
        // One that cannot be read is refused when its bucket is opened.
        let Ok(url) = self.endpoint_in(&self.region).parse::<Url>() else { return String::new() };
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        match partition(host) {
            Some(partition) => partition.to_owned(),
            None => format!("{host}{port}{}", url.path().trim_end_matches('/')),
        }
    }

    /// Whether both get their keys from the same place: all that is not the same in a process is.
    pub fn asks_as(&self, other: &Settings) -> bool {
        *self == Settings { storage_class: self.storage_class.clone(), ..other.clone() }
    }

    /// How the bucket is named in a URL. Virtual hosts for AWS, which wants them; paths elsewhere, which every server
    /// understands, and for names that do not fit a host name or AWS's certificates.
    pub fn style(&self, bucket: &str) -> UrlStyle {
        let is_label = bucket.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let is_aws = self.endpoint.as_ref().is_none_or(|endpoint| {
            let host = endpoint.rsplit("://").next().and_then(|rest| rest.split(['/', ':']).next()).unwrap_or("");
            host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
        });
        match self.addressing.as_deref() {
            Some("path") => UrlStyle::Path,
            Some("virtual") => UrlStyle::VirtualHost,
            _ if is_aws && is_label => UrlStyle::VirtualHost,
            _ => UrlStyle::Path,
        }
    }
}

/// Sections, and in each its keys; a key nested below `s3 =` is `s3.key`.
type Ini = BTreeMap<String, BTreeMap<String, String>>;

/// Reads AWS's form of ini: comments begin with `#` or `;`, an indented line belongs to the key above it that has no
/// value. What is neither is passed over.
fn parse(text: &str) -> Ini {
    let mut ini = Ini::new();
    let (mut section, mut parent) = (String::new(), None);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "");
            // A section without keys is one.
            ini.entry(section.clone()).or_default();
            parent = None;
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else { continue };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        let value = value.split(" #").next().unwrap_or(value).split(" ;").next().unwrap_or(value).trim();
        let is_nested = line.starts_with([' ', '\t']);
        let key = match (&parent, is_nested) {
            (Some(parent), true) => format!("{parent}.{key}"),
            _ => {
                parent = value.is_empty().then(|| key.clone());
                key
            }
        };
        ini.entry(section.clone()).or_default().insert(key, value.to_owned());
    }
    ini
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[default]\nregion = eu-west-1\n# endpoint_url = http://no\n\
        [profile \"work\"]\nregion=r1 ; why\nendpoint_url = https://work.example\ns3 =\n\
        \x20 addressing_style = virtual\n  endpoint_url = https://s3.work.example\nca_bundle = /ca.pem\n\
        [profile far]\nservices = lab\n[services lab]\nec2 =\n  endpoint_url = http://ec2\ns3 = \n\
        \tendpoint_url = http://lab:9000/\n";

    fn resolve(options: S3Options, environment: &[(&str, &str)]) -> Settings {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = environment.iter().map(pair).collect();
        Settings::resolve(&options, &variables, CONFIG, "[work]\nregion = ignored\n[other]\nregion = r2\n")
    }

    #[test]
    fn options_come_before_the_environment_and_that_before_files() {
        assert_eq!(resolve(S3Options::default(), &[]).region, "eu-west-1");
        let environment = [("AWS_REGION", "r8"), ("AWS_ENDPOINT_URL", "http://e"), ("AWS_ENDPOINT_URL_S3", "http://s")];
        let settings = resolve(S3Options::default(), &environment);
        assert_eq!((settings.endpoint.as_deref(), settings.region.as_str()), (Some("http://s"), "r8"));
        let endpoint_url = Some("http://o".to_owned());
        let options = S3Options { endpoint_url, region: Some("r9".into()), ..S3Options::default() };
        let settings = resolve(options, &environment);
        assert_eq!((settings.endpoint.as_deref(), settings.region.as_str()), (Some("http://o"), "r9"));
    }

    #[test]
    fn profiles_and_nested_settings_are_read() {
        let settings = resolve(S3Options { profile: Some("work".to_owned()), ..S3Options::default() }, &[]);
        let named = |name: &str, variable, is_known| Some(Profile { name: name.to_owned(), variable, is_known });
        let expected = Settings {
            endpoint: Some("https://s3.work.example".into()),
            region: "r1".into(),
            addressing: Some("virtual".into()),
            ca_bundle: Some("/ca.pem".into()),
            profile: named("work", None, true),
            assumes_role: false,
            storage_class: None,
        };
        assert_eq!(settings, expected);
        assert_eq!(resolve(S3Options::default(), &[("AWS_PROFILE", "far")]).endpoint.unwrap(), "http://lab:9000/");
        assert_eq!(resolve(S3Options::default(), &[("AWS_PROFILE", "other")]).region, "r2");
        let none = resolve(S3Options::default(), &[("AWS_PROFILE", "none")]);
        assert_eq!((none.region.as_str(), none.profile), (REGION_DEFAULT, named("none", Some("AWS_PROFILE"), false)));
        let other = resolve(S3Options::default(), &[("AWS_DEFAULT_PROFILE", "other")]);
        assert_eq!(other.profile, named("other", Some("AWS_DEFAULT_PROFILE"), true));
    }

    #[test]
    fn a_server_is_one_however_it_is_written() {
        let server = |endpoint: &str| Settings { endpoint: Some(endpoint.to_owned()), ..Settings::default() }.server();
        for same in [
            "https://S3.site.example",
            "http://s3.site.example:80/",
            "s3.site.example.",
            "https://x@s3.site.example:443",
        ] {
            assert_eq!(server(same), "s3.site.example", "{same}");
        }
        assert_eq!(server("http://[::1]:9000/tenant/"), "[::1]:9000/tenant");
        assert_ne!(server("http://a:9000"), server("http://a:9001"));
        for aws in ["https://s3.eu-west-1.amazonaws.com", "bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com"] {
            assert_eq!(server(aws), Settings { region: "ap-east-1".into(), ..Settings::default() }.server(), "{aws}");
        }
        assert_eq!(
            server("http://ec2-1-2-3-4.compute-1.amazonaws.com:9000"),
            "ec2-1-2-3-4.compute-1.amazonaws.com:9000"
        );
        assert_ne!(server("s3.cn-north-1.amazonaws.com.cn"), server("s3.us-gov-west-1.amazonaws.com"));
    }

    #[test]
    fn aws_gets_virtual_hosts_and_others_get_paths() {
        let style = |endpoint: Option<&str>, bucket: &str| {
            let settings = Settings { endpoint: endpoint.map(str::to_owned), ..Settings::default() };
            matches!(settings.style(bucket), UrlStyle::VirtualHost)
        };
        assert!(style(None, "bucket-1") && style(Some("https://s3.eu-west-1.amazonaws.com/"), "b"));
        assert!(!style(None, "with.dots") && !style(None, "Upper"));
        assert!(!style(Some("http://127.0.0.1:9000"), "b") && !style(Some("https://s3.example.com"), "b"));
        let settings = Settings::default();
        assert_eq!(settings.endpoint_in("cn-north-1"), "https://s3.cn-north-1.amazonaws.com.cn");
        let settings = Settings { endpoint: Some("minio:9000".into()), ..settings };
        assert_eq!(settings.endpoint_in("x"), "https://minio:9000");
    }
}
