//! Names for addresses, from the files that the code was loaded from: their debug information, else their symbols.
use super::recording::Module;
use addr2line::{Context, gimli};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

/// A call of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub address: u64,
    /// Name of the function; where it is not known, the file and how far into it.
    pub function: String,
    /// Source file, empty where it is not known.
    pub file: String,
    pub line: u32,
}

type Bytes = gimli::EndianSlice<'static, gimli::RunTimeEndian>;
/// What is known of one file.
struct File {
    debug: Option<Context<Bytes>>,
    /// First address, one past the last, name.
    functions: Vec<(u64, u64, String)>,
}
/// Looks names up, each once.
pub struct Names {
    modules: Vec<(Module, Option<Option<File>>)>,
    known: HashMap<u64, Known>,
}
/// Of one address.
#[derive(Clone)]
struct Known {
    frames: Vec<Frame>,
    /// Whether it is in a function of the library's own, below what programs call.
    inner: bool,
}

impl Names {
    /// Of code that was loaded from these files.
    pub fn new(modules: &[Module]) -> Names {
        // What was loaded last at an address is what is known there.
        let modules = modules.iter().rev().map(|module| (module.clone(), None)).collect();
        Names { modules, known: HashMap::new() }
    }
    /// The calls of a stack, innermost first, from the caller of the library on; functions that the compiler has put
    /// into others are calls of their own.
    pub fn frames(&mut self, stack: &[u64]) -> Vec<Frame> {
        let known: Vec<Known> = stack.iter().map(|address| self.at(*address).clone()).collect();
        let own = known.iter().take_while(|known| known.inner).count() % known.len().max(1);
        known.into_iter().skip(own).flat_map(|known| known.frames).collect()
    }
    fn at(&mut self, address: u64) -> &Known {
        let modules = &mut self.modules;
        self.known.entry(address).or_insert_with(|| {
            // A return address may be the next function's first: the call is before it.
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

/// Whether a function is the library's own, below what programs call.
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
    // Without the hash at its end.
    Ok(match demangled.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front.to_owned(),
        _ => demangled,
    })
}

impl File {
    /// Reads it, if it is still the one that the code was loaded from.
    fn open(module: &Module) -> Option<File> {
        let state = std::fs::metadata(&module.path).ok()?;
        let modified = state.mtime().wrapping_mul(1_000_000_000).wrapping_add(state.mtime_nsec()) as u64;
        if (state.len(), modified) != (module.size, module.modified) {
            return None;
        }
        // Names are looked up in it until the command ends.
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
            // Line tables alone know no full names, or none at all.
            (Some(outermost), Some(name)) => outermost.function = name.clone(),
            (None, Some(name)) => {
                frames.push(Frame { address, function: name.clone(), file: String::new(), line: 0 });
            }
            _ => {}
        }
        frames.retain(|frame| !frame.function.is_empty());
        if frames.iter().any(|frame| frame.function.contains("unimem::")) {
            frames.drain(..frames.len() - 1); // an exported function: what is in it is no matter
        }
        let inner = frames.last().is_some_and(|outermost| is_inner(&outermost.function));
        (!frames.is_empty()).then_some(Known { frames, inner })
    }
}
