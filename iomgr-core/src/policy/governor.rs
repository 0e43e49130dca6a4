//! Who knows which policy a registry has, and changes it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limit::Limit;
use super::stack::Stack;
use super::{BadConfig, ManagerConfig, Policy, build};
use crate::manager::{self, Manager, NoManager, Registry};

/// Shows, sets and unsets the policy of a registry. A handle: clones govern together.
///
/// A manager that somebody registered by other means is left alone until a policy is set; it is shown by its name only.
#[derive(Clone, Debug)]
pub struct Governor {
    registry: Registry,
    current: Arc<Mutex<Option<Reign>>>,
}

/// A policy of ours that was made the registry's manager.
#[derive(Debug)]
struct Reign {
    /// The policy itself, or a stack of it and the valve.
    manager: Arc<dyn Manager>,
    policy: Arc<dyn Policy>,
    valve: Option<Arc<Limit>>,
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
    /// else, or if a limit below it is new or gone, it takes the current manager's place. Either way requests that wait are
    /// judged anew within a pass.
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

    fn set_locked(&self, current: &mut Option<Reign>, config: &ManagerConfig) -> Result<(), SetError> {
        config.check()?;
        if self.reigning(current).is_some_and(|reign| reign.reconfigure(config)) {
            self.registry.rejudge();
            return Ok(());
        }
        match Reign::new(config)? {
            Some(reign) => {
                self.registry.replace(Arc::clone(&reign.manager))?;
                *current = Some(reign);
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

    fn config_locked(&self, current: &Option<Reign>) -> Option<ManagerConfig> {
        match self.reigning(current) {
            Some(reign) => Some(reign.config()),
            None => (self.name() == NoManager::NAME).then(ManagerConfig::default),
        }
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Our policy, if it is still the registry's manager: it may have panicked, or somebody may have replaced it.
    fn reigning<'a>(&self, ours: &'a Option<Reign>) -> Option<&'a Reign> {
        let now = self.registry.current();
        ours.as_ref()
            .filter(|reign| std::ptr::addr_eq(Arc::as_ptr(&reign.manager), Arc::as_ptr(&now)))
    }

    fn end(&self, current: &mut Option<Reign>) -> Result<(), SetError> {
        let now = self.registry.current();
        if now.name() != NoManager::NAME {
            self.registry.unregister(&now)?;
        }
        *current = None;
        Ok(())
    }

    /// No step under this lock leaves it half changed, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Option<Reign>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reign {
    /// What is to reign by this configuration; `None` for "none".
    fn new(config: &ManagerConfig) -> Result<Option<Self>, BadConfig> {
        let Some(policy) = build(&config.policy)? else {
            return Ok(None);
        };
        let valve = config.limit.as_ref().map(|limit| Arc::new(Limit::new(limit)));
        let manager: Arc<dyn Manager> = match &valve {
            Some(valve) => Arc::new(Stack::new(Arc::clone(&policy), Arc::clone(valve))),
            None => Arc::clone(&policy) as _,
        };
        Ok(Some(Self { manager, policy, valve }))
    }

    /// Takes new parameters over; false, and nothing changed, if they are of something else.
    fn reconfigure(&self, config: &ManagerConfig) -> bool {
        if self.valve.is_some() != config.limit.is_some() || !self.policy.reconfigure(&config.policy) {
            return false;
        }
        if let (Some(valve), Some(limit)) = (&self.valve, &config.limit) {
            valve.tell(limit);
        }
        true
    }

    fn config(&self) -> ManagerConfig {
        ManagerConfig {
            policy: self.policy.config(),
            limit: self.valve.as_ref().map(|valve| valve.told()),
        }
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
