//! What the command shows: exit codes, colours, progress, sizes.
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Exit code of a command line that is not understood.
pub const USAGE: u8 = 2;
/// Exit code of `run` and `check` if unimem itself fails. This and the two that follow are those of env(1).
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

/// Shows how far long work has come, in one line on standard error if that is a terminal. Work that is soon over
/// shows nothing. At the end the line is removed.
pub struct Progress<W: Write = std::io::Stderr> {
    what: &'static str,
    /// `None` if nobody looks.
    out: Option<W>,
    begun: Instant,
    /// When the line is due next, counted from the beginning.
    due: Duration,
    shown: bool,
}
/// Work that takes no longer than this shows nothing.
const SOON: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(100);
impl Progress {
    /// The progress of work that is called `what` and begins now.
    pub fn of(what: &'static str) -> Progress {
        let out = std::io::stderr();
        Progress::to(out.is_terminal().then_some(out), what)
    }
}
impl<W: Write> Progress<W> {
    fn to(out: Option<W>, what: &'static str) -> Progress<W> {
        Progress { what, out, begun: Instant::now(), due: SOON, shown: false }
    }
    /// Shows that `done` of `all` is done, if the line is due.
    pub fn at(&mut self, done: usize, all: usize) {
        if self.out.is_some() {
            self.show(self.begun.elapsed(), done, all);
        }
    }
    fn show(&mut self, elapsed: Duration, done: usize, all: usize) {
        let Some(out) = self.out.as_mut().filter(|_| elapsed >= self.due) else { return };
        self.due = elapsed + AGAIN;
        self.shown = true;
        // If the terminal has gone away, the work has not failed.
        let _ = write!(out, "\r{}: {} %", self.what, 100 * done / all.max(1)).and_then(|()| out.flush());
    }
}
impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if let Some(out) = self.out.as_mut().filter(|_| self.shown) {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

/// A number of bytes as people read it.
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
    fn progress_is_shown_of_long_work_now_and_then() {
        let shown = |steps: &[(u64, usize)]| {
            let mut bytes = Vec::new();
            let mut progress = Progress::to(Some(&mut bytes), "reading");
            steps.iter().for_each(|&(ms, done)| progress.show(Duration::from_millis(ms), done, 200));
            drop(progress);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(shown(&[(0, 0), (499, 150)]), "", "over soon");
        assert_eq!(
            shown(&[(500, 20), (550, 30), (599, 31), (600, 40), (900, 199)]),
            "\rreading: 10 %\rreading: 20 %\rreading: 99 %\r\x1b[K"
        );
        Progress::<Vec<u8>>::to(None, "reading").at(1, 0);
    }
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
