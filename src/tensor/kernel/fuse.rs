//! Fusing axes: a group of axes becomes as few as its strides allow, and the offsets of its positions are
//! listed.
use super::Axis;

/// Sorts axes from the largest to the smallest stride that `key` picks. Joins neighbours that lie behind each
/// other without a gap in both tensors, and drops axes of size 1.
pub fn fuse(mut axes: Vec<Axis>, key: impl Fn(&Axis) -> usize) -> Vec<Axis> {
    axes.retain(|axis| axis.size != 1);
    axes.sort_by_key(|axis| core::cmp::Reverse(key(axis)));
    let mut fused: Vec<Axis> = Vec::with_capacity(axes.len());
    for axis in axes {
        match fused.last_mut() {
            Some(outer) if outer.input == axis.size * axis.input && outer.other == axis.size * axis.other => {
                *outer = Axis { size: outer.size * axis.size, ..axis };
            }
            _ => fused.push(axis),
        }
    }
    fused
}

/// Which of an axis's two strides is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `Axis::input`
    Input,
    /// `Axis::other`
    Other,
}

/// Lists the offsets of positions `start..start + count` of a group of fused axes (outermost first) into `out`.
pub fn offsets(axes: &[Axis], side: Side, start: usize, count: usize, out: &mut Vec<usize>) {
    out.clear();
    let stride = |axis: &Axis| if side == Side::Input { axis.input } else { axis.other };
    let Some((inner, outer)) = axes.split_last() else {
        out.resize(count, 0);
        return;
    };
    let (mut block, mut position) = (start / inner.size, start % inner.size);
    let step = stride(inner);
    while out.len() < count {
        let mut rest = block;
        let mut base = 0;
        for axis in outer.iter().rev() {
            base += rest % axis.size * stride(axis);
            rest /= axis.size;
        }
        let length = (inner.size - position).min(count - out.len());
        out.extend((position..position + length).map(|i| base + i * step));
        position = 0;
        block += 1;
    }
}
