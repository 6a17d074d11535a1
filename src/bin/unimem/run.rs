//! `unimem run`: a program on the libunimem heap.
use crate::arguments::Run;
use crate::launch::{self, Ended};
use crate::output::{Failure, OWN_FAILURE, bold, bytes, colours};
use serde_json::json;

/// Runs the program. The exit code is the program's.
pub fn run(options: &Run) -> Result<u8, Failure> {
    let mut program = launch::preloaded(&options.program)?;
    if let Some(size) = &options.max_size {
        program.env("UNIMEM_MAX_SIZE", size);
    }
    if let Some(file) = &options.trace {
        // The program may change its directory before it allocates.
        let path = std::path::absolute(file).map_err(|error| Failure::new(OWN_FAILURE, error))?;
        program.env("UNIMEM_TRACE", path);
        // The library is quiet unless it is asked. That nothing is recorded is to be told.
        if std::env::var_os("UNIMEM_LOG").is_none() {
            program.env("UNIMEM_LOG", "error");
        }
    }
    if !options.stats {
        return Err(launch::become_program(program));
    }
    let ended = launch::wait_for(program)?;
    if options.json {
        eprintln!("{}", figures(&ended));
    } else {
        eprint!("{}", text(&ended, colours(&std::io::stderr())));
    }
    Ok(ended.code)
}

fn figures(ended: &Ended) -> serde_json::Value {
    json!({
        "exit_code": ended.code,
        "elapsed_seconds": ended.elapsed.as_secs_f64(),
        "user_seconds": ended.user.as_secs_f64(),
        "system_seconds": ended.system.as_secs_f64(),
        "peak_resident_bytes": ended.peak_resident,
        "minor_faults": ended.minor_faults,
        "major_faults": ended.major_faults,
    })
}

fn text(ended: &Ended, colours: bool) -> String {
    format!(
        "{}\n  time            {:.2} s (user {:.2} s, system {:.2} s)\n  peak resident   {}\n  page faults     {} \
         without reading, {} with\n",
        bold("unimem run", colours),
        ended.elapsed.as_secs_f64(),
        ended.user.as_secs_f64(),
        ended.system.as_secs_f64(),
        bytes(ended.peak_resident),
        ended.minor_faults,
        ended.major_faults,
    )
}
