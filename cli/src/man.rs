//! `iomgr man`: manual pages, made from what the command line itself says.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::{print, print_json};

const EXAMPLES: &str = "\
Examples:
  iomgr man | man -l -                        read the page of iomgr itself
  iomgr man convert | man -l -                and that of a verb
  iomgr man manager set wfq | man -l -        or of a verb's own verb
  iomgr man --out /usr/share/man/man1         write all of them, for a package";

/// Print a manual page, or write all of them
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Man {
    /// The verb, and its own where it has such; without one, iomgr itself
    #[arg(conflicts_with = "out")]
    verb: Vec<String>,
    /// Write all pages into this folder, which is made
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let pages = pages();
        match &self.out {
            Some(folder) => write_all(&pages, folder, json)?,
            None => self.print_one(&pages, json)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print_one(&self, pages: &[(String, String)], json: bool) -> Result<(), Failure> {
        let words = std::iter::once("iomgr").chain(self.verb.iter().map(String::as_str));
        let wanted = words.collect::<Vec<_>>().join("-");
        let Some((name, text)) = pages.iter().find(|(name, _)| *name == wanted) else {
            let what = format!("{wanted} has no page");
            return Err(Failure::new(what).hint("`iomgr --help` lists the verbs"));
        };
        match json {
            true => print_json(&json!({ "page": name, "text": text })),
            false => print(text),
        }
    }
}

fn write_all(pages: &[(String, String)], folder: &PathBuf, json: bool) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::new("cannot be made").at(folder).because(error))?;
    let mut paths = Vec::new();
    for (name, text) in pages {
        let path = folder.join(format!("{name}.1"));
        fs::write(&path, text).map_err(|error| Failure::new("cannot be written").at(&path).because(error))?;
        paths.push(path.to_string_lossy().into_owned());
    }
    match json {
        true => print_json(&json!({ "files": paths })),
        false => print(&(paths.join("\n") + "\n")),
    }
}

/// Every page, by name: `iomgr`, `iomgr-create`… `iomgr-dmio-read`…
fn pages() -> Vec<(String, String)> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let verbs: Vec<_> = cli.get_subcommands().map(|verb| full_name("iomgr", verb)).collect();
    let mut pages = vec![("iomgr".to_owned(), page(cli.clone(), "SEE ALSO", &references(&verbs)))];
    add_verbs(&cli, &["iomgr".to_owned()], &mut pages);
    pages
}

/// The pages of all verbs of `command`, which is the last of `parents`, and of theirs.
fn add_verbs(command: &Command, parents: &[String], pages: &mut Vec<(String, String)>) {
    for verb in command.get_subcommands() {
        let name = full_name(parents.last().expect("iomgr itself is the first"), verb);
        let text = page(
            verb.clone().display_name(name.clone()),
            "SEE ALSO",
            &references(parents),
        );
        pages.push((name.clone(), text));
        add_verbs(verb, &[parents, &[name]].concat(), pages);
    }
}

fn full_name(parent: &str, verb: &Command) -> String {
    format!("{parent}-{}", verb.get_name())
}

fn references(names: &[String]) -> String {
    let references = names.iter().map(|name| format!("{name}(1)"));
    references.collect::<Vec<_>>().join(", ")
}

/// One page: clap's sections, the examples as they are, and a last section.
fn page(command: Command, last: &str, text: &str) -> String {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_verbs = command.has_subcommands();
    let man = Page::new(command).source(concat!("iomgr ", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    let rendered = man
        .render_title(&mut out)
        .and_then(|()| man.render_name_section(&mut out))
        .and_then(|()| man.render_synopsis_section(&mut out))
        .and_then(|()| man.render_description_section(&mut out))
        .and_then(|()| man.render_options_section(&mut out))
        .and_then(|()| match has_verbs {
            true => man.render_subcommands_section(&mut out),
            false => Ok(()),
        })
        .and_then(|()| literal("EXAMPLES", examples.trim_start_matches("Examples:\n")).to_writer(&mut out))
        .and_then(|()| section(last, text).to_writer(&mut out));
    rendered.expect("memory takes what is written to it");
    String::from_utf8_lossy(&out).into_owned()
}

fn section(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).text([roman(text)]);
    roff
}

/// Text whose lines stay as they are.
fn literal(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_examples() {
        let pages = pages();
        for (name, text) in &pages {
            assert!(
                text.contains(".SH EXAMPLES") && text.contains("iomgr "),
                "{name}: {text}"
            );
        }
        let page = |name: &str| &pages.iter().find(|page| page.0 == name).expect(name).1;
        assert!(page("iomgr-dmio-read").contains("choice") && page("iomgr-manager-set-wfq").contains("weight"));
        assert!(page("iomgr-manager-set-wfq").contains("iomgr\\-manager\\-set(1)"));
    }

    #[test]
    fn every_page_that_is_referred_to_is_there() {
        let pages = pages();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for (name, text) in &pages {
            let text = text.replace('\\', "");
            for (at, _) in text.match_indices("(1)") {
                let start = text[..at].rfind([' ', '\n']).map_or(0, |before| before + 1);
                assert!(
                    names.contains(&&text[start..at]),
                    "{name} refers to {}",
                    &text[start..at]
                );
            }
        }
    }
}
