//! Which exports a server has, and which of them come and go.
//!
//! ```text
//!  admit ─► Coming ─ serve ─► Served ─ retire ─► Going ─► remove
//!             ├─► remove                          ▲ │
//!             └─► keep ──► Stuck ───── retire ────┘ │
//!                            ▲───────────── keep ───┘
//! ```
//!
//! Only those that are served are in the [table](Roster::table) that clients choose from. A name, a device and a lane stay taken
//! until their export is removed: then no thread has anything of it any more.

use std::sync::Arc;

use crate::export::{Export, ExportTable, Listed};
use crate::proto::{ExportId, NAME_BYTES_MAX};
use crate::{Error, ErrorKind};

/// The exports of a server, as it changes them.
#[derive(Debug)]
pub(crate) struct Roster {
    /// In the order in which they came.
    entries: Vec<Entry>,
    next: ExportId,
    /// Exports at the same time.
    room: usize,
    payload_max: u32,
}

#[derive(Debug)]
struct Entry {
    listed: Listed,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its queues are being opened.
    Coming,
    Served,
    /// Somebody waits for its end.
    Going,
    /// Somebody has waited for its end in vain.
    Stuck,
}

impl Roster {
    pub(crate) fn new(room: usize, payload_max: u32) -> Self {
        Self {
            entries: Vec::new(),
            next: ExportId(0),
            room,
            payload_max,
        }
    }

    /// Takes an export in, which is not served yet.
    pub(crate) fn admit(&mut self, export: Export) -> Result<Listed, Error> {
        self.check(&export)?;
        let listed = Listed {
            id: self.next,
            lane: self.vacant_lane(),
            export: Arc::new(export),
        };
        self.next = self.next.after();
        self.entries.push(Entry {
            listed: listed.clone(),
            stage: Stage::Coming,
        });
        Ok(listed)
    }

    /// Its queues are open.
    pub(crate) fn serve(&mut self, id: ExportId) {
        self.set_stage(id, Stage::Served);
    }

    /// From now on the export is not served any more; its end is up to the caller.
    pub(crate) fn retire(&mut self, name: &str) -> Result<Listed, Error> {
        let named = |entry: &&mut Entry| entry.listed.export.name == name;
        let missing = || Error::new(ErrorKind::NotFound, format!("{name:?}"));
        let entry = self.entries.iter_mut().find(named).ok_or_else(missing)?;
        match entry.stage {
            Stage::Coming => Err(busy(name, "is being attached")),
            Stage::Going => Err(busy(name, "is being detached already")),
            Stage::Served | Stage::Stuck => {
                entry.stage = Stage::Going;
                Ok(entry.listed.clone())
            }
        }
    }

    /// An export that should have ended has not; it can be retired again.
    pub(crate) fn keep(&mut self, id: ExportId) {
        self.set_stage(id, Stage::Stuck);
    }

    /// No thread has anything of it any more.
    pub(crate) fn remove(&mut self, id: ExportId) {
        self.entries.retain(|entry| entry.listed.id != id);
    }

    /// What clients can choose from.
    pub(crate) fn table(&self) -> Arc<ExportTable> {
        let served = self.entries.iter().filter(|entry| entry.stage == Stage::Served);
        let listed = served.map(|entry| entry.listed.clone()).collect();
        Arc::new(ExportTable::new(listed, self.payload_max))
    }

    fn check(&self, export: &Export) -> Result<(), Error> {
        let bad = |text: String| Err(Error::new(ErrorKind::Config, text));
        if export.name.len().max(export.description.len()) > NAME_BYTES_MAX {
            return bad(format!("a name or description is longer than {NAME_BYTES_MAX} bytes"));
        }
        let others = || self.entries.iter().map(|entry| &entry.listed.export);
        if others().any(|other| other.name == export.name) {
            return bad(format!("two exports are called {:?}", export.name));
        }
        if others().any(|other| Arc::ptr_eq(&other.device, &export.device)) {
            return bad(format!("the device of export {:?} has another one", export.name));
        }
        if self.entries.len() >= self.room {
            return bad(format!(
                "the server has {} exports, for which it has made room at its start; detach one first",
                self.room
            ));
        }
        Ok(())
    }

