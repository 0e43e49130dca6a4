//! An image of each kind that the product serves, with the ways to look at it from outside.

use std::fs;
use std::path::{Path, PathBuf};

use iomgr_tests::{Loop, Server, TempDir, Tool, wait};

/// What stands behind the served disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Raw,
    LoopDevice,
    FixedVhd,
    DynamicVhd,
}

/// An empty disk of one kind in a folder of its own.
#[derive(Debug)]
pub(crate) struct Disk {
    kind: Kind,
    size_bytes: u64,
    image: PathBuf,
    // Dropped in this order: the device is detached before its file goes.
    _device: Option<Loop>,
    pub(crate) dir: TempDir,
}

impl Disk {
    /// Makes the image, by the product where it is a VHD.
    pub(crate) fn new(kind: Kind, size_bytes: u64) -> Disk {
        let dir = TempDir::new();
        let file = dir.join(if kind.is_vhd() { "disk.vhd" } else { "disk.raw" });
        let size = size_bytes.to_string();
        let create = Tool::iomgr().arg("create").arg(&file).args(["--size", &size]);
        match kind {
            Kind::Raw | Kind::LoopDevice => fs::File::create(&file).unwrap().set_len(size_bytes).unwrap(),
            Kind::FixedVhd => drop(create.arg("--fixed").run()),
            Kind::DynamicVhd => drop(create.run()),
        }
        let device = (kind == Kind::LoopDevice).then(|| Loop::attach(&file));
        let image = device.as_ref().map_or(file, |device| device.path().to_owned());
        Disk {
            kind,
            size_bytes,
            image,
            _device: device,
            dir,
        }
    }

    /// The image, or the device.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// Serves it, with the sockets in its own folder.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        let format = ["--format", if self.kind.is_vhd() { "vhd" } else { "raw" }];
        Server::start(&self.dir.join("run"), &self.image, &[&format, args].concat())
    }

    /// Checks the closed image: our own `check`, and QEMU as the independent reader.
    pub(crate) fn holds(&self, expected: &Path) {
        let format = if self.kind.is_vhd() { "vpc" } else { "raw" };
        if self.kind.is_vhd() {
            self.is_valid();
            assert_eq!(
                self.qemu_info()["virtual-size"],
                self.size_bytes,
                "the size as QEMU reads it"
            );
        }
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", format])
            .arg(expected)
            .arg(&self.image)
            .run();
    }

    /// `iomgr check` finds nothing at all.
    pub(crate) fn is_clean(&self) {
        Tool::iomgr().arg("check").arg(&self.image).run();
    }

    /// `iomgr check` finds nothing worse than slots that nothing refers to: what was trimmed, or reserved by a server
    /// that was killed.
    pub(crate) fn is_valid(&self) {
        let mut ended = None;
        // The lock of a server that was killed goes when its last I/O has ended, which may be after its process.
        wait::until(|| {
            let ended = ended.insert(Tool::iomgr().arg("check").arg(&self.image).end());
            !ended.stderr.contains("in use")
        });
        let valid = ended.as_ref().is_some_and(|ended| matches!(ended.code, Some(0 | 3)));
        assert!(valid, "iomgr check: {ended:#?}");
    }

    /// What QEMU says of the image.
    pub(crate) fn qemu_info(&self) -> serde_json::Value {
        let format = if self.kind.is_vhd() { "vpc" } else { "raw" };
        Tool::new("qemu-img")
            .args(["info", "--output", "json", "-f", format])
            .arg(&self.image)
            .json()
    }
}

impl Kind {
    pub(crate) fn is_vhd(self) -> bool {
        matches!(self, Kind::FixedVhd | Kind::DynamicVhd)
    }
}

/// Whether the test is to take its long form.
pub(crate) fn soak() -> bool {
    std::env::var_os("IOMGR_SOAK").is_some()
}
