//! Speed and ratio of the chunk codecs on every instruction set here, beside a plain copy of the same bytes.
use std::hint::black_box;
use std::time::Instant;
use unimem::tiers::codec::{Codec, Form, Workspace, directory_size, isa::Isa};

const CHUNK: usize = 2 << 20;
const CHUNKS: usize = 16;

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
fn data(name: &str) -> Vec<u8> {
    let mut r = Random(88172645463325252);
    let value = |i: usize| -> f32 {
        match name {
            "normal" => r.normal() as f32,
            "weights" => (r.normal() * 0.02) as f32,
            "bf16" => f32::from_bits(((r.normal() * 0.02) as f32).to_bits() & 0xFFFF_0000),
            "sparse" => {
                if r.uniform() < 0.06 {
                    r.normal() as f32
                } else {
                    0.0
                }
            }
            "wave" => ((i as f64 * 0.01).sin() + (i as f64 * 0.0013).cos()) as f32,
            _ => f32::from_bits(r.next() as u32),
        }
    };
    (0..CHUNK * CHUNKS / 4).map(value).flat_map(f32::to_le_bytes).collect()
}
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    println!(
        "{:8} {:9} {:9} {:>6} {:>6} {:>6} {:>6}",
        "data", "tolerance", "isa", "ratio", "enc", "dec", "copy"
    );
    let mut workspace = Workspace::boxed();
    for (name, tolerances) in [
        ("normal", &[1e-3, 1e-4, 0.0][..]),
        ("weights", &[1e-3, 1e-4, 0.0]),
        ("bf16", &[0.0]),
        ("sparse", &[1e-3, 0.0]),
        ("wave", &[1e-3, 1e-4, 0.0]),
        ("random", &[1e-3, 0.0]),
    ] {
        let source = data(name);
        for &tolerance in tolerances {
            for isa in Isa::all() {
                let codec = Codec::bounded(tolerance).with_isa(isa);
                let room = CHUNK + directory_size(CHUNK);
                let mut slots: Vec<Vec<u8>> = vec![vec![1u8; room]; CHUNKS];
                let (mut encode, mut decode, mut copy) = (vec![], vec![], vec![]);
                let mut total = 0;
                let mut target = vec![1u8; CHUNK];
                for _ in 0..5 {
                    total = 0;
                    let start = Instant::now();
                    for (slot, chunk) in slots.iter_mut().zip(source.chunks(CHUNK)) {
                        slot[..CHUNK].copy_from_slice(chunk);
                    }
                    copy.push(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    let encoded: Vec<_> =
                        slots.iter_mut().map(|s| codec.encode_in_place(s, CHUNK, &mut workspace)).collect();
                    encode.push(start.elapsed().as_secs_f64());
                    let start = Instant::now();
                    for (slot, (form, size)) in slots.iter().zip(&encoded) {
                        total += size;
                        match form {
                            Form::Blocks => {
                                codec.decode(&slot[..*size], &mut target, &mut workspace).unwrap()
                            }
                            Form::Raw => target.copy_from_slice(&slot[..CHUNK]),
                            Form::Zero => target.fill(0),
                        }
                        black_box(&target);
                    }
                    decode.push(start.elapsed().as_secs_f64());
                }
                let rate = |s: Vec<f64>| (CHUNK * CHUNKS) as f64 / median(s) / 1e9;
                println!(
                    "{name:8} {tolerance:<9.0e} {:9} {:6.2} {:6.1} {:6.1} {:6.1}",
                    format!("{isa:?}").split('(').next().unwrap_or(""),
                    (CHUNK * CHUNKS) as f64 / total as f64,
                    rate(encode),
                    rate(decode),
                    rate(copy)
                );
            }
        }
    }
    hashes(&data("normal"));
}
fn hashes(source: &[u8]) {
    for (name, hash) in [
        ("xxh3_64", (|b| xxhash_rust::xxh3::xxh3_64(b)) as fn(&[u8]) -> u64),
        ("xxh3_128", |b| xxhash_rust::xxh3::xxh3_128(b) as u64),
    ] {
        let t = median(
            (0..5)
                .map(|_| {
                    let s = Instant::now();
                    for c in source.chunks(CHUNK) {
                        black_box(hash(c));
                    }
                    s.elapsed().as_secs_f64()
                })
                .collect(),
        );
        println!("{name} {:.1} GB/s", source.len() as f64 / t / 1e9);
    }
}
