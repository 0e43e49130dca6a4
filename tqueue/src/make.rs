//! How a queue is made: everything that it will ever need is allocated here.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;

use crate::buf::Arena;
use crate::config::{Config, EngineKind, Features, QueueInfo};
use crate::counters::Counters;
use crate::driver_buffers::DriverBuffers;
use crate::engine::Engine;
use crate::fifo::Fifo;
use crate::files::Files;
use crate::filter::Chain;
use crate::inflight::Inflight;
use crate::net::Sends;
use crate::plan::Plan;
use crate::queue::{Bounds, Load};
use crate::raw::Commands;
use crate::ring::Ring;
use crate::stuck::Watch;
use crate::sync::SyncEngine;
use crate::{Error, Queue};

impl Queue {
    /// Makes a queue; everything that it will ever need is allocated here.
    pub fn new(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let mut notes = Vec::new();
        match &config.engine {
            EngineKind::Uring => Self::on_ring(config, notes),
            EngineKind::Sync => Self::on_calls(config, notes),
            EngineKind::Auto => Self::on_ring(config, Vec::new()).or_else(|error| {
                if !error.is_about_the_kernel() {
                    return Err(error);
                }
                tracing::warn!(%error, "engine_fallback: using the synchronous engine");
                notes.push(format!("the synchronous engine is used because {error}"));
                Self::on_calls(config, notes)
            }),
            #[cfg(feature = "test-utils")]
            EngineKind::Sim(handle) => {
                let engine = Engine::Sim(crate::sim::SimEngine::new(handle));
                Self::assemble(
                    config,
                    engine,
                    Arena::new(config.arena_bytes, config.large_bytes, false)?.with_places(config.lent),
                    notes,
                )
            }
        }
    }

    fn on_ring(config: &Config, mut notes: Vec<String>) -> Result<Self, Error> {
        let arena = Arena::new(config.arena_bytes, config.large_bytes, true)?.with_places(config.lent);
        let ring = Ring::new(config, &arena, &mut notes)?;
        Self::assemble(config, Engine::Ring(ring), arena, notes)
    }

    fn on_calls(config: &Config, notes: Vec<String>) -> Result<Self, Error> {
        let engine = SyncEngine::new(config);
        let arena = Arena::new(config.arena_bytes, config.large_bytes, false)?.with_places(config.lent);
        Self::assemble(config, Engine::Sync(engine), arena, notes)
    }

    fn assemble(config: &Config, engine: Engine, arena: Arena, notes: Vec<String>) -> Result<Self, Error> {
        let timers = (config.net_ops + config.held_max()) as usize;
        let (disk, net) = (config.max_ops as usize, config.net_ops as usize);
        let (name, features) = match &engine {
            Engine::Ring(ring) => ("io_uring", ring.features()),
            Engine::Sync(_) => ("sync", Features::empty()),
            #[cfg(feature = "test-utils")]
            Engine::Sim(_) => ("sim", Features::empty()),
        };
        let mut queue = Self {
            engine,
            arena,
            ops: Inflight::new(config.max_ops + config.net_ops),
            disk: VecDeque::with_capacity(disk),
            filters: Chain::new(config)?,
            net: VecDeque::with_capacity(timers),
            cancels: VecDeque::with_capacity(disk + net),
            files: Files::new(config.files),
            drivers: DriverBuffers::new(config),
            sends: Sends::new(config.sends),
            commands: Commands::new(config.net_ops),
            done: Fifo::with_capacity(disk + net),
            counters: Counters::default(),
            plan: Plan::new(disk, config.plan),
            batch: Vec::with_capacity(disk),
            runs: Vec::with_capacity(config.plan.max_segments as usize),
            watch: Watch::new(config.stuck_after),
            told: Cell::new(None),
            load: Load::default(),
            bounds: Bounds {
                size: config.size,
                max_ops: config.max_ops,
                net_ops: config.net_ops,
                drain_max: config.drain_max,
            },
            hurry: false,
            info: QueueInfo {
                engine: name,
                features,
                notes,
                arena_bytes: config.arena_bytes + config.large_bytes,
                size: config.size,
            },
            not_send: PhantomData,
        };
        queue.open_zeros()?;
        Ok(queue)
    }
}
