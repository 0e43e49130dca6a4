//! Which crate may depend on which: `ARCHITECTURE.md`'s figure as a table. A new arrow is a change of architecture.

use cargo_metadata::{DependencyKind, Metadata, Package};

/// A crate, how far up it stands, and the crates of the workspace that its code may name.
struct Crate {
    name: &'static str,
    /// Test code may use anything that stands lower.
    level: u8,
    may_use: &'static [&'static str],
}

const fn krate(name: &'static str, level: u8, may_use: &'static [&'static str]) -> Crate {
    Crate { name, level, may_use }
}

const CRATES: &[Crate] = &[
    krate("iomgr", 5, &["vbd"]),
    krate("iomgr-tests", 5, &["vbd"]),
    krate("xtask", 0, &[]),
    krate(
        "vbd",
        4,
        &[
            "iomgr-vhd",
            "dm-rq",
            "iomgr-dmio",
            "blkdev-ublk",
            "blkdev-nbd",
            "tqueue",
            "iomgr-core",
        ],
    ),
    krate("dm-rq", 3, &["iomgr-dmio", "iomgr-core"]),
    krate("iomgr-vhd", 2, &["iomgr-core"]),
    krate("iomgr-dmio", 2, &["tqueue", "iomgr-core"]),
    krate("blkdev-ublk", 2, &["tqueue", "iomgr-core"]),
    krate("blkdev-nbd", 2, &["tqueue", "iomgr-core"]),
    krate("tqueue", 1, &["iomgr-core"]),
    krate("iomgr-core", 0, &[]),
];

/// Packages from outside that only one crate may use.
const RESERVED: &[(&str, &str)] = &[("io-uring", "tqueue")];

/// Findings about arrows between crates, and about packages reserved for one crate.
pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let refused = if is_member(metadata, &dependency.name) {
                arrow(&package.name, &dependency.name, dependency.kind)
            } else {
                reserved(package, &dependency.name)
            };
            findings.extend(refused);
        }
    }
    findings
}

fn is_member(metadata: &Metadata, name: &str) -> bool {
    metadata
        .workspace_packages()
        .iter()
        .any(|package| *package.name == name)
}

/// Why `from` may not use `to`, if it may not.
fn arrow(from: &str, to: &str, kind: DependencyKind) -> Option<String> {
    let find = |name: &str| CRATES.iter().find(|krate| krate.name == name);
    let (Some(upper), Some(lower)) = (find(from), find(to)) else {
        return Some(format!(
            "arrow {from} -> {to}: one of them is not in the table of xtask/src/tidy/arrows.rs"
        ));
    };
    let allowed = match kind {
        // A crate's own tests turn on its own features by naming it.
        DependencyKind::Development => from == to || lower.level < upper.level,
        _ => upper.may_use.contains(&to),
    };
    (!allowed).then(|| format!("arrow {from} -> {to} ({kind}) is not in the architecture"))
}

fn reserved(package: &Package, dependency: &str) -> Option<String> {
    let (_, owner) = RESERVED.iter().find(|(name, _)| *name == dependency)?;
    (*package.name != *owner).then(|| format!("{} uses {dependency}, which only {owner} may", package.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_may_use_what_the_table_names() {
        assert_eq!(arrow("iomgr", "vbd", DependencyKind::Normal), None);
        assert_eq!(arrow("iomgr-vhd", "iomgr-core", DependencyKind::Normal), None);
    }

    #[test]
    fn code_may_not_reach_past_or_up() {
        assert!(arrow("iomgr", "tqueue", DependencyKind::Normal).is_some());
        assert!(arrow("iomgr-vhd", "tqueue", DependencyKind::Normal).is_some());
        assert!(arrow("blkdev-nbd", "iomgr-vhd", DependencyKind::Normal).is_some());
        assert!(arrow("iomgr-core", "vbd", DependencyKind::Build).is_some());
    }

    #[test]
    fn test_code_may_use_anything_lower_and_nothing_upper() {
        assert_eq!(arrow("iomgr-vhd", "tqueue", DependencyKind::Development), None);
        assert_eq!(arrow("iomgr-tests", "iomgr-core", DependencyKind::Development), None);
        assert_eq!(arrow("iomgr-core", "iomgr-core", DependencyKind::Development), None);
        assert!(arrow("tqueue", "iomgr-vhd", DependencyKind::Development).is_some());
        assert!(arrow("blkdev-nbd", "iomgr-vhd", DependencyKind::Development).is_some());
    }

    #[test]
    fn an_unknown_crate_is_a_finding() {
        assert!(arrow("newcomer", "vbd", DependencyKind::Normal).is_some());
    }
}
