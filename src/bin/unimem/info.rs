//! `unimem info`: what this machine offers to tensor programs.
use crate::launch;
use crate::output::{Failure, bold, bytes, colours, print};
use serde_json::{Map, Value, json};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use unimem::os::errno::Errno;
use unimem::os::map::pages_are_supported;
use unimem::tiers::fault::{Faults, Mechanism};

/// A fact about the machine: a value for programs, and a text for people.
struct Fact {
    name: String,
    value: Value,
    shown: String,
}
struct Section {
    name: &'static str,
    facts: Vec<Fact>,
}

impl Section {
    fn new(name: &'static str) -> Section {
        Section { name, facts: Vec::new() }
    }
    fn add(&mut self, name: &str, value: impl Into<Value>, shown: impl Into<String>) {
        self.facts.push(Fact { name: name.into(), value: value.into(), shown: shown.into() });
    }
    fn text(&mut self, name: &str, text: impl Into<String>) {
        let text = text.into();
        self.add(name, text.clone(), text);
    }
    fn size(&mut self, name: &str, count: u64) {
        self.add(name, count, bytes(count));
    }
    /// A size that may have no limit.
    fn limit(&mut self, name: &str, count: Option<u64>) {
        match count {
            Some(count) => self.size(name, count),
            None => self.add(name, Value::Null, "none"),
        }
    }
}

/// Prints what is known, as JSON or as text.
pub fn run(json: bool) -> Result<u8, Failure> {
    let sections = [memory(), processors(), nodes(), huge_pages(), faults(), spill(), limits(), library()];
    if json {
        let object: Map<String, Value> = sections.into_iter().map(as_json).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&object).expect("plain values")));
    }
    let colours = colours(&std::io::stdout());
    let mut text = String::new();
    for section in &sections {
        text += &format!("{}\n", bold(section.name, colours));
        for fact in &section.facts {
            text += &format!("  {:<28} {}\n", fact.name, fact.shown);
        }
    }
    print(&text)
}

fn as_json(section: Section) -> (String, Value) {
    let key = |name: &str| name.replace([' ', '-'], "_");
    let facts: Map<String, Value> =
        section.facts.into_iter().map(|fact| (key(&fact.name), fact.value)).collect();
    (key(section.name), facts.into())
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
/// The bytes of a line `NAME: N kB` of a file such as /proc/meminfo. In some files there are words before the
/// name.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once(name)?.1.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn memory() -> Section {
    let mut section = Section::new("memory");
    let text = read("/proc/meminfo").unwrap_or_default();
    for (name, key) in [("total", "MemTotal"), ("available", "MemAvailable"), ("swap", "SwapTotal")] {
        if let Some(count) = kilobytes(&text, key) {
            section.size(name, count);
        }
    }
    // SAFETY: the call only asks for a number.
    section.size("page", unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64);
    if !pages_are_supported() {
        section.text("note", "libunimem needs pages of 4 KiB, so none of its memory can be had here");
    }
    section
}

fn processors() -> Section {
    let mut section = Section::new("processors");
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    section.add("usable", count, count.to_string());
    let caches = PathBuf::from("/sys/devices/system/cpu/cpu0/cache");
    for index in 0.. {
        let cache = caches.join(format!("index{index}"));
        let Some(level) = read(cache.join("level")) else { break };
        let kind = read(cache.join("type")).unwrap_or_default().to_lowercase();
        if kind == "instruction" {
            continue;
        }
        if let Some(count) = read(cache.join("size"))
            .and_then(|text| unimem::instance::config::size(text.trim_end_matches('B')))
        {
            section.size(&format!("cache L{level}"), count as u64);
        }
    }
    section
}

fn nodes() -> Section {
    let mut section = Section::new("NUMA nodes");
    let count = unimem::os::numa::nodes();
    section.add("count", count, count.to_string());
    for node in 0..count {
        let text = read(format!("/sys/devices/system/node/node{node}/meminfo")).unwrap_or_default();
        if let Some(total) = kilobytes(&text, "MemTotal") {
            section.size(&format!("node {node}"), total);
        }
    }
    section
}

/// The word in brackets, by which the kernel marks the choice that is in effect.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(word, _)| word)
}

fn huge_pages() -> Section {
    let mut section = Section::new("huge pages");
    match read("/sys/kernel/mm/transparent_hugepage/enabled") {
        None => section.text("transparent", "not in this kernel"),
        Some(text) => {
            let mode = chosen(&text);
            let meaning = match mode {
                "always" => "always: large blocks and tensors get them",
                "madvise" => "madvise: large blocks and tensors get them, because the library asks",
                "never" => "never: set it to madvise for faster large tensors",
                other => other,
            };
            section.add("transparent", mode, meaning);
        }
    }
    if let Some(size) =
        read("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").and_then(|text| text.parse().ok())
    {
        section.size("size", size);
    }
    section
}

