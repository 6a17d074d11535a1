//! The command line: what a user may write, and what it means.
use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the user wants to be done.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Show how to use a subcommand, or all of it.
    Help(Topic),
    /// Show the version.
    Version,
    /// Tell about the machine.
    Info { json: bool },
    /// Run a program.
    Run(Run),
    /// Run a program and look for errors.
    Check(Check),
    /// Show a recording.
    Report(Report),
}
/// What help is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Topic {
    All,
    Info,
    Run,
    Check,
    Report,
}
/// Options of `unimem run`.
#[derive(Debug, Default, PartialEq)]
pub struct Run {
    pub max_size: Option<String>,
    pub stats: bool,
    pub json: bool,
    /// File to record into.
    pub trace: Option<PathBuf>,
    /// The program and its arguments.
    pub program: Vec<OsString>,
}
/// Options of `unimem check`.
#[derive(Debug, PartialEq)]
pub struct Check {
    pub json: bool,
    /// Exit code when something was found.
    pub exit_code: u8,
    /// The program and its arguments.
    pub program: Vec<OsString>,
}
/// Options of `unimem report`.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    pub recording: PathBuf,
    pub page: Option<PathBuf>,
    pub chrome: Option<PathBuf>,
    pub pprof: Option<PathBuf>,
    pub json: bool,
}

const ALL: &str = "\
unimem: one memory system for tensor-network programs

Usage: unimem COMMAND [OPTIONS]

  info                 tell about this machine: nodes, caches, huge pages, faults, spill files, limits
  run PROGRAM...       run a program with libunimem as its malloc
  check PROGRAM...     run a program, look for overruns, uses after free, bad frees and leaks
  report RECORDING     show what was recorded of a program: a page, or for other tools
  help [COMMAND]       show this, or how to use a command

  -h, --help           show this
  -V, --version        show the version

Exit codes: 0 done, 1 failed, 2 wrong usage; run and check give the program's own (128 + N for signal N), 127 when it
is not found, 126 when it cannot be run, 125 when unimem itself fails. Colours: on a terminal, unless NO_COLOR is set.
";
const INFO: &str = "\
Usage: unimem info [--json]

Tells about this machine what matters to tensor programs: memory, processors, caches, NUMA nodes, huge pages, how
faults of tiered memory are served and why not better, where spill files go, and limits.

  --json               as JSON, sizes in bytes
";
const RUN: &str = "\
Usage: unimem run [OPTIONS] [--] PROGRAM [ARGUMENTS...]

Runs a program with libunimem as its malloc (libunimem-malloc.so, preloaded). Its exit code is the program's.

  --max-size SIZE      cap on the memory of its heap: bytes, or with a suffix K, M, G, T
  --trace FILE         record what its memory does, for unimem report; %p in the name is the number of the process,
                       so that each process of a program gets a file of its own
  --stats              say at the end what time and memory it took, on standard error
  --json               ... as JSON
";
const CHECK: &str = "\
Usage: unimem check [OPTIONS] [--] PROGRAM [ARGUMENTS...]

Runs a program, and the programs that it runs, with libunimem as malloc in debug mode. On standard error it reports
overruns, writes after free, frees of what is no block, blocks that nothing points to when a program ends, and blocks that
were live when their pool, system or instance ended, with the call stacks of their allocations. A program must not be
linked statically. It is slower, by 3 to 30 times.

  --exit-code N        exit code when something was found (1 to 255; 99); otherwise it is the program's
  --json               report as JSON
";
const REPORT: &str = "\
Usage: unimem report [OPTIONS] RECORDING

Shows a recording of unimem run --trace, UNIMEM_TRACE or unimem_trace_start. Without options: writes a page beside it,
RECORDING.html.

  -o, --output FILE    write one self-contained HTML page: memory over time by kind and tier, faults and evictions,
                       contractions, sizes, allocation sites, and what was live at the end
  --chrome FILE        write trace events for Perfetto (ui.perfetto.dev) or chrome://tracing
  --pprof FILE         write a heap profile for pprof
  --json               print all figures as JSON
";

/// The help text of a topic.
pub fn help(topic: Topic) -> &'static str {
    match topic {
        Topic::All => ALL,
        Topic::Info => INFO,
        Topic::Run => RUN,
        Topic::Check => CHECK,
        Topic::Report => REPORT,
    }
}

fn topic(name: &str) -> Option<Topic> {
    match name {
        "info" => Some(Topic::Info),
        "run" => Some(Topic::Run),
        "check" => Some(Topic::Check),
        "report" => Some(Topic::Report),
        _ => None,
    }
}

