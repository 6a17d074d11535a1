//! The `unimem` command: tells about this machine's memory, runs and checks programs on the libunimem heap, and shows
//! what was recorded of them.
mod arguments;
mod check;
mod info;
mod launch;
mod output;
mod report;
mod run;

use arguments::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(problem) => {
            eprintln!("unimem: {problem}\nTry 'unimem --help'.");
            return ExitCode::from(output::USAGE);
        }
    };
    let done = match command {
        Command::Help(topic) => output::print(arguments::help(topic)),
        Command::Version => output::print(&format!("unimem {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Info { json } => info::run(json),
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Report(options) => report::run(&options),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("unimem: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
