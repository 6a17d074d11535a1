//! Sizes and strides of dense row-major tensors.
use super::Complex;
use crate::error::{Result, fail};

/// Number of elements of a tensor with these dimensions. A tensor without dimensions has one element.
///
/// `InvalidArgument` if a dimension is 0 or the tensor does not fit the address space.
pub fn elements(dimensions: &[usize]) -> Result<usize> {
    let mut count = 1usize;
    for &size in dimensions {
        count = match count.checked_mul(size) {
            Some(0) => return fail!(InvalidArgument, "a tensor has an axis of size 0"),
            Some(count) if count <= isize::MAX as usize / size_of::<Complex>() => count,
            _ => {
                return fail!(
                    InvalidArgument,
                    "a tensor of dimensions {dimensions:?} does not fit the address space"
                );
            }
        };
    }
    Ok(count)
}

/// Strides of a row-major tensor, in elements.
pub fn strides(dimensions: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dimensions.len()];
    for axis in (1..dimensions.len()).rev() {
        strides[axis - 1] = strides[axis] * dimensions[axis];
    }
    strides
}
