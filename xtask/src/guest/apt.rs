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
}

impl Apt {
    /// What the machine's own sources offer now.
    pub(super) fn of_machine(folder: &Path) -> Result<Apt> {
        Apt::updated(folder.join("machine"), None)
    }

    /// What another suite offers, at the address where this machine gets its own release from.
    pub(super) fn of_suite(folder: &Path, suite: &str) -> Result<Apt> {
        let mirror = Apt::of_machine(folder)?.mirror()?;
        let folder = folder.join(suite);
        fs::create_dir_all(&folder)?;
        let sources = folder.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        Apt::updated(folder, Some(sources))
    }

    fn updated(folder: PathBuf, sources: Option<PathBuf>) -> Result<Apt> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("archives/partial"))?;
        let apt = Apt { folder, sources };
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
        command
    }
}

/// Unpacks a package's files.
pub(super) fn unpack(package: &Path, to: &Path) -> Result {
    cmd::capture(Command::new("dpkg-deb").arg("--extract").arg(package).arg(to)).map(drop)
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
    fn the_mirror_is_that_of_the_release_and_not_of_its_security_archive() {
        let targets = "bookworm-security mirror://b/security\nbookworm mirror://a/debian\n";
        let os_release = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(of_release(targets, os_release).as_deref(), Some("mirror://a/debian"));
        assert_eq!(of_release("sid mirror://a\n", os_release), None);
    }
}
