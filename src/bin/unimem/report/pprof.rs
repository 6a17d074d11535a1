//! A heap profile as pprof reads it: github.com/google/pprof, proto/profile.proto, compressed with gzip. The
//! structures are the messages of that file.
use super::recording::{Recording, Site};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use std::collections::HashMap;
use std::io::{Result, Write};

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}
/// What a value is, and its unit. Both are places in the table of strings, as are the names and texts below.
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}
#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The calls, innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}
#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    /// Several if the compiler has inlined functions into others, innermost first.
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}
#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// A profile that is being built.
struct Builder {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, u64>,
}
impl Builder {
    fn text(&mut self, text: &str) -> i64 {
        let table = &mut self.profile.string_table;
        *self.strings.entry(text.to_owned()).or_insert_with(|| {
            table.push(text.to_owned());
            table.len() as i64 - 1
        })
    }
    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.text(kind), unit: self.text(unit) }
    }
    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        let list = &mut self.profile.function;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = list.len() as u64 + 1;
            list.push(Function { id, name, filename });
            id
        })
    }
    fn add(&mut self, site: &Site) {
        let mut places = Vec::new();
        for calls in site.frames.chunk_by(|inner, outer| inner.address == outer.address) {
            let address = calls[0].address;
            if let Some(known) = self.locations.get(&address) {
                places.push(*known);
                continue;
            }
            let lines = calls.iter().map(|call| Line {
                function_id: self.function(&call.function, &call.file),
                line: call.line.into(),
            });
            let line = lines.collect();
            let around = |mapping: &&Mapping| (mapping.memory_start..mapping.memory_limit).contains(&address);
            let mapping_id = self.profile.mapping.iter().rfind(around).map_or(0, |mapping| mapping.id);
            let id = self.profile.location.len() as u64 + 1;
            self.profile.location.push(Location { id, mapping_id, address, line });
            self.locations.insert(address, id);
            places.push(id);
        }
        let blocks = |count: f64| count.round() as i64;
        let label = Label { key: self.text("memory"), text: self.text(site.memory.word()) };
        self.profile.sample.push(Sample {
            location_id: places,
            value: vec![
                blocks(site.blocks),
                site.bytes as i64,
                blocks(site.live_blocks),
                site.live_bytes as i64,
            ],
            label: vec![label],
        });
    }
}

fn profile(recording: &Recording) -> Profile {
    let mut builder = Builder {
        profile: Profile::default(),
        strings: HashMap::new(),
        functions: HashMap::new(),
        locations: HashMap::new(),
    };
    builder.text(""); // the format wants an empty string first
    for (kind, unit) in [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ] {
        let value = builder.value_type(kind, unit);
        builder.profile.sample_type.push(value);
    }
    for (number, module) in recording.modules.iter().enumerate() {
        let filename = builder.text(&module.path);
        builder.profile.mapping.push(Mapping {
            id: number as u64 + 1,
            memory_start: module.start,
            memory_limit: module.end,
            filename,
            has_functions: true,
        });
    }
    recording.sites.iter().for_each(|site| builder.add(site));
    let period_type = Some(builder.value_type("space", "bytes"));
    let default_sample_type = builder.text("inuse_space");
    Profile {
        time_nanos: recording.began as i64,
        duration_nanos: recording.duration() as i64,
        period_type,
        period: recording.interval as i64,
        default_sample_type,
        ..builder.profile
    }
}

/// Writes the profile.
pub fn write(recording: &Recording, out: &mut dyn Write) -> Result<()> {
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&profile(recording).encode_to_vec())?;
    gzip.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::super::symbols::Frame;
    use super::*;
    use unimem::recording::Memory;

    fn frame(address: u64, function: &str) -> Frame {
        Frame { address, function: function.to_owned(), file: String::new(), line: 7 }
    }
    #[test]
    fn stacks_share_what_they_have_in_common() {
        let site = |frames, live_bytes| Site {
            frames,
            bytes: 100,
            live_bytes,
            ..Site::new(Memory::Plain, Vec::new())
        };
        let recording = Recording {
            sites: vec![
                site(vec![frame(2, "inlined"), frame(2, "leaf"), frame(1, "main")], 60),
                site(vec![frame(3, "leaf"), frame(1, "main")], 0),
            ],
            ..Recording::default()
        };
        let profile = profile(&recording);
        let decoded = Profile::decode(&profile.encode_to_vec()[..]).unwrap();
        assert_eq!(decoded, profile);
        assert_eq!((profile.location.len(), profile.function.len()), (3, 3));
        assert_eq!(profile.location[0].line.len(), 2);
        assert_eq!(profile.sample[0].location_id, [1, 2]);
        assert_eq!(profile.sample[1].location_id, [3, 2]);
        let live: i64 = profile.sample.iter().map(|sample| sample.value[3]).sum();
        assert_eq!(live, 60);
        assert_eq!(profile.string_table[0], "");
    }
}
