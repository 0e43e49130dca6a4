//! A server of memory devices under test.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{Error, Export, Server, ServerConfig};
use iomgr_core::manager::Registry;
use iomgr_core::manager::test_utils::CountingManager;

use crate::client::Client;

/// A server with one export, called `disk`, whose requests pass a manager that checks the hooks.
pub(crate) struct TestServer {
    pub(crate) device: Arc<MemDevice>,
    pub(crate) manager: Arc<CountingManager>,
    pub(crate) registry: Registry,
    pub(crate) server: Option<Server>,
    pub(crate) socket: PathBuf,
    _dir: tempfile::TempDir,
}

pub(crate) const MIB: u32 = 1 << 20;

impl TestServer {
    /// 64 MiB of memory, and everything else as by default.
    pub(crate) fn new() -> Self {
        Self::with(MemDevice::new("disk", 64 << 20), |_| ())
    }

    pub(crate) fn with(device: MemDevice, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start(device, CountingManager::new("counting"), change).unwrap()
    }

    pub(crate) fn start(
        device: MemDevice,
        manager: Arc<CountingManager>,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Result<Self, Error> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let registry = Registry::new();
        registry.register(manager.clone()).unwrap();
        let device = Arc::new(device);
        let export = Export {
            name: "disk".to_owned(),
            description: "for tests".to_owned(),
            device: device.clone(),
            managed: registry.attach("disk").unwrap(),
        };
        let mut config = ServerConfig::new(UnixListener::bind(&socket).unwrap(), vec![export]);
        change(&mut config);
        let server = Some(Server::start(config)?);
        Ok(Self {
            device,
            manager,
            registry,
            server,
            socket,
            _dir: dir,
        })
    }

    /// A client that has chosen the export.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.raw_client();
        client.go("disk");
        client
    }

    /// A client that has chosen the export, structured replies and `base:allocation`.
    pub(crate) fn structured_client(&self) -> Client {
        let mut client = self.raw_client();
        client.go_structured("disk");
        client
    }

    /// A client that has said nothing yet.
    pub(crate) fn raw_client(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// Stops the server and checks that nothing was left behind.
    pub(crate) fn stop(mut self) {
        self.server.take().unwrap().stop().unwrap();
        assert_eq!(self.device.open_queues(), 0);
        self.manager.assert_quiet();
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket.display())
    }
}

impl Drop for TestServer {
    /// A test that fails while the device is held must not hang as well.
    fn drop(&mut self) {
        self.device.release();
    }
}
