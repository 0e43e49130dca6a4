//! How a request is run.

bitflags::bitflags! {
    /// Modifiers of a request to regions.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct IoFlags: u8 {
        /// Return when every region is over.
        const SYNC = 1 << 0;
        /// At the timeout, cancel what still runs, instead of only saying so.
        const CANCEL_ON_TIMEOUT = 1 << 1;
        /// Fail rather than wait for memory of the pool.
        const NOWAIT = 1 << 2;
    }
}
