//! What is shown: exit codes, colours, sizes.
use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Exit code of a command line that is not understood.
pub const USAGE: u8 = 2;
/// Exit code of `run` and `check` when unimem itself fails; after it those of env(1).
pub const OWN_FAILURE: u8 = 125;
pub const CANNOT_RUN: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// Why the command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}
impl Failure {
    pub fn new(code: u8, message: impl Display) -> Failure {
        Failure { code, message: message.to_string() }
    }
}

/// Prints to standard output. A reader that has gone away is no failure.
pub fn print(text: &str) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(1, error)),
        _ => Ok(0),
    }
}

/// Whether text for `stream` may have colours.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    stream.is_terminal() && !no_colour && !dumb
}
/// `text` in bold, where colours are wanted.
pub fn bold(text: &str, colours: bool) -> String {
    if colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// A number of bytes for reading.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let unit = (count.ilog2() as usize / 10).min(UNITS.len());
    let value = count as f64 / (1u64 << (10 * unit)) as f64;
    let digits = if count.is_multiple_of(1 << (10 * unit)) || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (2 << 20, "2 MiB"),
            (25 << 30, "25 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
