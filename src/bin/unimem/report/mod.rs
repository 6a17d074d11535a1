//! `unimem report`: a recording (unimem::recording) as a page, as JSON, and for other tools.
mod json;
mod story;
mod symbols;

use crate::arguments::Report;
use crate::output::{Failure, print};
use story::Story;
use unimem::recording::{Mechanism, Memory, Movement, Tier};

/// Reads a recording and writes what was asked for.
pub fn run(options: &Report) -> Result<u8, Failure> {
    let story = Story::read(&options.recording)?;
    if let Some(why) = story.incomplete() {
        eprintln!("unimem: {}: {why}", options.recording.display());
    }
    if options.json {
        return print(&format!("{:#}\n", json::report(&story)));
    }
    Ok(0)
}
