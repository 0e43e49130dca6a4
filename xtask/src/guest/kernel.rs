//! Stock Debian kernels: found by apt, unpacked once, kept below the target folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::apt::{self, Apt};
use crate::{Result, cmd};

/// A series of kernels, of which the newest that Debian has is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// 6.12, with ublk in copy mode, from the machine's own release
    #[default]
    #[value(name = "6")]
    Six,
    /// The newest 7.x, from Debian's backports
    #[value(name = "7")]
    Seven,
}

/// Where kernels of series 7 come from, whatever release the machine has.
const BACKPORTS: &str = "trixie-backports";

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) image: PathBuf,
    /// The folder with `lib/modules`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The newest one that was unpacked before, else the newest that Debian has; `update` asks Debian in any case.
    pub(super) fn provide(series: Series, folder: &Path, update: bool) -> Result<Kernel> {
        let folder = folder.join("kernels");
        fs::create_dir_all(&folder)?;
        // Held until it is dropped: two runs at once unpack nothing twice.
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let kept = if update { None } else { series.newest(names(&folder)?) };
        let version = match kept {
            Some(version) => version,
            None => series
                .fetch(&folder)
                .map_err(|error| format!("no kernel for the guest: {error}"))?,
        };
        Kernel::unpacked(&folder.join(&version), version)
    }

    fn unpacked(folder: &Path, version: String) -> Result<Kernel> {
        // Since Debian 13, `/lib` is a link that no package has.
        let modules = [folder.to_path_buf(), folder.join("usr")];
        let modules = modules.into_iter().find(|base| base.join("lib/modules").is_dir());
        let modules = modules.ok_or_else(|| format!("{} has no modules", folder.display()))?;
        let images = [
            folder.join(format!("boot/vmlinuz-{version}")),
            modules.join(format!("lib/modules/{version}/vmlinuz")),
        ];
        let image = images.into_iter().find(|image| image.exists());
        let image = image.ok_or_else(|| format!("{} has no kernel image", folder.display()))?;
        Ok(Kernel {
            version,
            image,
            modules,
        })
    }
}

impl Series {
    /// Loads and unpacks the newest; returns its version, which is its folder's name as well.
    fn fetch(self, folder: &Path) -> Result<String> {
        let state = folder.with_file_name("apt");
        let apt = match self {
            Series::Six => Apt::of_machine(&state)?,
            Series::Seven => Apt::of_suite(&state, BACKPORTS)?,
        };
        let offered = apt.names(self.pattern())?;
        let version = self.newest(self.complete(&offered)).ok_or("Debian offers none")?;
        if folder.join(&version).exists() {
            return Ok(version);
        }
        let new = folder.join("new");
        let _ = fs::remove_dir_all(&new);
        for package in self.packages(&version) {
            apt::unpack(&apt.download(&package, &new.join(&package))?, &new.join("tree"))?;
        }
        let kernel = Kernel::unpacked(&new.join("tree"), version.clone())?;
        cmd::capture(
            Command::new(tool("depmod"))
                .arg("-b")
                .arg(&kernel.modules)
                .arg(&version),
        )?;
        fs::rename(new.join("tree"), folder.join(&version))?;
        fs::remove_dir_all(&new)?;
        Ok(version)
    }

    /// What apt is asked for, as an extended regular expression.
    fn pattern(self) -> &'static str {
        match self {
            Series::Six => r"^linux-image-6\.12\.[0-9.]+\+deb[0-9]+-cloud-amd64-unsigned$",
            Series::Seven => r"^linux-(binary|modules)-7\.[0-9.]+\+deb[0-9]+-cloud-amd64$",
        }
    }

    /// The packages of one kernel.
    fn packages(self, version: &str) -> Vec<String> {
        match self {
            Series::Six => vec![format!("linux-image-{version}-unsigned")],
            Series::Seven => vec![format!("linux-binary-{version}"), format!("linux-modules-{version}")],
        }
    }

    /// The versions of which all packages are offered.
    fn complete(self, offered: &[String]) -> Vec<String> {
        let version = |package: &String| {
            let (_, version) = package.trim_start_matches("linux-").split_once('-')?;
            Some(version.trim_end_matches("-unsigned").to_owned())
        };
        let complete = |version: &String| self.packages(version).iter().all(|package| offered.contains(package));
        offered.iter().filter_map(version).filter(complete).collect()
    }

    /// The newest version of this series.
    fn newest(self, versions: Vec<String>) -> Option<String> {
        let prefix: &[u32] = match self {
            Series::Six => &[6, 12],
            Series::Seven => &[7],
        };
        let ours = versions
            .into_iter()
            .filter(|version| numbers(version).starts_with(prefix));
        ours.max_by_key(|version| numbers(version))
    }
}

/// `6.12.117+deb12-cloud-amd64` → 6, 12, 117
fn numbers(version: &str) -> Vec<u32> {
    let upstream = version.split('+').next().unwrap_or_default();
    upstream.split('.').map_while(|number| number.parse().ok()).collect()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.filter_map(std::result::Result::ok);
    Ok(entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// Programs for administrators are not in every user's `PATH`.
pub(super) fn tool(program: &str) -> PathBuf {
    cmd::which(program).unwrap_or_else(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_newest_is_found_by_number() {
        let versions = owned(&[
            "6.12.9+deb12-cloud-amd64",
            "6.12.117+deb12-cloud-amd64",
            "7.0.1+deb13-cloud-amd64",
            "lock",
        ]);
        assert_eq!(
            Series::Six.newest(versions.clone()).as_deref(),
            Some("6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(
            Series::Seven.newest(versions).as_deref(),
            Some("7.0.1+deb13-cloud-amd64")
        );
        assert_eq!(Series::Seven.newest(owned(&["lock"])), None);
    }

    #[test]
    fn a_kernel_without_its_modules_is_not_offered() {
        let packages = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.0.4+deb13-cloud-amd64",
            "linux-modules-7.0.4+deb13-cloud-amd64",
        ];
        let versions = Series::Seven.complete(&owned(&packages));
        assert_eq!(
            Series::Seven.newest(versions).as_deref(),
            Some("7.0.4+deb13-cloud-amd64")
        );
    }
}
