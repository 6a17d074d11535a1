//! Names for addresses, from the files that the code was loaded from: from their debug information, or else from
//! their symbols.
use super::recording::Module;
use addr2line::{Context, gimli};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

/// A call of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub address: u64,
    /// Name of the function. If it is not known, the file of the code and how far into it the call is.
    pub function: String,
    /// Source file; empty if it is not known.
    pub file: String,
    pub line: u32,
}

type Bytes = gimli::EndianSlice<'static, gimli::RunTimeEndian>;
/// What is known of one file.
struct File {
    debug: Option<Context<Bytes>>,
    /// The functions, by address: the first, one past the last, the name.
    functions: Vec<(u64, u64, String)>,
}
/// Looks names up, each once.
pub struct Names {
    modules: Vec<(Module, Option<Option<File>>)>,
    known: HashMap<u64, Known>,
}
/// What is known of one address.
#[derive(Clone)]
struct Known {
    frames: Vec<Frame>,
    /// Whether it is in an internal function of the library, below those that programs call.
    inner: bool,
}

impl Names {
    /// Names for code that was loaded from these files.
    pub fn new(modules: &[Module]) -> Names {
        // If several files were loaded at an address, the last one counts.
        let modules = modules.iter().rev().map(|module| (module.clone(), None)).collect();
        Names { modules, known: HashMap::new() }
    }
    /// The calls of a stack, innermost first, beginning with the caller of the library. Functions that the compiler
    /// has inlined into others are calls of their own.
    pub fn frames(&mut self, stack: &[u64]) -> Vec<Frame> {
        let known: Vec<Known> = stack.iter().map(|address| self.at(*address).clone()).collect();
        let own = known.iter().take_while(|known| known.inner).count() % known.len().max(1);
        known.into_iter().skip(own).flat_map(|known| known.frames).collect()
    }
    fn at(&mut self, address: u64) -> &Known {
        let modules = &mut self.modules;
        self.known.entry(address).or_insert_with(|| {
            // A return address may be the first one of the next function. The call is before it.
            let call = address.saturating_sub(1);
            let found = modules.iter_mut().find(|(module, _)| (module.start..module.end).contains(&call));
            let nameless = |function| Known {
                frames: vec![Frame { address, function, file: String::new(), line: 0 }],
                inner: false,
            };
            let Some((module, file)) = found else { return nameless(format!("{address:#x}")) };
            let file = file.get_or_insert_with(|| File::open(module));
            let place = call.wrapping_sub(module.bias);
            if let Some(known) = file.as_ref().and_then(|file| file.at(address, place)) {
                return known;
            }
            let name = module.path.rsplit('/').next().unwrap_or_default();
            nameless(format!("{name}+{place:#x}"))
        })
    }
}

/// Whether a function is an internal one of the library, below those that programs call.
fn is_inner(function: &str) -> bool {
    ["unimem::", "<unimem::", "backtrace::", "_Unwind_", "core::", "<core::"]
        .iter()
        .any(|own| function.starts_with(own))
}
fn readable(name: &str) -> String {
    if let Ok(name) = rustc_name(name) {
        return name;
    }
    if let Some(name) = name.strip_prefix("unimem_program_") {
        return name.to_owned(); // malloc and its kin, by the names that programs call them
    }
    let symbol = cpp_demangle::Symbol::new(name).ok();
    symbol.and_then(|symbol| symbol.demangle().ok()).unwrap_or_else(|| name.to_owned())
}
fn rustc_name(name: &str) -> Result<String, ()> {
    let demangled = addr2line::demangle(name, gimli::DW_LANG_Rust).ok_or(())?;
    // The hash at the end is left out.
    Ok(match demangled.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front.to_owned(),
        _ => demangled,
    })
}

impl File {
    /// Reads the file, if it is still the one that the code was loaded from.
    fn open(module: &Module) -> Option<File> {
        let state = std::fs::metadata(&module.path).ok()?;
        let modified = state.mtime().wrapping_mul(1_000_000_000).wrapping_add(state.mtime_nsec()) as u64;
        // A pipe or a device might never end.
        if !state.is_file() || (state.len(), modified) != (module.size, module.modified) {
            return None;
        }
        // Leaked because names are looked up in it until the command ends.
        let bytes: &'static [u8] = std::fs::read(&module.path).ok()?.leak();
        let object = object::File::parse(bytes).ok()?;
        let endian = match object.is_little_endian() {
            true => gimli::RunTimeEndian::Little,
            false => gimli::RunTimeEndian::Big,
        };
        let section = |id: gimli::SectionId| -> Result<Bytes, gimli::Error> {
            let data = object.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok(Bytes::new(data.unwrap_or_default(), endian))
        };
        let debug = gimli::Dwarf::load(section).and_then(Context::from_dwarf).ok();
        let mut functions: Vec<_> = object
            .symbols()
            .chain(object.dynamic_symbols())
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter_map(|symbol| {
                let (first, name) = (symbol.address(), symbol.name().ok()?);
                Some((first, first.saturating_add(symbol.size().max(1)), name.to_owned()))
            })
            .collect();
        functions.sort();
        functions.dedup_by_key(|(first, ..)| *first);
        Some(File { debug, functions })
    }
    fn at(&self, address: u64, place: u64) -> Option<Known> {
        let mut frames = Vec::new();
        if let Some(debug) = &self.debug
            && let Ok(mut found) = debug.find_frames(place).skip_all_loads()
        {
            while let Ok(Some(frame)) = found.next() {
                let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
                let location = frame.location;
                frames.push(Frame {
                    address,
                    function: name.map(|name| readable(&name)).unwrap_or_default(),
                    file: location.as_ref().and_then(|location| location.file).unwrap_or_default().to_owned(),
                    line: location.and_then(|location| location.line).unwrap_or(0),
                });
            }
        }
        let symbol = self.functions.partition_point(|(first, ..)| *first <= place).checked_sub(1);
        let symbol = symbol.map(|at| &self.functions[at]).filter(|(_, end, _)| place < *end);
        let symbol = symbol.map(|(.., name)| readable(name));
        match (frames.last_mut(), &symbol) {
            // Where there are only line tables, they have no full names, or none at all.
            (Some(outermost), Some(name)) => outermost.function = name.clone(),
            (None, Some(name)) => {
                frames.push(Frame { address, function: name.clone(), file: String::new(), line: 0 });
            }
            _ => {}
        }
        frames.retain(|frame| !frame.function.is_empty());
        if frames.iter().any(|frame| frame.function.contains("unimem::")) {
            frames.drain(..frames.len() - 1); // an exported function: hide what is inlined in it
        }
        let inner = frames.last().is_some_and(|outermost| is_inner(&outermost.function));
        (!frames.is_empty()).then_some(Known { frames, inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn what_is_no_file_is_not_read() {
        let path = std::env::temp_dir().join(format!("unimem-pipe-{}", std::process::id()));
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let pipe = std::fs::metadata(&path).unwrap();
        let module = Module {
            bias: 0,
            start: 0x1000,
            end: 0x2000,
            size: pipe.len(),
            modified: (pipe.mtime() * 1_000_000_000 + pipe.mtime_nsec()) as u64,
            path: path.to_str().unwrap().to_owned(),
        };
        let (told, frames) = channel();
        std::thread::spawn(move || told.send(Names::new(&[module]).frames(&[0x1234])));
        let frames = frames.recv_timeout(Duration::from_secs(60));
        std::fs::remove_file(&path).unwrap();
        assert!(frames.expect("it waits for the pipe")[0].function.ends_with("+0x1233"));
    }
}