    fn vacant_lane(&self) -> usize {
        let is_taken = |lane: &usize| self.entries.iter().any(|entry| entry.listed.lane == *lane);
        (0..self.room)
            .find(|lane| !is_taken(lane))
            .expect("there is a lane for each export that there is room for")
    }

    fn set_stage(&mut self, id: ExportId, stage: Stage) {
        let entry = self.entries.iter_mut().find(|entry| entry.listed.id == id);
        entry.expect("who changes an export has it in hand").stage = stage;
    }
}

fn busy(name: &str, what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{name:?} {what}"))
}

#[cfg(test)]
mod tests {
    use iomgr_core::manager::Registry;

    use super::*;
    use crate::proto::Catalog;
    use crate::test_utils::MemDevice;

    fn export(name: &str) -> Export {
        Export {
            name: name.to_owned(),
            description: String::new(),
            device: Arc::new(MemDevice::new(name, 4096)),
            managed: Registry::new().attach(name).unwrap(),
        }
    }

    fn add(roster: &mut Roster, name: &str) -> Listed {
        let listed = roster.admit(export(name)).unwrap();
        roster.serve(listed.id);
        listed
    }

    /// The names in their order, and the one for the empty name.
    fn seen(roster: &Roster) -> (Vec<String>, Option<String>) {
        let table = roster.table();
        let name = |id| table.name(id).unwrap().to_owned();
        let names = table.iter().map(|listed| name(listed.id)).collect();
        (names, table.find(b"").map(name))
    }

    #[test]
    fn lanes_are_used_again_and_numbers_are_not() {
        let mut roster = Roster::new(3, 1 << 20);
        let [a, b] = ["a", "b"].map(|name| add(&mut roster, name));
        assert_eq!(roster.retire("a").unwrap().lane, a.lane);
        assert_eq!(seen(&roster), (vec!["b".into()], Some("b".into())));
        let c = add(&mut roster, "c");
        roster.remove(a.id);
        let d = add(&mut roster, "d");
        assert_eq!([a.lane, b.lane, c.lane, d.lane], [0, 1, 2, 0]);
        assert!(a.id < b.id && b.id < c.id && c.id < d.id);
        assert_eq!(
            seen(&roster),
            (["b", "c", "d"].map(Into::into).into(), Some("b".into()))
        );
    }

    #[test]
    fn an_export_is_there_from_serve_to_retire() {
        let mut roster = Roster::new(3, 1 << 20);
        assert_eq!(seen(&roster), (vec![], None));
        let a = roster.admit(export("a")).unwrap();
        assert_eq!(seen(&roster), (vec![], None));
        assert_eq!(roster.retire("a").unwrap_err().kind(), ErrorKind::Busy);
        roster.serve(a.id);
        assert_eq!(seen(&roster).0, ["a"]);
        roster.retire("a").unwrap();
        assert_eq!(seen(&roster), (vec![], None));
        assert_eq!(roster.retire("a").unwrap_err().kind(), ErrorKind::Busy);
        roster.keep(a.id);
        assert_eq!(roster.retire("a").unwrap().id, a.id);
        roster.remove(a.id);
        assert_eq!(roster.retire("a").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn names_devices_and_room_are_taken_until_the_export_is_removed() {
        let mut roster = Roster::new(2, 1 << 20);
        let a = add(&mut roster, "a");
        roster.retire("a").unwrap();
        let mut twin = export("b");
        twin.device = Arc::clone(&a.export.device);
        let refusals = [export("a"), twin].map(|export| roster.admit(export).unwrap_err().to_string());
        add(&mut roster, "c");
        let full = roster.admit(export("d")).unwrap_err().to_string();
        insta::assert_snapshot!([refusals.join("\n"), full].join("\n"), @r#"
        this cannot be served: two exports are called "a"
        this cannot be served: the device of export "b" has another one
        this cannot be served: the server has 2 exports, for which it has made room at its start; detach one first
        "#);
        roster.remove(a.id);
        add(&mut roster, "a");
    }
}
