//! Who knows which policy a registry has, and changes it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BadConfig, ManagerConfig, Policy, build};
use crate::manager::{self, Manager, Registry};

/// Shows, sets and unsets the policy of a registry. A handle: clones govern together.
///
/// A manager that somebody registered by other means is left alone until a policy is set; it is shown by its name only.
#[derive(Clone, Debug)]
pub struct Governor {
    registry: Registry,
    current: Arc<Mutex<Option<Arc<dyn Policy>>>>,
}

impl Governor {
    /// Governs this registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            current: Arc::default(),
        }
    }

    /// Makes this the policy. If it is the current one with other parameters, it takes them over and keeps what it knows;
    /// else it takes the current manager's place. Either way requests that wait are judged anew within a pass.
    pub fn set(&self, config: &ManagerConfig) -> Result<(), SetError> {
        self.set_locked(&mut self.lock(), config)
    }

    /// [Sets](Self::set) what `change` makes of the [current parameters](Self::config); nobody else sets any in between.
    pub fn update<E: From<SetError>>(
        &self,
        change: impl FnOnce(Option<ManagerConfig>) -> Result<ManagerConfig, E>,
    ) -> Result<(), E> {
        let mut current = self.lock();
        let config = change(self.config_locked(&current))?;
        Ok(self.set_locked(&mut current, &config)?)
    }

    fn set_locked(&self, current: &mut Option<Arc<dyn Policy>>, config: &ManagerConfig) -> Result<(), SetError> {
        config.check()?;
        let kept = self
            .reigning(current)
            .filter(|policy| policy.reconfigure(&config.policy));
        if kept.is_some() {
            self.registry.rejudge();
            return Ok(());
        }
        match build(&config.policy)? {
            Some(policy) => {
                self.registry.replace(Arc::clone(&policy) as Arc<dyn Manager>)?;
                *current = Some(policy);
            }
            None => self.end(current)?,
        }
        Ok(())
    }

    /// Goes back to "none". Refused if a manager of that name is asked for and another is current.
    pub fn unset(&self, name: Option<&str>) -> Result<(), SetError> {
        let mut current = self.lock();
        let now = self.registry.current();
        match name {
            Some(name) if name != now.name() => Err(SetError::NotCurrent {
                asked: name.to_owned(),
                current: now.name().to_owned(),
            }),
            _ => self.end(&mut current),
        }
    }

    /// The current manager's name.
    pub fn name(&self) -> String {
        self.registry.current().name().to_owned()
    }

    /// The current policy's parameters; `None` for a manager that is none of ours.
    pub fn config(&self) -> Option<ManagerConfig> {
        self.config_locked(&self.lock())
    }

    fn config_locked(&self, current: &Option<Arc<dyn Policy>>) -> Option<ManagerConfig> {
        let policy = match self.reigning(current) {
            Some(policy) => policy.config(),
            None if self.registry.current().name() == manager::NoManager::NAME => super::PolicyConfig::None,
            None => return None,
        };
        Some(ManagerConfig { policy, limit: None })
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Our policy, if it is still the registry's manager: it may have panicked, or somebody may have replaced it.
    fn reigning<'a>(&self, ours: &'a Option<Arc<dyn Policy>>) -> Option<&'a Arc<dyn Policy>> {
        let now = self.registry.current();
        ours.as_ref()
            .filter(|policy| std::ptr::addr_eq(Arc::as_ptr(policy), Arc::as_ptr(&now)))
    }

    fn end(&self, current: &mut Option<Arc<dyn Policy>>) -> Result<(), SetError> {
        let now = self.registry.current();
        if now.name() != manager::NoManager::NAME {
            self.registry.unregister(&now)?;
        }
        *current = None;
        Ok(())
    }

    /// No step under this lock leaves it half changed, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn Policy>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a policy was not set or unset. Nothing has changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetError {
    /// Its parameters make no sense.
    Config(BadConfig),
    /// The registry, or a device, does not take it.
    Manager(manager::Error),
    /// Another manager than the one that was asked for is current.
    NotCurrent {
        /// The one that was to be unset.
        asked: String,
        /// The current one.
        current: String,
    },
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(_) => f.write_str("the parameters make no sense"),
            Self::Manager(_) => f.write_str("the manager cannot be set"),
            Self::NotCurrent { asked, current } => {
                write!(f, "manager {asked} is not the current one, which is {current}")
            }
        }
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Manager(error) => Some(error),
            Self::NotCurrent { .. } => None,
        }
    }
}

impl From<BadConfig> for SetError {
    fn from(error: BadConfig) -> Self {
        Self::Config(error)
    }
}

impl From<manager::Error> for SetError {
    fn from(error: manager::Error) -> Self {
        Self::Manager(error)
    }
}
