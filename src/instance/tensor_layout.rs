//! Layouts of tensors: dense and row-major, extents and strides in elements.
use crate::error::{Result, fail};
use crate::heap::attributes::{Layout, MAX_DIMENSIONS};
use crate::os::records::Records;
use allocator_api2::boxed::Box;

/// Bytes of a tensor. InvalidArgument for no dimensions or too many, for a dimension of 0, or for a product that
/// overflows.
pub fn bytes(extents: &[usize], element_size: usize) -> Result<usize> {
    if extents.is_empty() || extents.len() > MAX_DIMENSIONS {
        return fail!(InvalidArgument, "{} dimensions, not 1 to {MAX_DIMENSIONS}", extents.len());
    }
    if extents.contains(&0) || element_size == 0 {
        return fail!(InvalidArgument, "a dimension or the element size is 0");
    }
    match extents.iter().try_fold(element_size, |product, &extent| product.checked_mul(extent)) {
        Some(bytes) => Ok(bytes),
        None => fail!(InvalidArgument, "the product of the dimensions overflows"),
    }
}

/// The row-major layout of `extents`. [`bytes`] must have checked their product.
pub fn row_major(extents: &[usize], element_size: usize) -> Result<Layout> {
    let rank = extents.len();
    let Ok(words) = Box::<[usize], Records>::try_new_zeroed_slice_in(2 * rank, Records) else {
        return fail!(OutOfMemory, "no memory for a layout of {rank} dimensions");
    };
    // SAFETY: the memory is zeroed, and zero is a valid number.
    let mut words = unsafe { words.assume_init() };
    words[..rank].copy_from_slice(extents);
    let mut stride = 1;
    for axis in (0..rank).rev() {
        words[rank + axis] = stride;
        stride *= extents[axis];
    }
    Ok(Layout { element_size, rank, extents: words })
}
