//! A server of either frontend, as those see it who wait for its end.

use vbd::{Error, Server, Stopper, UblkServer};

pub(super) trait Service: Sync {
    /// What the disks are called.
    fn names(&self) -> Vec<String>;
    /// Where they are found.
    fn place(&self) -> String;
    /// Does it answer?
    fn is_alive(&self) -> bool;
    fn stopper(&self) -> Stopper;
    /// Blocks until somebody asks for the end, or the frontend has failed.
    fn wait(&self) -> Result<(), Error>;
    /// Ends, in order.
    fn stop(self) -> Result<(), Error>;
}

impl Service for Server {
    fn names(&self) -> Vec<String> {
        self.disks().iter().map(|disk| disk.info().name).collect()
    }

    fn place(&self) -> String {
        self.uri()
    }

    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    fn stopper(&self) -> Stopper {
        self.stopper()
    }

    fn wait(&self) -> Result<(), Error> {
        self.wait()
    }

    fn stop(self) -> Result<(), Error> {
        self.stop()
    }
}

impl Service for UblkServer {
    fn names(&self) -> Vec<String> {
        vec![self.target().info().name]
    }

    fn place(&self) -> String {
        self.path().display().to_string()
    }

    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    fn stopper(&self) -> Stopper {
        self.stopper()
    }

    fn wait(&self) -> Result<(), Error> {
        // How it failed, the end tells.
        self.wait();
        Ok(())
    }

    fn stop(self) -> Result<(), Error> {
        self.stop()
    }
}
