//! Pair contractions against one plain faer complex product of the same size, paired within each round.
//!
//!     cargo bench --bench contraction [-- --numpy] [name...]
//!
//! Prints GFLOP/s (8 floating-point operations a multiply-add; medians) on 1 and 2 threads and the median ratio to the
//! plain product in the same round; with --numpy also what NumPy's tensordot reaches (one process, right after).
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use std::process::Command;
use std::time::Instant;
use unimem::tensor::Complex;
use unimem::tensor::kernel::{Product, set_threads};

type Bonds = &'static [(usize, usize)];
/// Name, dimensions of both, bonds, least ratio wanted.
type Case = (&'static str, &'static [usize], &'static [usize], Bonds, f64);

const CASES: &[Case] = &[
    ("matrix 512", &[512, 512], &[512, 512], &[(1, 0)], 0.90),
    ("matrix 1024", &[1024, 1024], &[1024, 1024], &[(1, 0)], 0.90),
    ("matrix 2048", &[2048, 2048], &[2048, 2048], &[(1, 0)], 0.90),
    ("matrix transposed 1024", &[1024, 1024], &[1024, 1024], &[(0, 1)], 0.90),
    ("tall 65536 x 32 x 32", &[65536, 32], &[32, 32], &[(1, 0)], 0.90),
    ("flat 64 x 4096 x 4096", &[64, 4096], &[4096, 4096], &[(1, 0)], 0.90),
    ("4-D over 2, 32", &[32, 32, 32, 32], &[32, 32, 32, 32], &[(1, 2), (3, 0)], 0.85),
    ("4-D over 2, 48", &[48, 48, 48, 48], &[48, 48, 48, 48], &[(1, 2), (3, 0)], 0.85),
    ("4-D over 2, 64", &[64, 64, 64, 64], &[64, 64, 64, 64], &[(0, 3), (2, 1)], 0.85),
    ("tree node, last axis", &[32, 32, 32], &[32, 4096], &[(2, 0)], 0.75),
    ("tree node, middle axis", &[32, 32, 32], &[32, 4096], &[(1, 0)], 0.75),
    ("tree node, first axis", &[32, 32, 32], &[32, 4096], &[(0, 0)], 0.75),
    ("5-D odd sizes", &[17, 9, 23, 11, 7], &[11, 23, 13, 9, 19], &[(1, 3), (2, 1), (3, 0)], 0.55),
    ("worst 6-D with 4-D", &[10, 12, 8, 14, 9, 11], &[14, 12, 11, 40], &[(1, 1), (3, 0), (5, 2)], 0.55),
    ("worst, sum outside", &[24, 16, 20, 16], &[16, 30, 16, 28], &[(3, 0), (1, 2)], 0.55),
];

fn elements(count: usize) -> Vec<Complex> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| Complex::new(next(), next())).collect()
}
fn seconds(f: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let wanted = |name: &str| {
        arguments.iter().all(|a| a == "--numpy") || arguments.iter().any(|a| name.contains(a.as_str()))
    };
    println!(
        "{:<26}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}  wanted",
        "GFLOP/s", "plain 1", "ours 1", "ratio", "plain 2", "ours 2", "ratio"
    );
    for &(name, left, right, bonds, least) in CASES.iter().filter(|case| wanted(case.0)) {
        let count = |d: &[usize]| d.iter().product::<usize>();
        let k: usize = bonds.iter().map(|b| left[b.0]).product();
        let (m, n) = (count(left) / k, count(right) / k);
        let (a, b) = (elements(m * k), elements(k * n));
        let (mut plain, mut ours) =
            (vec![Complex::new(0.0, 0.0); m * n], vec![Complex::new(0.0, 0.0); m * n]);
        let product = Product::row_major(left, right, bonds);
        let work = 8e-9 * m as f64 * n as f64 * k as f64;
        let rounds = ((2.0 / (work / 150.0)) as usize).clamp(5, 101) / 2 * 2 + 1;
        print!("{name:<26}");
        let mut met = true;
        for threads in [1, 2] {
            set_threads(threads);
            let par = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
            let (mut plain_times, mut our_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds + 1 {
                let mut run_plain = || {
                    let c = MatMut::from_row_major_slice_mut(&mut plain, m, n);
                    let (a, b) =
                        (MatRef::from_row_major_slice(&a, m, k), MatRef::from_row_major_slice(&b, k, n));
                    matmul(c, Accum::Replace, a, b, Complex::new(1.0, 0.0), par);
                };
                let p = seconds(&mut run_plain);
                let o = seconds(&mut || product.compute(&a, &b, &mut ours, &mut |_| Ok(())).unwrap());
                if round > 0 {
                    plain_times.push(p);
                    our_times.push(o);
                    ratios.push(p / o);
                }
            }
            let ratio = median(&mut ratios);
            met &= ratio >= least;
            print!(
                "{:>8.1}{:>8.1}{ratio:>8.2}",
                work / median(&mut plain_times),
                work / median(&mut our_times)
            );
        }
        println!("  {least:.2} {}", if met { "met" } else { "NOT MET" });
        if arguments.iter().any(|a| a == "--numpy") {
            numpy(left, right, bonds);
        }
    }
}

/// The same contraction by NumPy, if there is one.
fn numpy(left: &[usize], right: &[usize], bonds: Bonds) {
    let (i, j): (Vec<_>, Vec<_>) = bonds.iter().copied().unzip();
    let script = format!(
        "import numpy as n, time\n\
         a=(n.random.rand(*{left:?})+1j*n.random.rand(*{left:?})).astype('complex64')\n\
         b=(n.random.rand(*{right:?})+1j*n.random.rand(*{right:?})).astype('complex64')\n\
         t=[]\n\
         for _ in range(11):\n s=time.perf_counter(); c=n.tensordot(a,b,axes=({i:?},{j:?})); t.append(time.perf_counter()-s)\n\
         k=n.prod([a.shape[x] for x in {i:?}])\n\
         print('%.1f' % (8e-9*a.size*b.size/k/sorted(t)[5]))\n"
    );
    for threads in ["1", "2"] {
        let run =
            Command::new("python3").arg("-c").arg(&script).env("OPENBLAS_NUM_THREADS", threads).output();
        match run {
            Ok(output) if output.status.success() => {
                println!("    NumPy on {threads}: {}", String::from_utf8_lossy(&output.stdout).trim());
            }
            _ => return println!("    SKIP NumPy: there is no python3 with it"),
        }
    }
}
