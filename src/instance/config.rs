//! The configuration of an instance: checked, and for the global instance read from the environment.
use crate::error::{Result, fail};
use crate::heap::HeapParams;
use crate::log::log;
use crate::os::environment::variable;
use core::ffi::CStr;

/// Bytes of a chunk of streaming and hierarchical memory, if the configuration does not say.
pub const DEFAULT_CHUNK: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Bytes made ready when the instance is created.
    pub initial_size: usize,
    /// Most bytes of RAM that the instance may hold; 0: no limit.
    pub max_size: usize,
    /// Whether `allocate` aligns large blocks as `allocate_geometric` does.
    pub use_geometric_layout: bool,
    /// Whether streaming memory can be allocated.
    pub enable_streaming: bool,
    /// Bytes of a chunk of streaming and hierarchical memory, where a call does not say.
    pub chunk_size: usize,
    /// The tolerance where a call passes a negative one.
    pub compression_tolerance: f64,
}
impl Default for Config {
    fn default() -> Config {
        Config {
            initial_size: 0,
            max_size: 0,
            use_geometric_layout: false,
            enable_streaming: true,
            chunk_size: DEFAULT_CHUNK,
            compression_tolerance: 0.0,
        }
    }
}

impl Config {
    /// Checks a caller's configuration and completes it. Without growth the initial size is the limit; an initial size
    /// of 0 means no limit all the same. InvalidArgument.
    pub fn checked(self, enable_growth: bool) -> Result<Config> {
        if !is_tolerance(&self.compression_tolerance) {
            return fail!(InvalidArgument, "compression tolerance {}", self.compression_tolerance);
        }
        if self.max_size != 0 && self.initial_size > self.max_size {
            return fail!(
                InvalidArgument,
                "initial size {} exceeds max size {}",
                self.initial_size,
                self.max_size
            );
        }
        Ok(self.completed(enable_growth))
    }
    /// Sets what follows from other settings, and the default chunk size.
    fn completed(mut self, enable_growth: bool) -> Config {
        if !enable_growth && self.initial_size != 0 {
            self.max_size = self.initial_size;
        }
        if self.chunk_size == 0 {
            self.chunk_size = DEFAULT_CHUNK;
        }
        self
    }
    /// Parameters for the instance's heap.
    pub fn heap_params(&self) -> HeapParams {
        HeapParams { limit: self.max_size, ready: self.initial_size, ..HeapParams::default() }
    }
    /// The configuration of the global instance: `UNIMEM_INITIAL_SIZE`, `UNIMEM_MAX_SIZE`, `UNIMEM_CHUNK_SIZE` (bytes,
    /// or with a suffix K, M, G, T), `UNIMEM_GEOMETRIC`, `UNIMEM_STREAMING` (0 or 1), `UNIMEM_TOLERANCE`. A value that
    /// cannot be understood is reported to the log, and the setting keeps its default.
    pub fn from_environment() -> Config {
        let mut config = Config::default();
        set(c"UNIMEM_INITIAL_SIZE", size, &mut config.initial_size);
        config.max_size = max_size();
        set(c"UNIMEM_CHUNK_SIZE", size, &mut config.chunk_size);
        set(c"UNIMEM_GEOMETRIC", flag, &mut config.use_geometric_layout);
        set(c"UNIMEM_STREAMING", flag, &mut config.enable_streaming);
        set(c"UNIMEM_TOLERANCE", tolerance, &mut config.compression_tolerance);
        if config.max_size != 0 && config.initial_size > config.max_size {
            log!(Warning, "UNIMEM_INITIAL_SIZE is more than UNIMEM_MAX_SIZE, which is made ready instead");
            config.initial_size = config.max_size;
        }
        config.completed(true)
    }
}

/// What `UNIMEM_MAX_SIZE` says, 0 if it says nothing. Allocates nothing.
pub fn max_size() -> usize {
    let mut most = 0;
    set(c"UNIMEM_MAX_SIZE", size, &mut most);
    most
}
fn set<T>(name: &CStr, parse: impl Fn(&str) -> Option<T>, value: &mut T) {
    let Some(text) = variable(name) else { return };
    match core::str::from_utf8(text).ok().and_then(|text| parse(text.trim())) {
        Some(parsed) => *value = parsed,
        None => log!(Warning, "{}={} is not understood", name.to_string_lossy(), text.escape_ascii()),
    }
}
fn flag(text: &str) -> Option<bool> {
    match text {
        "0" | "no" | "off" | "false" => Some(false),
        "1" | "yes" | "on" | "true" => Some(true),
        _ => None,
    }
}
fn tolerance(text: &str) -> Option<f64> {
    text.parse().ok().filter(is_tolerance)
}
fn is_tolerance(value: &f64) -> bool {
    value.is_finite() && *value >= 0.0
}
/// Parses a number of bytes, with or without a suffix K, M, G or T. Allocates nothing.
pub fn size(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let (unit, rest) = match suffix.as_bytes().first().map(u8::to_ascii_uppercase) {
        Some(b'K') => (10, &suffix[1..]),
        Some(b'M') => (20, &suffix[1..]),
        Some(b'G') => (30, &suffix[1..]),
        Some(b'T') => (40, &suffix[1..]),
        _ => (0, suffix),
    };
    if !["", "b", "ib"].iter().any(|known| rest.eq_ignore_ascii_case(known)) {
        return None;
    }
    digits.trim().parse::<usize>().ok()?.checked_mul(1 << unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn sizes_have_suffixes() {
        for (text, value) in [
            ("17", Some(17)),
            ("4k", Some(4096)),
            ("512MiB", Some(512 << 20)),
            ("2 G", Some(2 << 30)),
            (" 64M\t", Some(64 << 20)),
            ("G", None),
            ("1x", None),
            ("-1", None),
            ("99999999999T", None),
        ] {
            assert_eq!(size(text), value, "{text}");
        }
    }
    #[test]
    fn contradictions_are_refused() {
        let config = Config::default();
        assert!(Config { initial_size: 2, max_size: 1, ..config }.checked(true).is_err());
        assert!(Config { compression_tolerance: f64::NAN, ..config }.checked(true).is_err());
        assert!(Config { compression_tolerance: -1.0, ..config }.checked(true).is_err());
        assert_eq!(Config { initial_size: 9, ..config }.checked(false).unwrap().max_size, 9);
    }
}
