//! `unimem check`: a program in debug mode.
use crate::arguments::Check;
use crate::launch;
use crate::output::Failure;

/// Runs it; the exit code is the program's, unless something was found.
pub fn run(options: &Check) -> Result<u8, Failure> {
    let mut program = launch::preloaded(&options.program)?;
    program.env("UNIMEM_DEBUG", "guard,quarantine,trace");
    let ended = launch::wait_for(program)?;
    Ok(ended.code)
}
