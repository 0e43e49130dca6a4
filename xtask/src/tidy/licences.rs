//! Every package that is built must be under a licence of the list.

use cargo_metadata::Metadata;

/// Licences under which code may be linked into a program under "MIT OR Apache-2.0" without more than a notice.
const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
];

/// Findings about packages whose licence is missing or not on the list.
pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let finding = |package: &cargo_metadata::Package| match &package.license {
        Some(text) if satisfied(text) => None,
        Some(text) => Some(format!("licence of {} {}: {text}", package.name, package.version)),
        None => Some(format!("{} {} states no licence", package.name, package.version)),
    };
    metadata.packages.iter().filter_map(finding).collect()
}

/// Whether the list satisfies an SPDX expression; `/` is the old way to write OR.
fn satisfied(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let verdict = any(&mut rest);
    verdict && rest.is_empty()
}

/// `all OR all …`
fn any(words: &mut &[&str]) -> bool {
    let mut verdict = all(words);
    while eat(words, "OR") {
        verdict |= all(words);
    }
    verdict
}

/// `one AND one …`
fn all(words: &mut &[&str]) -> bool {
    let mut verdict = one(words);
    while eat(words, "AND") {
        verdict &= one(words);
    }
    verdict
}

/// A name, a name WITH an exception, or an expression in parentheses.
fn one(words: &mut &[&str]) -> bool {
    if eat(words, "(") {
        let verdict = any(words);
        return eat(words, ")") && verdict;
    }
    let Some((&name, rest)) = words.split_first() else {
        return false;
    };
    *words = rest;
    if eat(words, "WITH") {
        let Some((exception, rest)) = words.split_first() else {
            return false;
        };
        *words = rest;
        return ALLOWED.contains(&format!("{name} WITH {exception}").as_str());
    }
    ALLOWED.contains(&name)
}

fn eat(words: &mut &[&str], word: &str) -> bool {
    let found = words.first() == Some(&word);
    if found {
        *words = &words[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough() {
        for text in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert!(satisfied(text), "{text}");
        }
        assert!(satisfied("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
    }

    #[test]
    fn every_part_of_an_and_counts() {
        for text in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR ISC) AND LGPL-2.1",
            "Apache-2.0 WITH Odd-exception",
            "",
            "(MIT",
        ] {
            assert!(!satisfied(text), "{text}");
        }
    }
}
