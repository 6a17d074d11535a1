//! Dense tensors.
use super::{Interface, told};
use crate::error::{Result, fail};
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut, Index, IndexMut};
use core::ptr::NonNull;

/// A dense row-major tensor in the memory of an instance. It dereferences to the slice of its elements in order.
///
/// ```
/// use unimem::{Interface, Tensor};
///
/// # fn main() -> Result<(), unimem::Error> {
/// let memory = Interface::global()?;
/// let matrix = Tensor::from_slice(&memory, &[2, 3], &[1, 2, 3, 4, 5, 6])?;
/// assert_eq!(matrix[[1, 0]], 4);
/// assert_eq!(matrix.strides(), [3, 1]);
/// assert_eq!(matrix[2], 3); // an element by its place
/// # Ok(())
/// # }
/// ```
pub struct Tensor<T> {
    pub(super) memory: Interface,
    start: NonNull<T>,
    length: usize,
    dimensions: Box<[usize]>,
    strides: Box<[usize]>,
    owns: PhantomData<T>,
}

// SAFETY: the tensor owns its elements, as a Vec does.
unsafe impl<T: Send> Send for Tensor<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Tensor<T> {}

impl<T: bytemuck::Pod> Tensor<T> {
    /// A tensor of zeros. `InvalidArgument` for no dimensions, for a dimension of 0, or for more elements than are
    /// possible; `OutOfMemory`.
    pub fn zeros(memory: &Interface, dimensions: &[usize]) -> Result<Tensor<T>> {
        const { assert!(align_of::<T>() <= 64, "tensors are aligned to 64") };
        let block = told(memory.instance().allocate_tensor(dimensions, size_of::<T>()))?;
        // `allocate_tensor` has checked the product; the block has as many elements.
        let length = dimensions.iter().product();
        // SAFETY: the block has that many bytes, and nobody else uses it.
        unsafe { block.write_bytes(0, length * size_of::<T>()) };
        let mut strides: Box<[usize]> = vec![1; dimensions.len()].into();
        for axis in (1..dimensions.len()).rev() {
            strides[axis - 1] = strides[axis] * dimensions[axis];
        }
        let (start, memory) = (block.cast(), memory.clone());
        Ok(Tensor { memory, start, length, dimensions: dimensions.into(), strides, owns: PhantomData })
    }
    /// A tensor with a copy of `elements`. `InvalidArgument` if they are not as many as the dimensions say.
    pub fn from_slice(memory: &Interface, dimensions: &[usize], elements: &[T]) -> Result<Tensor<T>> {
        let mut tensor = Self::zeros(memory, dimensions)?;
        if elements.len() != tensor.length {
            return told(fail!(InvalidArgument, "{} elements for dimensions {dimensions:?}", elements.len()));
        }
        tensor.copy_from_slice(elements);
        Ok(tensor)
    }
}

impl<T> Tensor<T> {
    /// Extent of each dimension.
    pub fn dimensions(&self) -> &[usize] {
        &self.dimensions
    }
    /// Distance from one index to the next in each dimension, in elements; that of the last dimension is 1.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }
    /// The place of an element in the slice.
    ///
    /// # Panics
    /// If there are not as many indices as dimensions, or one is out of its range.
    fn place(&self, indices: &[usize]) -> usize {
        assert_eq!(indices.len(), self.dimensions.len(), "indices for dimensions {:?}", self.dimensions);
        let axes = indices.iter().zip(&self.dimensions).zip(&self.strides);
        axes.fold(0, |place, ((index, extent), stride)| {
            assert!(index < extent, "index {indices:?} of dimensions {:?}", self.dimensions);
            place + index * stride
        })
    }
}

impl<T> Drop for Tensor<T> {
    fn drop(&mut self) {
        self.memory.release(self.start.cast());
    }
}
impl<T> Deref for Tensor<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the block has `length` elements, which were all written, and it lives as long as the tensor.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}
impl<T> DerefMut for Tensor<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}
impl<T> Index<usize> for Tensor<T> {
    type Output = T;
    fn index(&self, place: usize) -> &T {
        &(**self)[place]
    }
}
impl<T> IndexMut<usize> for Tensor<T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut (**self)[place]
    }
}
impl<T, const N: usize> Index<[usize; N]> for Tensor<T> {
    type Output = T;
    fn index(&self, indices: [usize; N]) -> &T {
        &(**self)[self.place(&indices)]
    }
}
impl<T, const N: usize> IndexMut<[usize; N]> for Tensor<T> {
    fn index_mut(&mut self, indices: [usize; N]) -> &mut T {
        let place = self.place(&indices);
        &mut (**self)[place]
    }
}
impl<T> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor").field("dimensions", &self.dimensions).finish_non_exhaustive()
    }
}