/// Parses a command line, which does not include the command's own name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let command = match parser.next()? {
        None => return Err("which command?".into()),
        Some(Short('h') | Long("help")) => return Ok(Command::Help(Topic::All)),
        Some(Short('V') | Long("version")) => return Ok(Command::Version),
        Some(Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected()),
    };
    match command.as_str() {
        "info" => info(parser),
        "run" => run(parser),
        "check" => check(parser),
        "report" => report(parser),
        "help" => match parser.next()? {
            None => Ok(Command::Help(Topic::All)),
            Some(Value(name)) => {
                let name = name.string()?;
                topic(&name).map(Command::Help).ok_or_else(|| format!("there is no command '{name}'").into())
            }
            Some(other) => Err(other.unexpected()),
        },
        other => Err(format!("there is no command '{other}'").into()),
    }
}

fn info(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(Topic::Info)),
            Long("json") => json = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Info { json })
}

/// The program's name and arguments. It begins at the first argument that is not an option; all that follows
/// is its own.
fn program(first: OsString, parser: &mut lexopt::Parser) -> Result<Vec<OsString>, lexopt::Error> {
    Ok(std::iter::once(first).chain(parser.raw_args()?).collect())
}

fn run(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut options = Run::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(Topic::Run)),
            Long("max-size") => options.max_size = Some(size(parser.value()?)?),
            Long("trace") => options.trace = Some(parser.value()?.into()),
            Long("stats") => options.stats = true,
            Long("json") => (options.stats, options.json) = (true, true),
            Value(first) => {
                options.program = program(first, &mut parser)?;
                return Ok(Command::Run(options));
            }
            other => return Err(other.unexpected()),
        }
    }
    Err("run: which program?".into())
}

fn check(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut options = Check { json: false, exit_code: 99, program: Vec::new() };
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(Topic::Check)),
            Long("json") => options.json = true,
            Long("exit-code") => {
                options.exit_code = parser.value()?.parse()?;
                if options.exit_code == 0 {
                    return Err("check: an exit code of 0 could not be told from success".into());
                }
            }
            Value(first) => {
                options.program = program(first, &mut parser)?;
                return Ok(Command::Check(options));
            }
            other => return Err(other.unexpected()),
        }
    }
    Err("check: which program?".into())
}

fn report(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut options = Report::default();
    let mut recording = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help(Topic::Report)),
            Short('o') | Long("output") => options.page = Some(parser.value()?.into()),
            Long("chrome") => options.chrome = Some(parser.value()?.into()),
            Long("pprof") => options.pprof = Some(parser.value()?.into()),
            Long("json") => options.json = true,
            Value(path) if recording.is_none() => recording = Some(path.into()),
            other => return Err(other.unexpected()),
        }
    }
    options.recording = recording.ok_or("report: which recording?")?;
    Ok(Command::Report(options))
}

/// A size, checked with the rules by which the library reads it from the environment.
fn size(value: OsString) -> Result<String, lexopt::Error> {
    let text = value.string()?;
    match unimem::instance::config::size(&text) {
        Some(_) => Ok(text),
        None => Err(format!("'{text}' is not a size: bytes, or with a suffix K, M, G, T").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|problem| problem.to_string())
    }
    #[test]
    fn what_follows_the_program_is_its_own() {
        let Ok(Command::Run(run)) = parsed("run --stats --max-size 2G prog --max-size -x -- y") else {
            panic!("not understood")
        };
        assert_eq!(run.program, ["prog", "--max-size", "-x", "--", "y"]);
        assert_eq!((run.stats, run.max_size.as_deref()), (true, Some("2G")));
        let Ok(Command::Run(run)) = parsed("run -- --odd-name") else { panic!("not understood") };
        assert_eq!(run.program, ["--odd-name"]);
    }
    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "dance",
            "--dance",
            "info extra",
            "run",
            "run --stats",
            "run --max-size 12Q prog",
            "run --max-size",
            "check",
            "check --exit-code 0 prog",
            "check --exit-code 300 prog",
            "run --trace prog",
            "report",
            "report one two",
            "report --chrome",
            "help dance",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
    #[test]
    fn every_command_has_help() {
        for name in ["info", "run", "check", "report"] {
            let expected = Ok(Command::Help(topic(name).unwrap()));
            assert_eq!(parsed(&format!("{name} --help")), expected);
            assert_eq!(parsed(&format!("help {name}")), expected);
            assert!(help(topic(name).unwrap()).starts_with(&format!("Usage: unimem {name}")));
            assert!(help(Topic::All).contains(&format!("\n  {name} ")));
        }
    }
}
