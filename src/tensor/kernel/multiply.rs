//! One matrix product on one thread, by faer.
use super::{Complex, first_use};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// A matrix in memory: where it starts, and the strides of its rows and columns in elements.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub start: *const Complex,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// C = A B, or C += A B, for A of m by k and B of k by n.
///
/// # Safety
/// All three are readable over their whole extent, C also writable and by nobody else.
pub unsafe fn multiply(size: [usize; 3], left: Matrix, right: Matrix, out: Matrix, add: bool) {
    first_use::ready();
    let [m, n, k] = size;
    // SAFETY: forwarded from the caller.
    let (a, b, c) = unsafe {
        (
            MatRef::from_raw_parts(left.start, m, k, left.row_stride as isize, left.column_stride as isize),
            MatRef::from_raw_parts(
                right.start,
                k,
                n,
                right.row_stride as isize,
                right.column_stride as isize,
            ),
            MatMut::from_raw_parts_mut(
                out.start.cast_mut(),
                m,
                n,
                out.row_stride as isize,
                out.column_stride as isize,
            ),
        )
    };
    matmul(c, if add { Accum::Add } else { Accum::Replace }, a, b, Complex::new(1.0, 0.0), Par::Seq);
}
