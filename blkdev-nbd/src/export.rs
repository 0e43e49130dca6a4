//! The exports of a server.

use std::collections::HashSet;
use std::sync::Arc;

use iomgr_core::Device;
use iomgr_core::manager::ManagedDevice;

use crate::proto::{Catalog, ExportFacts, ExportId, NAME_BYTES_MAX};
use crate::{Error, ErrorKind};

/// A device under a name.
#[derive(Clone, Debug)]
pub struct Export {
    /// What clients ask for, at most 4096 bytes. The first export of a server is also the one for the empty name.
    pub name: String,
    /// For people, at most 4096 bytes; may be empty.
    pub description: String,
    /// What is served. One device has one export.
    pub device: Arc<dyn Device>,
    /// The device as I/O request managers know it.
    pub managed: Arc<ManagedDevice>,
}

/// The exports, checked, as all threads share them.
#[derive(Debug)]
pub(crate) struct ExportTable {
    exports: Vec<Export>,
    payload_max: u32,
}

impl ExportTable {
    pub(crate) fn new(exports: Vec<Export>, payload_max: u32) -> Result<Self, Error> {
        let bad = |text: String| Err(Error::new(ErrorKind::Config, text));
        let (mut names, mut devices) = (HashSet::new(), HashSet::new());
        for export in &exports {
            if export.name.len().max(export.description.len()) > NAME_BYTES_MAX {
                return bad(format!("a name or description is longer than {NAME_BYTES_MAX} bytes"));
            }
            if !names.insert(&export.name) {
                return bad(format!("two exports are called {:?}", export.name));
            }
            if !devices.insert(Arc::as_ptr(&export.device).cast::<()>()) {
                return bad(format!("the device of export {:?} has another one", export.name));
            }
        }
        if exports.is_empty() {
            return bad("there is no export".into());
        }
        Ok(Self { exports, payload_max })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Export> {
        self.exports.iter()
    }
}

impl Catalog for ExportTable {
    fn count(&self) -> usize {
        self.exports.len()
    }

    fn name(&self, id: ExportId) -> &str {
        &self.exports[id.0].name
    }

    fn description(&self, id: ExportId) -> &str {
        &self.exports[id.0].description
    }

    fn facts(&self, id: ExportId) -> ExportFacts {
        ExportFacts::of_device(&self.exports[id.0].device.limits(), self.payload_max)
    }
}
