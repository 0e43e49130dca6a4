//! apt with lists, cache and sources of its own: the machine's are read and never changed, and no privilege is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cmd;

/// Signs all of Debian's archives, those of later releases included.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One set of sources and what apt knows of it.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    /// A list of our own instead of the machine's.
    sources: Option<PathBuf>,
    /// What is taken to be installed, instead of what is.
    status: Option<PathBuf>,
}

/// What dpkg knows of the packages of this machine, a paragraph for each.
const STATUS: &str = "/var/lib/dpkg/status";

impl Apt {
    /// What the machine's own sources offer now.
    pub(super) fn of_machine(folder: &Path) -> Result<Apt> {
        Apt::updated(folder.join("machine"), None, None)
    }

    /// What another suite offers, at the address where this machine gets its own release from.
    pub(super) fn of_suite(folder: &Path, suite: &str) -> Result<Apt> {
        let mirror = Apt::of_machine(folder)?.mirror()?;
        let folder = folder.join(suite);
        fs::create_dir_all(&folder)?;
        let sources = folder.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        Apt::updated(folder, Some(sources), None)
    }

    /// What the machine's own sources offer to a machine like this one, but without the packages of some source packages.
    pub(super) fn as_if_without(sources: &[&str], folder: &Path) -> Result<Apt> {
        let folder = folder.join(format!("without-{}", sources.join("-")));
        fs::create_dir_all(&folder)?;
        let status = folder.join("status");
        fs::write(&status, without(sources, &fs::read_to_string(STATUS)?))?;
        Apt::updated(folder, None, Some(status))
    }

    fn updated(folder: PathBuf, sources: Option<PathBuf>, status: Option<PathBuf>) -> Result<Apt> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("archives/partial"))?;
        let apt = Apt {
            folder,
            sources,
            status,
        };
        cmd::capture(apt.command("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    /// All packages whose name matches.
    pub(super) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = cmd::capture(self.command("apt-cache").args(["search", "--names-only", pattern]))?;
        let names = found.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Loads the newest version of a package into an empty folder and returns the file.
    pub(super) fn download(&self, package: &str, to: &Path) -> Result<PathBuf> {
        fs::create_dir_all(to)?;
        println!("downloading {package}");
        cmd::capture(
            self.command("apt-get")
                .args(["-q", "download", package])
                .current_dir(to),
        )?;
        let file = fs::read_dir(to)?.next().ok_or("apt-get downloaded nothing")??;
        Ok(file.path())
    }

    /// Loads packages and all that they need and the machine has not; returns the files.
    pub(super) fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        println!("downloading {}", packages.join(" "));
        let archives = self.folder.join("archives");
        let mut install = self.command("apt-get");
        install.args(["-q", "-y", "--no-install-recommends", "--download-only", "install"]);
        cmd::capture(install.args(packages))?;
        let files = fs::read_dir(archives)?.map(|entry| Ok(entry?.path()));
        let files: Result<Vec<_>> = files.collect();
        Ok(files?
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "deb"))
            .collect())
    }

    /// The address that this machine gets its own release from.
    fn mirror(&self) -> Result<String> {
        let format = ["--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"];
        let targets = cmd::capture(self.command("apt-get").arg("indextargets").args(format))?;
        let release = fs::read_to_string("/etc/os-release")?;
        of_release(&targets, &release).ok_or_else(|| "apt's sources do not name the release of this machine".into())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        let mut set = |name: &str, value: &str| {
            command.args(["-o", &format!("{name}={value}")]);
        };
        let folder = self.folder.to_string_lossy();
        set("Dir::State", &folder);
        set("Dir::Cache", &folder);
        set("Acquire::Languages", "none");
        // Its own user could not write into our folder.
        set("APT::Sandbox::User", "root");
        if let Some(sources) = &self.sources {
            set("Dir::Etc::SourceList", &sources.to_string_lossy());
            set("Dir::Etc::SourceParts", "-");
        }
        if let Some(status) = &self.status {
            set("Dir::State::status", &status.to_string_lossy());
        }
        command
    }
}

/// Unpacks a package's files.
pub(super) fn unpack(package: &Path, to: &Path) -> Result {
    cmd::capture(Command::new("dpkg-deb").arg("--extract").arg(package).arg(to)).map(drop)
}

/// A status without the packages that were built from `sources`.
fn without(sources: &[&str], status: &str) -> String {
    let from = |paragraph: &str| {
        let field = |name: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        };
        let source = field("Source:").or_else(|| field("Package:"));
        source.is_some_and(|source| sources.contains(&source))
    };
    let others = status.split("\n\n").filter(|paragraph| !from(paragraph));
    others.collect::<Vec<_>>().join("\n\n")
}

/// The address of the release that `os-release` names, or of the one that sources call by its role.
fn of_release(targets: &str, os_release: &str) -> Option<String> {
    let codename = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let of = |wanted: &str| {
        let mut targets = targets.lines().filter_map(|line| line.split_once(' '));
        targets
            .find(|(release, _)| *release == wanted)
            .map(|(_, address)| address.to_owned())
    };
    of(codename.trim_matches('"')).or_else(|| of("stable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_a_source_are_left_out_and_others_kept() {
        let status =
            "Package: qemu-utils\nSource: qemu (1:10)\n\nPackage: fio\n\nPackage: qemu\n\nPackage: x\nSource: y\n";
        assert_eq!(without(&["qemu"], status), "Package: fio\n\nPackage: x\nSource: y\n");
    }

    #[test]
    fn the_mirror_is_that_of_the_release_and_not_of_its_security_archive() {
        let targets = "bookworm-security mirror://b/security\nbookworm mirror://a/debian\n";
        let os_release = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(of_release(targets, os_release).as_deref(), Some("mirror://a/debian"));
        assert_eq!(of_release("sid mirror://a\n", os_release), None);
    }
}
