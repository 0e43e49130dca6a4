//! Running other programs: with the terminal, with captured output, or with both.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// The root of the workspace: the folder above xtask's own.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Where cargo puts what it builds, as an absolute path.
pub(crate) fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The cargo that started us, so that a chosen toolchain is kept.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The command line, as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}

/// Runs with the terminal's own output; an exit code other than 0 is an error that names the command line.
pub(crate) fn run(command: &mut Command) -> Result {
    println!("$ {}", line(command));
    let status = command
        .status()
        .map_err(|error| format!("{}: {error}", line(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{}: {status}", line(command)).into())
    }
}

/// Runs quietly and returns what the command printed; a failure shows all of it.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", line(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}\n{text}{stderr}", line(command), output.status).into())
}

/// Runs with output to the terminal and, line by line, to `look`; says whether the exit code was 0.
///
/// Standard output and standard error arrive on one pipe, so that the lines keep their order.
pub(crate) fn tee(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    println!("$ {}", line(command));
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer).stdin(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", line(command)))?;
    // The command holds the writing ends until it is told to let go: without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut out = std::io::stdout().lock();
    for raw in BufReader::new(reader).split(b'\n') {
        let raw = raw?;
        out.write_all(&raw)?;
        out.write_all(b"\n")?;
        out.flush()?;
        look(without_colour(&String::from_utf8_lossy(&raw)).trim_end_matches('\r'));
    }
    Ok(child.wait()?.success())
}

/// Whether colours make sense where our output goes.
pub(crate) fn colour() -> &'static str {
    if std::io::stdout().is_terminal() {
        "always"
    } else {
        "never"
    }
}

/// A line without the escape sequences that colour it (`ESC [ … letter`).
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Whether a program is found in `PATH`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_removed_and_text_is_kept() {
        assert_eq!(
            without_colour("\u{1b}[32;1m     Summary\u{1b}[0m [0.1s]"),
            "     Summary [0.1s]"
        );
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("/usr/bin/qemu-io");
        command.args(["-c", "write -P 1 0 4k", ""]);
        assert_eq!(line(&command), "qemu-io -c 'write -P 1 0 4k' ''");
    }

    #[test]
    fn tee_shows_both_streams_and_the_exit_code() {
        let mut seen = Vec::new();
        let ok = tee(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), |line| {
            seen.push(line.to_owned())
        });
        assert!(!ok.unwrap());
        assert_eq!(seen, ["a", "b"]);
    }
}
