//! The exports of a server, as its threads see them.

use std::sync::Arc;

use iomgr_core::Device;
use iomgr_core::manager::ManagedDevice;

use crate::proto::{Catalog, ExportFacts, ExportId};

/// A device under a name.
#[derive(Clone, Debug)]
pub struct Export {
    /// What clients ask for, at most 4096 bytes. The export that a server has had the longest is also the one for the empty
    /// name.
    pub name: String,
    /// For people, at most 4096 bytes; may be empty.
    pub description: String,
    /// What is served. One device has one export.
    pub device: Arc<dyn Device>,
    /// The device as I/O request managers know it.
    pub managed: Arc<ManagedDevice>,
}

/// An export, and where it is found.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: ExportId,
    /// Its lane, on each thread. No two exports have the same at a time.
    pub(crate) lane: usize,
    pub(crate) export: Arc<Export>,
}

/// The exports that clients can choose, until the next change. Threads share it, and get another one then.
#[derive(Debug)]
pub(crate) struct ExportTable {
    /// In the order of their numbers.
    listed: Vec<Listed>,
    payload_max: u32,
}

impl ExportTable {
    pub(crate) fn new(listed: Vec<Listed>, payload_max: u32) -> Self {
        Self { listed, payload_max }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listed> {
        self.listed.iter()
    }

    /// The lane of an export that is there.
    pub(crate) fn lane(&self, id: ExportId) -> Option<usize> {
        self.get(id).map(|listed| listed.lane)
    }

    fn get(&self, id: ExportId) -> Option<&Listed> {
        self.iter().find(|listed| listed.id == id)
    }
}

impl Catalog for ExportTable {
    fn count(&self) -> usize {
        self.listed.len()
    }

    fn next(&self, from: ExportId) -> Option<ExportId> {
        self.iter().map(|listed| listed.id).find(|id| *id >= from)
    }

    fn name(&self, id: ExportId) -> Option<&str> {
        self.get(id).map(|listed| listed.export.name.as_str())
    }

    fn description(&self, id: ExportId) -> Option<&str> {
        self.get(id).map(|listed| listed.export.description.as_str())
    }

    fn facts(&self, id: ExportId) -> Option<ExportFacts> {
        let limits = self.get(id)?.export.device.limits();
        Some(ExportFacts::of_device(&limits, self.payload_max))
    }
}
