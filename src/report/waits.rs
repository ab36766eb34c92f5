//! What the threads of a job waited for, in figures: what the verdict on its limit rests on.

use super::Object;

/// Parts of the time of the threads that had work, 0 to 1 together, and what goes with them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// Nothing that takes long.
    pub computing: f64,
    /// Bytes of the source.
    pub source: f64,
    /// Bytes of the destination, or their way to the device.
    pub dest: f64,
    /// Names and attributes of the source.
    pub source_names: f64,
    /// Names and attributes of the destination.
    pub dest_names: f64,
    /// Requests to a server.
    pub requests: f64,
    /// Limits that the user set.
    pub limits: f64,
    /// Streams in use, on average.
    pub streams: f64,
    /// Operations in flight, on average.
    pub in_flight: f64,
    /// Part of the processors' time that the job used.
    pub cpu: f64,
    /// Part of the machine's processors' time that anything used.
    pub machine: f64,
}

/// What limited a run, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Limited {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it means and what could be done, for people.
    pub text: String,
    /// What speaks for it.
    pub waits: Waits,
}

impl Limited {
    /// Puts what limited a run into its summary.
    pub(super) fn put(limit: Option<&Limited>, object: &mut Object) {
        object.text_or_null("limit", limit.map(|limit| limit.name));
        if let Some(limit) = limit {
            object.text("limit_text", &limit.text);
            object.object("waits", limit.waits.object());
        }
    }
}

impl Waits {
    fn object(&self) -> Object {
        let mut object = Object::default();
        let figures = [
            ("computing", self.computing),
            ("source", self.source),
            ("dest", self.dest),
            ("source_names", self.source_names),
            ("dest_names", self.dest_names),
            ("requests", self.requests),
            ("limits", self.limits),
            ("streams", self.streams),
            ("in_flight", self.in_flight),
            ("cpu", self.cpu),
            ("machine", self.machine),
        ];
        figures.into_iter().for_each(|(name, figure)| object.fraction(name, figure));
        object
    }
}
