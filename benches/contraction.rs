//! Pair contractions beside one plain complex matrix product of faer of the same size, in turn within each round.
//!
//!     cargo bench --bench contraction [-- --rivals] [name...]
//!
//! Prints, on 1 and 2 threads, GFLOP/s (medians; 8 floating-point operations a multiply-add) and the median of the ratios
//! to the plain product within a round. A case is met if its ratio is at least the one wanted.
//!
//! With --rivals, prints also what NumPy's and torch's tensordot and TBLIS (by pytblis) reach, each in a process of its
//! own right after, beside what the library reaches without plain products in between. They make a new result each time;
//! the library writes over one. PYTHON names an interpreter that has them. Some builds of OpenBLAS take an old kernel on
//! new processors: OPENBLAS_CORETYPE sets another.
//!
//! At the end ("pauses"), prints what two threads reach after they have slept.
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use std::process::Command;
use std::time::{Duration, Instant};
use unimem::tensor::Complex;
use unimem::tensor::kernel::{Product, set_threads};
use unimem::{Interface, Tensor};

type Bonds = &'static [(usize, usize)];
/// Name, dimensions of both tensors, bonds, least ratio wanted.
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
    ("tree leaf", &[512, 4, 512], &[4], &[(1, 0)], 0.75),
    ("5-D odd sizes", &[17, 9, 23, 11, 7], &[11, 23, 13, 9, 19], &[(1, 3), (2, 1), (3, 0)], 0.55),
    ("worst 6-D with 4-D", &[10, 12, 8, 14, 9, 11], &[14, 12, 11, 40], &[(1, 1), (3, 0), (5, 2)], 0.55),
    ("worst, sum outside", &[24, 16, 20, 16], &[16, 30, 16, 28], &[(3, 0), (1, 2)], 0.55),
];

/// A tensor in the library's memory, where a network's tensors are. From 2 MiB on it asks for huge pages, as NumPy's
/// arrays do.
fn tensor(memory: &Interface, dimensions: &[usize]) -> Tensor<Complex> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensor = memory.tensor(dimensions).expect("room for the operands");
    tensor.fill_with(|| Complex::new(next(), next()));
    tensor
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
        arguments.iter().all(|a| a == "--rivals") || arguments.iter().any(|a| name.contains(a.as_str()))
    };
    let memory = Interface::global().expect("the global instance");
    let with_rivals = arguments.iter().any(|a| a == "--rivals");
    let rivals = if with_rivals { installed_rivals() } else { Vec::new() };
    println!(
        "{:<26}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}  wanted",
        "GFLOP/s", "plain 1", "ours 1", "ratio", "plain 2", "ours 2", "ratio"
    );
    for &(name, left, right, bonds, least) in CASES.iter().filter(|case| wanted(case.0)) {
        let count = |d: &[usize]| d.iter().product::<usize>();
        let k: usize = bonds.iter().map(|b| left[b.0]).product();
        let (m, n) = (count(left) / k, count(right) / k);
        let (a, b) = (tensor(&memory, left), tensor(&memory, right));
        let (mut plain, mut ours) = (tensor(&memory, &[m, n]), tensor(&memory, &[m, n]));
        let product = Product::row_major(left, right, bonds);
        let work = 8e-9 * m as f64 * n as f64 * k as f64;
        let rounds = ((2.0 / (work / 150.0)) as usize).clamp(5, 101) / 2 * 2 + 1;
        print!("{name:<26}");
        let (mut met, mut ours_alone) = (true, [0.0; 2]);
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
                let o =
                    seconds(&mut || product.compute(&a, &b, (&mut *ours).into(), &mut |_| Ok(())).unwrap());
                if round > 0 {
                    plain_times.push(p);
                    our_times.push(o);
                    ratios.push(p / o);
                }
            }
            let ratio = median(&mut ratios);
            met &= ratio >= least;
            let reached = work / median(&mut our_times);
            if !rivals.is_empty() {
                // Run as the rivals are, without a plain product in between.
                let mut times: Vec<f64> = (0..7)
                    .map(|_| {
                        seconds(&mut || {
                            product.compute(&a, &b, (&mut *ours).into(), &mut |_| Ok(())).unwrap()
                        })
                    })
                    .collect();
                ours_alone[threads - 1] = work / median(&mut times);
            }
            print!("{:>8.1}{reached:>8.1}{ratio:>8.2}", work / median(&mut plain_times));
        }
        println!("  {least:.2} {}", if met { "met" } else { "NOT MET" });
        compare(&rivals, left, right, bonds, ours_alone);
    }
    if wanted("pauses") {
        after_pauses(&memory);
    }
}

