//! Tensors as matrices in f64, and the factorisations of these (by faer).
use crate::error::{Result, fail};
use crate::os::stack::Stack;
use crate::tensor::tiled::{self, Source, Target};
use crate::tensor::{Complex, kernel, shape};
use faer::{Mat, MatRef, c64};

/// A tensor folded into a matrix: some of its axes, in a given order, are the columns, and the others are the rows.
pub struct Folded {
    matrix: Mat<c64>,
    /// Sizes of all axes. If the columns were replaced by one bond, the first axis of the columns has its size, and
    /// their other axes have size 1.
    sizes: Vec<usize>,
    /// The axes of the columns.
    axes: Vec<usize>,
}

impl Folded {
    /// Folds a tensor with `axes` as the columns.
    pub fn new(source: Source, sizes: &[usize], axes: &[usize]) -> Result<Folded> {
        let order = order(sizes.len(), axes);
        let mut elements = vec![Complex::new(0.0, 0.0); source.elements.len()];
        tiled::read(source, 0, elements.as_mut_slice().into())?;
        let mut permuted = vec![Complex::new(0.0, 0.0); elements.len()];
        kernel::permute(&elements, sizes, &order, permuted.as_mut_slice().into());
        let columns: usize = axes.iter().map(|axis| sizes[*axis]).product();
        let wide = |z: Complex| c64::new(z.re.into(), z.im.into());
        let matrix = Mat::from_fn(elements.len() / columns, columns, |i, j| wide(permuted[i * columns + j]));
        Ok(Folded { matrix, sizes: sizes.to_vec(), axes: axes.to_vec() })
    }
    /// The matrix.
    pub fn matrix(&self) -> MatRef<'_, c64> {
        self.matrix.as_ref()
    }
    /// Puts another matrix with as many rows in the place of this one. Its columns are one bond of a new size.
    pub fn set(&mut self, matrix: Mat<c64>) {
        for (place, axis) in self.axes.iter().enumerate() {
            self.sizes[*axis] = if place == 0 { matrix.ncols() } else { 1 };
        }
        self.matrix = matrix;
    }
    /// Multiplies by a matrix from the right.
    pub fn multiply(&mut self, algebra: &mut Algebra, right: MatRef<'_, c64>) {
        let product = algebra.0.run(|| &self.matrix * right);
        if self.axes.is_empty() {
            self.matrix = product; // one column: the tensor was multiplied by a number
        } else {
            self.set(product);
        }
    }
    /// Multiplies by 2 to the power `exponent`.
    pub fn scale(&mut self, exponent: i32) {
        self.matrix *= faer::Scale(c64::new(2f64.powi(exponent), 0.0));
    }
    /// Brings the norm near 1 if it is far off, and returns the exponent of the power of two by which the matrix was
    /// divided. A norm that is not far off stays, because the tolerance of hierarchical memory is absolute.
    pub fn normalise(&mut self) -> i32 {
        normalise(&mut self.matrix, 60)
    }
    /// Sizes of all axes. After [`Folded::set`], the first axis of the columns has the size of the new bond, and
    /// their other axes have size 1.
    pub fn dimensions(&self) -> Vec<usize> {
        self.sizes.clone()
    }
    /// Writes the tensor to `out`, in 32-bit floats and with its axes in their own order.
    pub fn unfold(&self, out: &mut Target) -> Result<()> {
        let columns = self.matrix.ncols();
        let mut rows = Vec::with_capacity(out.elements.count());
        for i in 0..self.matrix.nrows() {
            rows.extend(
                (0..columns)
                    .map(|j| Complex::new(self.matrix[(i, j)].re as f32, self.matrix[(i, j)].im as f32)),
            );
        }
        let order = order(self.sizes.len(), &self.axes);
        let folded: Vec<usize> = order.iter().map(|axis| self.sizes[*axis]).collect();
        let mut back = vec![0; order.len()];
        for (place, axis) in order.iter().enumerate() {
            back[*axis] = place;
        }
        let mut elements = vec![Complex::new(0.0, 0.0); rows.len()];
        kernel::permute(&rows, &folded, &back, elements.as_mut_slice().into());
        tiled::write(out, &elements)
    }
    /// Folds the same tensor in another way, without leaving f64.
    pub fn refold(&mut self, axes: &[usize]) -> Result<()> {
        if axes == self.axes {
            return Ok(());
        }
        let (old, new) = (order(self.sizes.len(), &self.axes), order(self.sizes.len(), axes));
        let count = shape::elements(&self.sizes)?;
        let columns: usize = axes.iter().map(|axis| self.sizes[*axis]).product();
        // Stride of each axis in the old matrix, whose elements are counted row by row.
        let mut strides = vec![0; self.sizes.len()];
        let mut stride = 1;
        for &axis in old.iter().rev() {
            strides[axis] = stride;
            stride *= self.sizes[axis];
        }
        let old_columns = self.matrix.ncols();
        let mut next = Mat::zeros(count / columns, columns);
        let mut at = vec![0; new.len()];
        let mut from = 0;
        for position in 0..count {
            next[(position / columns, position % columns)] =
                self.matrix[(from / old_columns, from % old_columns)];
            for place in (0..new.len()).rev() {
                let axis = new[place];
                at[place] += 1;
                from += strides[axis];
                if at[place] < self.sizes[axis] {
                    break;
                }
                from -= at[place] * strides[axis];
                at[place] = 0;
            }
        }
        self.matrix = next;
        self.axes = axes.to_vec();
        Ok(())
    }
}

