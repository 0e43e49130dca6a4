//! What the guest writes to its second serial port: marks of its own around the command's output.

/// Begins a mark, which ends with its line. No program writes the record separator by chance; one that does is passed on.
const MARK: u8 = 0x1e;

/// Longer than any mark.
const MARK_BYTES_MAX: usize = 64;

/// Takes the marks out of the stream and passes the rest on at once.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A mark that has not ended yet.
    mark: Vec<u8>,
    pub(super) seen: Seen,
}

/// What the marks said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The command was started.
    pub(super) up: bool,
    /// Why the command was not started.
    pub(super) failure: Option<String>,
    /// The command's exit status.
    pub(super) status: Option<u8>,
}

impl Reader {
    /// Looks at some bytes and passes on those of the command.
    pub(super) fn feed(&mut self, bytes: &[u8], pass: &mut dyn FnMut(&[u8])) {
        let mut plain = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.mark.is_empty() && byte != MARK {
                continue;
            }
            pass(&bytes[plain..at]);
            plain = at + 1;
            self.mark.push(byte);
            if byte == b'\n' || self.mark.len() > MARK_BYTES_MAX {
                self.end_mark(pass);
            }
        }
        pass(&bytes[plain..]);
    }

    fn end_mark(&mut self, pass: &mut dyn FnMut(&[u8])) {
        let mark = std::mem::take(&mut self.mark);
        let text = String::from_utf8_lossy(&mark[1..]);
        match text.trim_end().split_once(' ') {
            Some(("up", _)) => self.seen.up = true,
            Some(("failed", reason)) => self.seen.failure = Some(reason.to_owned()),
            Some(("exit", status)) => self.seen.status = status.parse().ok(),
            _ => pass(&mark),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of one size, as a serial port gives them.
    fn read(bytes: &[u8], size: usize) -> (String, Seen) {
        let (mut reader, mut text) = (Reader::default(), Vec::new());
        for piece in bytes.chunks(size) {
            reader.feed(piece, &mut |bytes| text.extend_from_slice(bytes));
        }
        (String::from_utf8(text).unwrap(), reader.seen)
    }

    #[test]
    fn marks_are_taken_out_wherever_the_stream_is_cut() {
        let stream = b"\x1eup 0.81\nfirst\nno end of line\x1eexit 3\n";
        let seen = Seen {
            up: true,
            failure: None,
            status: Some(3),
        };
        for size in 1..=stream.len() {
            let (text, marks) = read(stream, size);
            assert_eq!((text.as_str(), &marks), ("first\nno end of line", &seen), "{size}");
        }
    }

    #[test]
    fn a_separator_of_the_command_itself_is_passed_on() {
        assert_eq!(read(b"a\x1eb\nc\n", 2).0, "a\x1eb\nc\n");
    }
}