fn faults() -> Section {
    let mut section = Section::new("faults of tiered memory");
    if !pages_are_supported() {
        section.add("used", Value::Null, "nothing: the pages are not of 4 KiB");
        return section;
    }
    match Faults::chosen() {
        Ok(faults) => section.text("used", faults.mechanism.name().to_string_lossy()),
        Err(error) => section.text("used", format!("nothing works: {}", reason(error))),
    }
    for mechanism in Mechanism::LADDER {
        let name = mechanism.name().to_string_lossy();
        match Faults::get(mechanism) {
            Ok(_) => section.text(&name, "works"),
            Err(error) => section.text(&name, reason(error)),
        }
    }
    if let Some(forced) = std::env::var_os("UNIMEM_FAULTS") {
        section.text("UNIMEM_FAULTS", forced.to_string_lossy());
    }
    section
}
/// Why a mechanism does not work here.
fn reason(error: Errno) -> String {
    let because = match error.0 {
        libc::ENOSYS => "this kernel has no such call, or forbids it",
        libc::EPERM | libc::EACCES => {
            "not permitted: vm.unprivileged_userfaultfd is 0, or a sandbox forbids it"
        }
        libc::EOPNOTSUPP | libc::EINVAL => "this kernel is too old for it",
        _ => "the trial failed",
    };
    format!("{because}: {error}")
}

fn spill() -> Section {
    let mut section = Section::new("spill files");
    let directory = unimem::tiers::spill::directory();
    section.text("directory", directory.to_string_lossy());
    let unnamed =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(&directory);
    match unnamed {
        Ok(_) => section.add("usable", true, "yes"),
        Err(error) => {
            let error = Errno::of(&error);
            section.add("usable", false, format!("no unnamed file can be made there: {error}"));
        }
    }
    if let Some((free, kind)) = file_system(&directory) {
        section.size("free", free);
        if kind == libc::TMPFS_MAGIC {
            section.text("note", "a tmpfs: what is spilled there stays in RAM");
        }
    }
    section
}
/// Bytes free for this user, and the kind of file system.
fn file_system(path: &Path) -> Option<(u64, i64)> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: the structure has numbers only, for which zeros are a value.
    let mut figures: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: the string ends with a zero, and the structure may be written.
    let failed = unsafe { libc::statfs(path.as_ptr(), &mut figures) } != 0;
    (!failed).then_some((figures.f_bavail * figures.f_bsize as u64, figures.f_type as i64))
}

fn limits() -> Section {
    let mut section = Section::new("limits");
    let resource = |resource| {
        // SAFETY: the structure has numbers only, for which zeros are a value.
        let mut limit: libc::rlimit = unsafe { core::mem::zeroed() };
        // SAFETY: the structure may be written.
        let failed = unsafe { libc::getrlimit(resource, &mut limit) } != 0;
        (!failed && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
    };
    section.limit("address space", resource(libc::RLIMIT_AS));
    section.limit("locked memory", resource(libc::RLIMIT_MEMLOCK));
    section.limit("file size", resource(libc::RLIMIT_FSIZE));
    let control_group = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .and_then(|text| text.parse().ok())
        .filter(|count| *count < 1 << 60);
    section.limit("control group", control_group);
    for (name, path) in
        [("mappings", "/proc/sys/vm/max_map_count"), ("overcommit", "/proc/sys/vm/overcommit_memory")]
    {
        if let Some(count) = read(path).and_then(|text| text.parse::<u64>().ok()) {
            section.add(name, count, count.to_string());
        }
    }
    section.add("open instances", 64, "64 at least");
    section
}

fn library() -> Section {
    let mut section = Section::new("libunimem");
    section.text("version", env!("CARGO_PKG_VERSION"));
    match launch::library() {
        Some(path) => section.text("preloaded by run and check", path.to_string_lossy()),
        None => section.add("preloaded by run and check", Value::Null, "libunimem-malloc.so is not found"),
    }
    let mut settings: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("UNIMEM_"))
        .collect();
    settings.sort();
    let shown: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let value: Map<String, Value> = settings.into_iter().map(|(name, value)| (name, json!(value))).collect();
    section.add("environment", value, if shown.is_empty() { "nothing set".into() } else { shown.join(" ") });
    section
}
