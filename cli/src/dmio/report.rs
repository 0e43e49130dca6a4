//! What regions come to, told as it happens: a line for people, a JSON document a line for programs.

use std::time::Duration;

use serde_json::{Value, json};
use vbd::dmio::{Cancelled, DeviceIndex, Event, Late, Notification, Reason, Region, RegionState};
use vbd::iomgr_core::{Operation, Timestamp};

use super::place::Place;
use crate::failure::Failure;
use crate::output::{microseconds, print, print_json_line};

/// Who tells.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) json: bool,
    /// Do lines say which time it is done?
    repeats: bool,
    places: Vec<Place>,
    regions: Vec<Region>,
    /// The longest name of a region.
    width: usize,
    /// What kept it from telling.
    failure: Option<Failure>,
}

/// Which request it is about, and when that began.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// Which time.
    pub(super) round: u64,
    /// The numbers of its regions.
    pub(super) regions: Vec<usize>,
    /// It flushes the regions' images.
    pub(super) is_flush: bool,
    pub(super) began: Timestamp,
}

impl Report {
    pub(super) fn new(json: bool, repeats: bool, places: &[Place], regions: &[Region]) -> Self {
        let names = places.iter().map(|place| place.to_string().chars().count());
        Self {
            json,
            repeats,
            width: names.max().unwrap_or(0).max("REGION".len()),
            places: places.to_vec(),
            regions: regions.to_vec(),
            failure: None,
        }
    }

    /// What could not be told.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// The head of the table.
    pub(super) fn begin(&mut self) {
        if !self.json {
            self.line(["RUN", "TIME", "REGION", "STATE", ""]);
        }
    }

    /// A region's state, and when.
    pub(super) fn region(&mut self, origin: &Origin, note: &Notification) {
        let place = &self.places[origin.regions[note.region]];
        let took = us(note.at.since(origin.began));
        if self.json {
            let mut event = head(["region", "flush"], place, origin.is_flush);
            event["run"] = origin.round.into();
            event["took_us"] = took.into();
            if !origin.is_flush {
                event["indeterminate"] = note.indeterminate.into();
            }
            add_state(&mut event, note.state);
            return self.event(&event);
        }
        let (run, time) = (origin.round.to_string(), microseconds(took));
        let (name, why) = name_and_why(place, origin.is_flush, why(note.state, note.indeterminate));
        self.line([&run, &time, &name, word(note.state), &why]);
    }

    /// What devices come to.
    pub(super) fn device(&mut self, event: &Event) {
        match event {
            Event::Late(late) => self.late(late),
            Event::Degraded(device) => {
                self.health(
                    *device,
                    "degraded",
                    "it owes too many answers: regions on it fail at once",
                );
            }
            Event::Healthy(device) => self.health(*device, "healthy", "regions on it are tried again"),
            Event::Region(_) | Event::MemoryFree(_) => {}
        }
    }

    fn late(&mut self, late: &Late) {
        let is_flush = late.op == Operation::Flush;
        let is_it = |region: &Region| region.device == late.device && (is_flush || region.range == late.range);
        let Some(place) = self.regions.iter().position(is_it).map(|at| &self.places[at]) else {
            return;
        };
        let state = late.result.map_or_else(RegionState::Error, |()| RegionState::Ok);
        if self.json {
            let mut event = head(["late", "late_flush"], place, is_flush);
            event["after_us"] = us(late.after).into();
            add_state(&mut event, state);
            return self.event(&event);
        }
        let after = microseconds(us(late.after));
        let result = match late.result {
            Ok(()) => "OK".to_owned(),
            Err(errno) => errno.to_string(),
        };
        let why = format!("the device answered {after} after it was given up: {result}");
        let (name, why) = name_and_why(place, is_flush, why);
        self.line(["-", "-", &name, "LATE", &why]);
    }

    fn health(&mut self, device: DeviceIndex, what: &str, why: &str) {
        let Some(at) = self.regions.iter().position(|region| region.device == device) else {
            return;
        };
        let image = self.places[at].image.display().to_string();
        match self.json {
            true => self.event(&json!({ "event": what, "image": image })),
            false => self.line(["-", "-", &image, &what.to_uppercase(), why]),
        }
    }

    /// A JSON document on a line of its own.
    pub(super) fn event(&mut self, event: &Value) {
        self.keep(print_json_line(event));
    }