/// All axes: those of the rows ascending, then those of the columns.
fn order(count: usize, columns: &[usize]) -> Vec<usize> {
    (0..count).filter(|axis| !columns.contains(axis)).chain(columns.iter().copied()).collect()
}

/// Where faer's algorithms run: on a stack of their own. They need 150 KiB, and a program may give its threads less.
pub struct Algebra(Stack);
impl Algebra {
    /// Fails with OutOfMemory if there is none.
    pub fn new() -> Result<Algebra> {
        const STACK: usize = 1 << 20;
        Stack::new(STACK)
            .map_or_else(|| fail!(OutOfMemory, "no stack for decompositions"), |stack| Ok(Algebra(stack)))
    }
    /// Thin QR factorisation.
    pub fn qr(&mut self, matrix: MatRef<'_, c64>) -> (Mat<c64>, Mat<c64>) {
        self.0.run(|| {
            let factors = matrix.qr();
            (factors.compute_thin_Q(), factors.thin_R().to_owned())
        })
    }
    /// R of the thin QR factorisation.
    pub fn upper_factor(&mut self, matrix: MatRef<'_, c64>) -> Mat<c64> {
        self.0.run(|| matrix.qr().thin_R().to_owned())
    }
    /// Singular values, descending, and the right singular vectors as columns.
    pub fn right_vectors(&mut self, matrix: MatRef<'_, c64>) -> Result<(Vec<f64>, Mat<c64>)> {
        // A tall matrix has the singular values and right singular vectors of its R.
        let small =
            if matrix.nrows() > matrix.ncols() { self.upper_factor(matrix) } else { matrix.to_owned() };
        let decomposed = self.0.run(|| {
            let svd = small.thin_svd().ok()?;
            Some((svd.S().column_vector().iter().map(|value| value.re).collect(), svd.V().to_owned()))
        });
        decomposed.map_or_else(|| fail!(Internal, "a singular value decomposition did not converge"), Ok)
    }
}
/// The element-wise conjugate.
pub fn conjugate(matrix: MatRef<'_, c64>) -> Mat<c64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)].conj())
}
/// Frobenius norm.
pub fn norm(matrix: MatRef<'_, c64>) -> f64 {
    matrix.norm_l2()
}
/// Divides a matrix by a power of two near its norm, unless that is between 2 to the power of -`tolerated` and of
/// `tolerated`. Returns the exponent; 0 if nothing was done.
pub fn normalise(matrix: &mut Mat<c64>, tolerated: i32) -> i32 {
    let norm = norm(matrix.as_ref());
    if norm == 0.0 || !norm.is_finite() {
        return 0;
    }
    let exponent = norm.log2().floor() as i32;
    if exponent.abs() <= tolerated {
        return 0;
    }
    *matrix *= faer::Scale(c64::new(2f64.powi(-exponent), 0.0));
    exponent
}
