//! Who asks: the keys of one end of a job, asked for anew before they expire, and always at the same source.
//!
//! Which source that is was decided when the job began ([`super::sources`]): a job that began as one account does not
//! go on as another because its source fails for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::settings::{Settings, Variables};
use super::sources::{Giver, Keys, Sources};

/// Keys are asked for anew this long before they expire: no request runs longer without being signed again.
const REFRESH_SECS: i64 = 300;
/// Keys that are good for longer than this are used while somebody asks for new ones.
const USABLE_SECS: i64 = 60;
/// Time in which a source that had no new keys is not asked again for the sake of keys that are still good: it has its
/// own time for that, and every request would wait for it.
const REST: Duration = Duration::from_secs(10);
/// Time in which a source is not asked again because of refusals without a reason: what is forbidden is so with any
/// keys, and sources that make new ones each time they are asked would be asked by every such request.
const SUSPICION_REST: Duration = Duration::from_secs(60);

/// The keys of one end of a job, shared by its lanes.
pub(super) struct Credentials {
    /// Where keys come from.
    sources: Sources,
    /// The source that gave them.
    giver: Giver,
    /// The keys in use.
    current: Mutex<Arc<Keys>>,
    /// When the source had no new ones.
    asked: Mutex<Option<Instant>>,
    /// When it was last asked because of a refusal without a reason.
    suspected: Mutex<Option<Instant>>,
    /// Held by the lane that asks for new ones.
    refresh: tokio::sync::Mutex<()>,
}

impl Credentials {
    /// Finds the first keys. `Err` says for the user what is missing.
    pub async fn open(settings: &Settings, variables: &Variables) -> Result<Credentials, String> {
        if let Some(profile) = settings.profile.as_ref().filter(|profile| !profile.is_known) {
            let named = profile.variable.map_or(String::new(), |variable| format!(", which {variable} names,"));
            return Err(format!("there is no profile {}{named} in AWS's config and credentials files", profile.name));
        }
        let sources = Sources::new(settings, variables)?;
        let Some((giver, keys)) = sources.first().await? else { return Err(missing(settings)) };
        Ok(Credentials {
            sources,
            giver,
            current: Mutex::new(Arc::new(keys)),
            asked: Mutex::new(None),
            suspected: Mutex::new(None),
            refresh: tokio::sync::Mutex::new(()),
        })
    }

    /// The keys to sign with at `now` (seconds since 1970), new ones where the old are about to expire.
    pub async fn at(&self, now: i64) -> Arc<Keys> {
        let keys = self.latest();
        let left = keys.expires.map_or(i64::MAX, |expires| expires - now);
        if left > REFRESH_SECS {
            return keys;
        }
        let rests = || self.asked.lock().is_some_and(|asked| asked.elapsed() < REST);
        let is_being_asked = || self.refresh.try_lock().is_err();
        if left > USABLE_SECS && (rests() || is_being_asked()) {
            return keys;
        }
        if !self.renew(&keys).await {
            *self.asked.lock() = Some(Instant::now());
        }
        self.latest()
    }

    /// The keys in use, fresh or not.
    pub fn latest(&self) -> Arc<Keys> {
        self.current.lock().clone()
    }

    /// Asks for keys other than `stale`, which a server called expired. Whether there are such now.
    pub async fn renew(&self, stale: &Arc<Keys>) -> bool {
        let _only_one = self.refresh.lock().await;
        if !Arc::ptr_eq(&self.latest(), stale) {
            return true;
        }
        self.replace(stale).await
    }

    /// Asks for keys other than `keys`, which a server refused without a reason: their session may have ended. Whether
    /// there are such now.
    pub async fn suspect(&self, keys: &Arc<Keys>) -> bool {
        let _only_one = self.refresh.lock().await;
        if !Arc::ptr_eq(&self.latest(), keys) {
            return true;
        }
        let is_time = || {
            let mut suspected = self.suspected.lock();
            let is_time = suspected.is_none_or(|then| then.elapsed() >= SUSPICION_REST);
            suspected.take_if(|_| is_time);
            suspected.get_or_insert_with(Instant::now);
            is_time
        };
        is_time() && self.replace(keys).await
    }

    /// Asks the source, while nobody else does.
    async fn replace(&self, stale: &Arc<Keys>) -> bool {
        let Some(keys) = self.sources.again(self.giver).await else { return false };
        let is_new = (&keys.access_key, &keys.token) != (&stale.access_key, &stale.token);
        if is_new || keys.expires != stale.expires {
            *self.current.lock() = Arc::new(keys);
        }
        is_new
    }
}

fn missing(settings: &Settings) -> String {
    let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile";
    match &settings.profile {
        _ if settings.assumes_role => "the profile names a role to assume, which gfast cannot; give the profile a \
             credential_process (aws configure export-credentials --format process)"
            .to_owned(),
        Some(profile) => format!("the profile {} holds no credentials", profile.name),
        None => format!("there are no credentials: {remedy}"),
    }
}

#[cfg(test)]
mod tests;