    /// Of the cells RUN, TIME, REGION, STATE and why.
    fn line(&mut self, [run, time, name, state, why]: [&str; 5]) {
        let run = if self.repeats {
            format!("{run:>6}  ")
        } else {
            String::new()
        };
        let line = format!("{run}{time:>8}  {name:width$}  {state:9}  {why}", width = self.width);
        self.keep(print(&format!("{}\n", line.trim_end())));
    }

    fn keep(&mut self, printed: Result<(), Failure>) {
        self.failure = self.failure.take().or(printed.err());
    }
}

/// What each event of a region, or of its image's flush, says.
fn head([of_region, of_flush]: [&str; 2], place: &Place, is_flush: bool) -> Value {
    let image = place.image.to_string_lossy();
    match is_flush {
        true => json!({ "event": of_flush, "image": image }),
        false => json!({
            "event": of_region,
            "image": image,
            "start_bytes": place.start_bytes,
            "length_bytes": place.len_bytes,
        }),
    }
}

/// The cells of a region, or of its image's flush.
fn name_and_why(place: &Place, is_flush: bool, why: String) -> (String, String) {
    let image = || place.image.display().to_string();
    match (is_flush, &*why) {
        (false, _) => (place.to_string(), why),
        (true, "") => (image(), "flushed".into()),
        (true, why) => (image(), format!("flush: {why}")),
    }
}

fn add_state(event: &mut Value, state: RegionState) {
    event["state"] = word(state).to_lowercase().into();
    match state {
        RegionState::Ok | RegionState::Timeout => {}
        RegionState::Cancelled(Cancelled { reason, never_started }) => {
            event["reason"] = format!("{reason:?}").to_lowercase().into();
            event["never_started"] = never_started.into();
        }
        RegionState::Error(errno) => {
            event["errno"] = errno.raw_os_error().into();
            event["error"] = errno.to_string().into();
        }
    }
}

fn word(state: RegionState) -> &'static str {
    match state {
        RegionState::Ok => "OK",
        RegionState::Timeout => "TIMEOUT",
        RegionState::Cancelled(_) => "CANCELLED",
        RegionState::Error(_) => "ERROR",
    }
}

/// What there is to be said about a state.
fn why(state: RegionState, indeterminate: bool) -> String {
    match state {
        RegionState::Ok if indeterminate => "indeterminate: a write that was given up may be changing it".into(),
        RegionState::Ok => String::new(),
        RegionState::Timeout => "it goes on".into(),
        RegionState::Cancelled(Cancelled { reason, never_started }) => {
            let reason = match reason {
                Reason::Handle => "on demand",
                Reason::Device => "with all on its device",
                Reason::Timeout => "at the timeout",
                Reason::Unneeded => "another one was read",
            };
            let whereabouts = match never_started {
                true => "it never started",
                false => "the device has it",
            };
            format!("{reason}; {whereabouts}")
        }
        RegionState::Error(errno) => errno.to_string(),
    }
}

fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_say_why() {
        let cancelled = |reason, never_started| RegionState::Cancelled(Cancelled { reason, never_started });
        for (state, says) in [
            (RegionState::Ok, ""),
            (RegionState::Timeout, "it goes on"),
            (cancelled(Reason::Timeout, false), "at the timeout; the device has it"),
            (cancelled(Reason::Handle, true), "on demand; it never started"),
            (
                cancelled(Reason::Unneeded, true),
                "another one was read; it never started",
            ),
        ] {
            assert_eq!(why(state, false), says);
        }
        assert!(why(RegionState::Ok, true).starts_with("indeterminate"));
    }

    #[test]
    fn a_flush_is_told_of_an_image() {
        let place = Place::parse("a.img@4k".into()).unwrap();
        let told = |is_flush, why: &str| name_and_why(&place, is_flush, why.to_owned());
        assert_eq!(told(false, ""), ("a.img@4096+4096".into(), String::new()));
        assert_eq!(told(true, ""), ("a.img".into(), "flushed".into()));
        assert_eq!(told(true, "it goes on"), ("a.img".into(), "flush: it goes on".into()));
        assert_eq!(
            head(["late", "late_flush"], &place, true),
            json!({ "event": "late_flush", "image": "a.img" })
        );
    }

    #[test]
    fn programs_get_states_in_small_letters() {
        let mut event = json!({});
        let reason = Reason::Device;
        add_state(
            &mut event,
            RegionState::Cancelled(Cancelled {
                reason,
                never_started: true,
            }),
        );
        assert_eq!(
            event,
            json!({ "state": "cancelled", "reason": "device", "never_started": true })
        );
    }
}