/// Measures what the second thread is worth if both have been asleep. A thread that wakes on the caller's processor does
/// nothing for it.
fn after_pauses(memory: &Interface) {
    println!("pauses of 20 ms before each       ours 1  ours 2   ratio  wanted");
    for (size, least) in [(128, 1.1), (256, 1.4), (512, 1.6)] {
        let [a, b, mut c] = [(); 3].map(|()| tensor(memory, &[size, size]));
        let product = Product::row_major(&[size, size], &[size, size], &[(1, 0)]);
        let mut compute = || product.compute(&a, &b, (&mut *c).into(), &mut |_| Ok(())).unwrap();
        let [one, two] = [1, 2].map(|threads| {
            set_threads(threads);
            let mut times: Vec<f64> = (0..51)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(20));
                    seconds(&mut compute)
                })
                .collect();
            8e-9 * (size as f64).powi(3) / median(&mut times)
        });
        let met = if two / one >= least { "met" } else { "NOT MET" };
        println!("{:<32}{one:>8.1}{two:>8.1}{:>8.2}  {least:.2} {met}", format!("matrix {size}"), two / one);
    }
}

/// Another library's contraction, in Python.
struct Rival {
    name: &'static str,
    module: &'static str,
    /// Run once. `a` and `b` are NumPy's arrays, `threads` is the number of threads.
    setup: &'static str,
    /// The contraction over the axes `i` of `a` and `j` of `b`.
    call: &'static str,
}
const RIVALS: [Rival; 3] = [
    Rival { name: "NumPy", module: "numpy", setup: "", call: "n.tensordot(a,b,axes=(i,j))" },
    Rival {
        name: "torch",
        module: "numpy, torch",
        setup: "import torch; torch.set_num_threads(threads); a=torch.from_numpy(a); b=torch.from_numpy(b)",
        call: "torch.tensordot(a,b,dims=(i,j))",
    },
    Rival {
        name: "TBLIS",
        module: "numpy, pytblis",
        setup: "import pytblis; pytblis.set_num_threads(threads)",
        call: "pytblis.tensordot(a,b,axes=(i,j))",
    },
];

/// A Python that can import `module`: PYTHON or else the first in the path; if that cannot, the system's.
fn python_with(module: &str) -> Option<String> {
    let candidates =
        [std::env::var("PYTHON").unwrap_or_else(|_| "python3".into()), "/usr/bin/python3".into()];
    let imports = |python: &String| {
        let run = Command::new(python).args(["-c", &format!("import {module}")]).output();
        run.is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(imports)
}

/// The rivals that are installed, each with its Python. Prints which are not.
fn installed_rivals() -> Vec<(String, Rival)> {
    let mut installed = Vec::new();
    for rival in RIVALS {
        match python_with(rival.module) {
            Some(python) => installed.push((python, rival)),
            None => println!("SKIP {}: no Python here has it", rival.name),
        }
    }
    installed
}

/// Runs the rivals on one case. `ours`: GFLOP/s of the library on 1 and 2 threads.
fn compare(rivals: &[(String, Rival)], left: &[usize], right: &[usize], bonds: Bonds, ours: [f64; 2]) {
    let (i, j): (Vec<_>, Vec<_>) = bonds.iter().copied().unzip();
    for (python, Rival { name, setup, call, .. }) in rivals {
        for threads in [1, 2] {
            let script = format!(
                "import numpy as n, time\n\
                 i,j,threads={i:?},{j:?},{threads}\n\
                 a=(n.random.rand(*{left:?})+1j*n.random.rand(*{left:?})).astype('complex64')\n\
                 b=(n.random.rand(*{right:?})+1j*n.random.rand(*{right:?})).astype('complex64')\n\
                 work=8e-9*a.size*b.size/n.prod([a.shape[x] for x in i])\n\
                 {setup}\n\
                 t=[]\n\
                 for _ in range(7):\n s=time.perf_counter(); c={call}; t.append(time.perf_counter()-s)\n\
                 print(work/sorted(t)[3])\n"
            );
            let run = Command::new(python)
                .args(["-c", &script])
                .envs(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"].map(|v| (v, threads.to_string())))
                .output();
            let reached = run.ok().filter(|output| output.status.success());
            let reached = reached.and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse::<f64>().ok());
            let Some(reached) = reached else {
                println!("    {name} on {threads}: FAILED");
                continue;
            };
            let ratio = ours[threads - 1] / reached;
            let met = if ratio > 1.0 { "met" } else { "NOT MET" };
            let ours = ours[threads - 1];
            println!("    {name} on {threads}: {reached:.1}; ours {ours:.1}, {ratio:.2} of it  1.00 {met}");
        }
    }
}
