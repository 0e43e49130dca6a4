//! io_uring, the synchronous engine and the model: the same bytes and results, in memory and on a disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use iomgr_core::{FileHandle, OpError};
use tqueue::{Config, EngineKind, ErrorKind, Features, Queue};

use crate::budget::for_seeds;
use crate::driver::{Driver, Place, Results};
use crate::model::Model;
use crate::script::{Script, Spec, Style};

/// Seeds that once failed.
const KEPT: &[u64] = &[];

#[test]
fn engines_do_what_the_model_does_in_memory() {
    let dir = Path::new("/dev/shm");
    if !is_in_memory(dir) {
        println!("skipped: /dev/shm is no tmpfs");
        return;
    }
    let style = Style {
        flush_every: 12,
        ops_max: 4096,
        first_id: 1,
    };
    let test = "engines_do_what_the_model_does_in_memory";
    for_seeds(test, KEPT, |seed| run(seed, dir, style));
}

#[test]
fn engines_do_what_the_model_does_on_a_disk() {
    let dirs = [
        env!("CARGO_TARGET_TMPDIR").into(),
        std::env::temp_dir(),
        PathBuf::from("/var/tmp"),
    ];
    let Some(dir) = dirs.into_iter().find(|dir| dir.is_dir() && !is_in_memory(dir)) else {
        println!("skipped: no folder on a disk");
        return;
    };
    // A disk takes its time to flush.
    let style = Style {
        flush_every: 400,
        ops_max: 1024,
        first_id: 1,
    };
    let test = "engines_do_what_the_model_does_on_a_disk";
    for_seeds(test, KEPT, |seed| run(seed, &dir, style));
}

fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|system| system.f_type == 0x0102_1994)
}

/// Runs the seed's script on both engines; says how many ops that were.
fn run(seed: u64, dir: &Path, style: Style) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let script = Script::random(&mut rng, style);
    let mask = Features::from_bits_truncate(rng.u32(..) & rng.u32(..));
    let engines = [(EngineKind::Sync, Features::empty()), (EngineKind::Uring, mask)];
    let mut outcomes = Vec::new();
    for (engine, mask) in engines {
        let config = Config {
            engine,
            mask,
            ..script.config()
        };
        outcomes.extend(run_on(&config, &script, dir));
    }
    if let [sync, ring] = &outcomes[..]
        && script.is_certain()
    {
        assert_eq!(sync.0, ring.0, "results differ");
        assert!(sync.1 == ring.1, "bytes differ");
    }
    script.ops() * outcomes.len() as u64
}

/// Runs a script; `None` where this machine has no io_uring for us.
fn run_on(config: &Config, script: &Script, dir: &Path) -> Option<(Results, Vec<Vec<u8>>)> {
    let queue = match Queue::new(config) {
        Err(error) if [ErrorKind::Unsupported, ErrorKind::Denied].contains(&error.kind()) => {
            println!("skipped: {error}");
            return None;
        }
        made => made.unwrap(),
    };
    let report = OnPanic(format!("on {}", queue.info()));
    let files: Vec<File> = (0..script.files).map(|_| tempfile::tempfile_in(dir).unwrap()).collect();
    let handles = files
        .iter()
        .map(|file| FileHandle::new(file.try_clone().unwrap()))
        .collect();
    let models = vec![Model::new(None, true); script.files];
    let mut driver = Driver::new(script, queue, handles, models, Healthy);
    script.steps.iter().for_each(|step| driver.step(step));
    driver.drain();
    driver.check_counters();
    let contents: Vec<Vec<u8>> = files.iter().map(content).collect();
    for (model, content) in driver.models.iter().zip(&contents) {
        model.check(content);
    }
    std::mem::drop(report);
    Some((driver.results, contents))
}

fn content(file: &File) -> Vec<u8> {
    let len = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Nothing fails here.
struct Healthy;

impl Place for Healthy {
    fn excuses(&mut self, _: &Spec, _: OpError) -> bool {
        false
    }

    fn unstick(&mut self, queue: &Queue) {
        panic!("ops are outstanding, and none has ended: {}", queue.dump());
    }
}

/// Says this when a run panics.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}
