//! `unimem report`: shows a recording (see `unimem::recording`) as a page, as JSON, or for other tools.
mod chart;
mod chrome;
mod json;
mod page;
mod pprof;
mod recording;
mod symbols;

use crate::arguments::Report;
use crate::output::{Failure, USAGE, print};
use recording::Recording;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use unimem::recording::{Mechanism, Memory, Movement, Tier};

/// Reads a recording and writes what the user asks for; a page beside it, if that is nothing.
pub fn run(options: &Report) -> Result<u8, Failure> {
    let recording = Recording::read(&options.recording)?;
    if let Some(why) = recording.incomplete() {
        eprintln!("unimem: {}: {why}", options.recording.display());
    }
    if let Some(path) = &options.chrome {
        write(&options.recording, path, |out| chrome::write(&recording, out))?;
    }
    if let Some(path) = &options.pprof {
        write(&options.recording, path, |out| pprof::write(&recording, out))?;
    }
    let mut beside = options.recording.clone().into_os_string();
    beside.push(".html");
    let beside = PathBuf::from(beside);
    let otherwise = options.chrome.is_none() && options.pprof.is_none() && !options.json;
    if let Some(path) = options.page.as_ref().or(otherwise.then_some(&beside)) {
        write(&options.recording, path, |out| out.write_all(page::page(&recording).as_bytes()))?;
        if options.page.is_none() {
            print(&format!("{}\n", path.display()))?;
        }
    }
    if options.json {
        print(&json::text(&json::report(&recording)))?;
    }
    Ok(0)
}

/// Writes a file. Refuses to write over the recording.
fn write(
    recording: &Path,
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let place = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    if place(path).is_some_and(|found| place(recording) == Some(found)) {
        return Err(Failure::new(USAGE, format!("{}: this is the recording itself", path.display())));
    }
    let written = File::create(path).map(BufWriter::new).and_then(|mut file| {
        content(&mut file)?;
        file.flush()
    });
    written.map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))
}
