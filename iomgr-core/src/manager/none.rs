//! The manager that manages nothing.

use super::Manager;

/// The manager "none": current when no other is. Its hooks are absent, and intakes do not even call them.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoManager;

impl NoManager {
    /// Its name, which no other manager may take.
    pub const NAME: &str = "none";
}

impl Manager for NoManager {
    fn name(&self) -> &str {
        Self::NAME
    }
}
