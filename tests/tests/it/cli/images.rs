//! Images by other people's tools, and hostile ones, through the command line.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use iomgr_tests::server::{Outcome, Starting};
use iomgr_tests::{Process, TempDir, Tool, need, product, wait};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Content larger than this is not read whole: the disks of 127 GiB and more have no checksum either.
const CONTENT_MAX: u64 = 4 << 30;

/// Every fixed and dynamic image gives the content that all right readers agree on; differencing ones are refused.
#[test]
fn cli_images_by_other_tools_give_their_content() {
    let Some(folder) = need::shared_images() else { return };
    if !need::tools(&["xz"]) {
        return;
    }
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Vec<Value> = serde_json::from_str(&manifest).unwrap();
    let images: Vec<&Value> = manifest.iter().filter(|entry| entry["type"].is_string()).collect();
    assert!(images.len() > 20, "the manifest lists {} images", images.len());
    let wrong: Vec<String> = images
        .iter()
        .filter_map(|entry| look_at(&folder, entry).err())
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        images.len(),
        wrong.join("\n")
    );
}

fn look_at(folder: &Path, entry: &Value) -> Result<(), String> {
    let dir = TempDir::new();
    let name = entry["file"].as_str().unwrap();
    let image = dir.join("image.vhd");
    let stored = entry["stored"].as_str().unwrap_or(name);
    unpack(&folder.join(stored), &image);
    let raw = dir.join("image.raw");
    let convert = || Tool::iomgr().arg("convert").arg(&image).arg(&raw).end();
    if entry["type"] == "differencing" {
        let ended = convert();
        let clear = ended.code == Some(1) && ended.stderr.contains("differencing");
        return clear
            .then_some(())
            .ok_or_else(|| format!("{name}: not refused clearly: {ended:?}"));
    }
    let info = Tool::iomgr().arg("info").arg(&image).arg("--json").end();
    let size = entry["current_size"].as_u64().unwrap();
    if info.code != Some(0) || !info.stdout.contains(&size.to_string()) {
        return Err(format!("{name}: its size is {size}, info says {info:?}"));
    }
    let Some(expected) = entry["content_sha256"].as_str().filter(|_| size <= CONTENT_MAX) else {
        return Ok(());
    };
    let ended = convert();
    if ended.code != Some(0) {
        return Err(format!("{name}: {ended:?}"));
    }
    let found = sha256(&raw);
    if found == expected {
        Ok(())
    } else {
        Err(format!("{name}: content {found}, expected {expected}"))
    }
}

fn unpack(stored: &Path, image: &Path) {
    if stored.extension().is_some_and(|extension| extension == "xz") {
        let script = r#"exec xz -dc "$1" >"$2""#;
        Tool::new("sh").args(["-c", script, "sh"]).arg(stored).arg(image).run();
    } else {
        fs::copy(stored, image).unwrap();
    }
}

fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut bytes).unwrap();
        if count == 0 {
            break;
        }
        hash.update(&bytes[..count]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each hostile image of a fixed or dynamic type gets the answer of the list: opens, is refused with a message, or
/// opens for reading only. Nothing hangs, panics or allocates what a header claims.
#[test]
fn cli_hostile_images_get_their_answer() {
    let Some(folder) = need::shared_images() else { return };
    if !need::tools(&["python3"]) {
        return;
    }
    let dir = TempDir::new();
    let script = folder.join("hostile/make_hostile.py");
    let list = Tool::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .arg(dir.path())
        .run();
    let cases: Vec<Case> = list.lines().filter_map(|line| Case::new(dir.path(), line)).collect();
    assert!(cases.len() > 50, "the generator made {} images", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.judge(dir.path()).err()).collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

struct Case {
    image: PathBuf,
    expect: String,
    what: String,
}

impl Case {
    /// `NAME<TAB>EXPECT<TAB>WHAT`; the generator may put the file's extension into the name.
    fn new(dir: &Path, line: &str) -> Option<Case> {
        let mut fields = line.split('\t');
        let (name, expect, what) = (fields.next()?, fields.next()?, fields.next()?);
        let image = [dir.join(name), dir.join(format!("{name}.vhd"))]
            .into_iter()
            .find(|path| path.is_file())?;
        Some(Case {
            image,
            expect: expect.to_owned(),
            what: what.to_owned(),
        })
    }

    /// `ok`: can be read and written; `warn`: can be read; `ro`: can be read and must not be written; `err`: neither.
    fn judge(&self, dir: &Path) -> Result<(), String> {
        // A chain's child is refused as differencing until chains are there, whatever is wrong or right with it.
        let expect = if self.is_differencing() {
            "err"
        } else {
            self.expect.as_str()
        };
        let readable = self.converts(&dir.join("converted.raw"))?;
        let writable = self.is_served_for_writing(dir)?;
        let right = match expect {
            "ok" => readable && writable,
            "warn" => readable,
            "ro" => readable && !writable,
            "err" => !readable && !writable,
            other => return Err(self.complaint(&format!("has the unknown answer {other}"))),
        };
        let found = format!("readable: {readable}, writable: {writable}");
        right.then_some(()).ok_or_else(|| self.complaint(&found))
    }

    /// Whether a server takes it and would write to it.
    fn is_served_for_writing(&self, dir: &Path) -> Result<bool, String> {
        match Starting::new::<&str>(&dir.join("run"), &self.image, &[]).wait(wait::PATIENCE) {
            Outcome::Ready(server) => {
                let writable = server.ready()["device"]["read_only"] == false;
                server.stop();
                Ok(writable)
            }
            Outcome::Ended(ended) if ended.code == Some(1) => Ok(false),
            other => Err(self.complaint(&format!("makes a server {other:?}"))),
        }
    }

    fn is_differencing(&self) -> bool {
        let mut footer = [0; 64];
        let read = File::open(&self.image).and_then(|mut file| file.read_exact(&mut footer));
        read.is_ok() && footer.starts_with(b"conectix") && footer[60..64] == [0, 0, 0, 4]
    }

    /// Whether all of it can be read, with little memory; a signal or a panic is a complaint.
    fn converts(&self, raw: &Path) -> Result<bool, String> {
        let script = r#"ulimit -v 2097152; exec "$@""#;
        let tool = Tool::new("sh").args(["-c", script, "sh"]).arg(product::path());
        let tool = tool.arg("convert").arg(&self.image).arg(raw).arg("--force");
        let process = Process::start(tool, Stdio::null(), Stdio::null());
        let ended = process
            .ended_within(wait::PATIENCE)
            .ok_or_else(|| self.complaint("hangs"))?;
        match ended.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(self.complaint(&format!("ends convert by {ended}"))),
        }
    }

    fn complaint(&self, how: &str) -> String {
        format!(
            "{} {how}; expected {}: {}",
            self.image.display(),
            self.expect,
            self.what
        )
    }
}
