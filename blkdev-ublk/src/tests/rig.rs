//! A device in memory, served to a driver that is played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use iomgr_core::manager::Registry;
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::test_utils::MemDevice;
use iomgr_core::{Device, Limits, Operation, Wake, Waker};
use tqueue::EngineKind;

use crate::fake::{FakeDriver, Habits};
use crate::{Error, Recovery, Server, ServerConfig};

pub(super) const DEPTH: u16 = 4;
pub(super) const BUFFER_BYTES: u32 = 64 << 10;

/// What a device has that is nothing special.
pub(super) fn limits() -> Limits {
    MemDevice::new("disk", 1 << 20).limits()
}

/// What a test has around a server.
pub(super) struct Rig {
    pub(super) driver: FakeDriver,
    pub(super) device: Arc<MemDevice>,
    pub(super) manager: Arc<CountingManager>,
    pub(super) ends: Arc<Ends>,
    /// Queues of servers that died, which are never closed.
    lost_queues: AtomicU64,
    registry: Registry,
}

/// Hears of a device that ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    happened: Mutex<bool>,
    changed: Condvar,
}

impl Ends {
    /// Waits until it was woken.
    pub(super) fn wait(&self) {
        let minute = Duration::from_secs(60);
        let happened = self.happened.lock().unwrap();
        let waited = self.changed.wait_timeout_while(happened, minute, |happened| !*happened);
        assert!(!waited.unwrap().1.timed_out(), "nobody is told of the end");
    }
}

impl Wake for Ends {
    fn wake(&self) {
        *self.happened.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Rig {
    /// A device of a megabyte, a manager that counts.
    pub(super) fn new() -> Self {
        Self::of(MemDevice::new("disk", 1 << 20), Habits::default())
    }

    pub(super) fn of(device: MemDevice, habits: Habits) -> Self {
        let (registry, manager) = (Registry::new(), CountingManager::new("counting"));
        registry.register(manager.clone()).unwrap();
        Self {
            driver: FakeDriver::with(habits),
            device: Arc::new(device),
            manager,
            ends: Arc::default(),
            lost_queues: AtomicU64::new(0),
            registry,
        }
    }

    pub(super) fn config(&self) -> ServerConfig {
        ServerConfig {
            id: None,
            device: Arc::clone(&self.device) as Arc<dyn iomgr_core::Device>,
            managed: self.registry.attach("disk").unwrap(),
            queues: 1,
            depth: DEPTH,
            buffer_bytes: BUFFER_BYTES,
            unprivileged: false,
            recovery: Recovery::Reissue,
            mark: 77,
            zero_copy: false,
            queue: tqueue::Config {
                // The driver that is played needs no ring.
                engine: EngineKind::Sync,
                ..tqueue::Config::default()
            },
            on_end: Waker::new(Arc::clone(&self.ends) as Arc<dyn Wake>),
            watchdog: None,
        }
    }

    /// A device of that many queues.
    pub(super) fn start_queues(&self, queues: u16) -> Result<Server, Error> {
        let config = ServerConfig {
            queues,
            ..self.config()
        };
        Server::start_on(&self.driver, config)
    }

    pub(super) fn start(&self) -> Result<Server, Error> {
        Server::start_on(&self.driver, self.config())
    }

    /// A server that dies with a write on its way, as if it were killed; the write's tag.
    pub(super) fn killed(&self, config: ServerConfig) -> usize {
        let mut server = Server::start_on(&self.driver, config).unwrap();
        self.device.explode(Operation::Write);
        let tag = self.driver.send_write(0, 8, &[7; 512]);
        self.ends.wait();
        server.stop().unwrap_err();
        server.delete().unwrap_err();
        // The next one lives.
        self.device.explode(Operation::Discard);
        self.lost_queues.fetch_add(1, Ordering::Relaxed);
        tag
    }

    /// The next server, by any patience there is.
    pub(super) fn recover(&self, config: ServerConfig) -> Result<Server, Error> {
        Server::recover_on(&self.driver, 0, config, Duration::from_secs(60))
    }

    /// Ends a server that is well, and looks whether all is as it was.
    pub(super) fn end(self, mut server: Server) {
        server.stop().unwrap();
        server.delete().unwrap();
        self.assert_clean();
        self.manager.assert_over();
    }

    /// Likewise, where the hooks of another server before it were left in the middle of something.
    pub(super) fn end_recovered(self, mut server: Server) {
        server.stop().unwrap();
        server.delete().unwrap();
        self.assert_clean();
    }

    /// No device is left, nothing is open, and the driver has nothing to complain about.
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.driver.ids(), [0; 0], "all devices are deleted");
        assert_eq!(self.device.open_queues(), self.lost_queues.load(Ordering::Relaxed));
        self.driver.assert_content();
    }
}
