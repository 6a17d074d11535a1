//! Evaluating a plan: product by product, each intermediate tensor freed as soon as it has been used.
use super::order::Plan;
use super::scaled::Scale;
use super::{Effort, dimensions, plan};
use crate::error::{Result, fail};
use crate::tensor::kernel::scan::scale;
use crate::tensor::kernel::{Axis, OPERATIONS_PER_TERM, Product};
use crate::tensor::memory::{Account, Block, Memory};
use crate::tensor::network::{Network, storage_for};
use crate::tensor::tiled::{self, ChunkedMemory, Source, Target};
use crate::tensor::{Complex, shape};
use std::rc::Rc;
use std::time::Instant;

/// A result from C's `malloc`, which the caller of the library frees. Counted with the network until then.
pub struct Malloced {
    start: *mut Complex,
    count: usize,
    account: Rc<Account>,
}
impl Malloced {
    fn new(count: usize, account: &Rc<Account>) -> Result<Malloced> {
        let bytes = count * size_of::<Complex>();
        // SAFETY: any size may be asked for.
        let start: *mut Complex = unsafe { libc::malloc(bytes) }.cast();
        if start.is_null() {
            return fail!(OutOfMemory, "no {bytes} bytes for the result");
        }
        account.charge(bytes);
        Ok(Malloced { start, count, account: account.clone() })
    }
    /// The elements.
    pub fn elements(&mut self) -> &mut [Complex] {
        // SAFETY: this object's own; every bit pattern is a number, and elements are written before they are read.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.count) }
    }
    /// Hands the block over.
    pub fn release(mut self) -> *mut Complex {
        core::mem::replace(&mut self.start, core::ptr::null_mut())
    }
}
impl Drop for Malloced {
    fn drop(&mut self) {
        self.account.credit(self.count * size_of::<Complex>());
        // SAFETY: from `malloc`, or NULL once handed over.
        unsafe { libc::free(self.start.cast()) }
    }
}

/// An axis of a tensor on the way: bonds have the same label at both ends. Axes of size 1 are left out.
#[derive(Clone, Copy)]
struct Labelled {
    label: usize,
    size: usize,
}

/// A tensor on the way.
struct Tensor {
    axes: Vec<Labelled>,
    /// None for the tensors of the nodes themselves.
    data: Option<Block>,
    scale: Scale,
}

impl Tensor {
    /// The elements: its own, or those of the node it is.
    fn source<'a>(&'a self, network: &'a Network, node: Option<&usize>) -> Source<'a> {
        match (&self.data, node) {
            (Some(block), _) => {
                // SAFETY: written by the step that made it; nobody writes it any more.
                let elements = unsafe { block.elements(elements(&self.axes)) };
                Source { elements, chunked: block.chunked() }
            }
            (None, Some(id)) => network.node(*id).source(),
            (None, None) => Source { elements: &[], chunked: None },
        }
    }
}

/// A label for every axis of the tree; both ends of a bond have one.
struct Labels {
    /// First label of each node.
    first: Vec<usize>,
    count: usize,
}
impl Labels {
    fn new(network: &Network, ids: &[usize]) -> Labels {
        let mut labels = Labels { first: vec![0; network.len()], count: 0 };
        for &id in ids {
            labels.first[id] = labels.count;
            labels.count += network.node(id).dimensions().len();
        }
        labels
    }
    fn of(&self, network: &Network, id: usize, axis: usize) -> usize {
        let own = self.first[id] + axis;
        network.node(id).end(axis).map_or(own, |end| own.min(self.first[end.node] + end.axis))
    }
    fn axes(&self, network: &Network, id: usize) -> Vec<Labelled> {
        let sizes = network.node(id).dimensions().iter().enumerate();
        let labelled = |(axis, &size)| Labelled { label: self.of(network, id, axis), size };
        sizes.filter(|(_, size)| **size > 1).map(labelled).collect()
    }
}

/// Contracts the root's tree. Gives the elements from `malloc`, and the dimensions.
pub fn contract(network: &mut Network, memory: &Memory) -> Result<(Malloced, Vec<usize>)> {
    let start = Instant::now();
    let plan = plan(network, memory, Effort::Quick)?;
    let begin = Instant::now();
    let sizes = dimensions(network)?;
    let mut steps = 0;
    let result = evaluate(network, memory, &plan, shape::elements(&sizes)?, &mut steps);
    network.metrics.num_contractions += steps;
    network.metrics.contraction_time += begin.elapsed().as_secs_f64();
    network.spent(start);
    Ok((result?, sizes))
}

/// Does the steps, counting them. The result has `count` elements.
fn evaluate(
    network: &Network,
    memory: &Memory,
    plan: &Plan,
    count: usize,
    steps_done: &mut usize,
) -> Result<Malloced> {
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    let ids = network.preorder(root);
    let labels = Labels::new(network, &ids);
    // Where each free label goes in the result: its stride.
    let mut strides = vec![0; labels.count];
    let mut stride = 1;
    for &id in ids.iter().rev() {
        for axis in network.node(id).free_axes().into_iter().rev() {
            strides[labels.of(network, id, axis)] = stride;
            stride *= network.node(id).dimensions()[axis];
        }
    }
    let mut tensors: Vec<Option<Tensor>> = Vec::with_capacity(ids.len() + plan.steps.len());
    tensors.resize_with(ids.len(), || None);
    if plan.steps.is_empty() {
        let mut result = Malloced::new(count, &network.account)?;
        tiled::read(network.node(root).source(), 0, result.elements())?;
        return Ok(result);
    }
    let mut result = None;
    let mut marks = vec![usize::MAX; labels.count];
    let mut done = 0.0;
    for (number, step) in plan.steps.iter().enumerate() {
        let mut operand = |tensor: usize| match tensors[tensor].take() {
            Some(made) => Ok(made),
            None => {
                let node = network.node(ids[tensor]);
                let source = node.source();
                let scale = if source.chunked.is_some() { Scale::unknown() } else { Scale::measure(source)? };
                Ok(Tensor { axes: labels.axes(network, ids[tensor]), data: None, scale })
            }
        };
        let (upper, lower) = (operand(step.upper)?, operand(step.lower)?);
        let operands =
            [upper.source(network, ids.get(step.upper)), lower.source(network, ids.get(step.lower))];
        let last = number + 1 == plan.steps.len();
        if last {
            result = Some(Malloced::new(count, &network.account)?);
        }
        let target = result.as_mut().map(|result| (&strides[..], result.elements()));
        // The product after this one reads a node's tensor first if it has one: the other operand is a result.
        let next = plan.steps.get(number + 1).and_then(|step| {
            [step.upper, step.lower]
                .into_iter()
                .filter_map(|tensor| ids.get(tensor))
                .find_map(|id| network.node(*id).source().chunked)
        });
        tensors.push(multiply(
            network,
            memory,
            plan,
            [&upper, &lower],
            operands,
            target,
            next,
            &mut marks,
            &mut done,
        )?);
        *steps_done += 1;
    }
    match result {
        Some(result) => Ok(result),
        None => fail!(Internal, "a plan without a last step"),
    }
}

fn elements(axes: &[Labelled]) -> usize {
    axes.iter().map(|axis| axis.size).product()
}
fn strides_of(axes: &[Labelled]) -> Vec<usize> {
    shape::strides(&axes.iter().map(|axis| axis.size).collect::<Vec<_>>())
}

/// One product: into `target` with its strides by label, or into a new tensor.
#[allow(clippy::too_many_arguments)] // all are needed, and a structure for them would be used once
fn multiply(
    network: &Network,
    memory: &Memory,
    plan: &Plan,
    [left, right]: [&Tensor; 2],
    [left_source, right_source]: [Source; 2],
    target: Option<(&[usize], &mut [Complex])>,
    next: Option<&dyn ChunkedMemory>,
    marks: &mut [usize],
    done: &mut f64,
) -> Result<Option<Tensor>> {
    let (left_strides, right_strides) = (strides_of(&left.axes), strides_of(&right.axes));
    for (axis, labelled) in right.axes.iter().enumerate() {
        marks[labelled.label] = axis;
    }
    let mut product = Product::default();
    let mut axes = Vec::with_capacity(left.axes.len() + right.axes.len());
    for (axis, labelled) in left.axes.iter().enumerate() {
        let (size, input) = (labelled.size, left_strides[axis]);
        match core::mem::replace(&mut marks[labelled.label], usize::MAX) {
            usize::MAX => {
                product.rows.push(Axis { size, input, other: 0 });
                axes.push(*labelled);
            }
            partner => product.sums.push(Axis { size, input, other: right_strides[partner] }),
        }
    }
    for (axis, labelled) in right.axes.iter().enumerate() {
        if core::mem::replace(&mut marks[labelled.label], usize::MAX) != usize::MAX {
            product.columns.push(Axis { size: labelled.size, input: right_strides[axis], other: 0 });
            axes.push(*labelled);
        }
    }
    let own_strides = strides_of(&axes);
    let out_stride = |place: usize| match &target {
        Some((strides, _)) => strides[axes[place].label],
        None => own_strides[place],
    };
    for (place, axis) in product.rows.iter_mut().chain(&mut product.columns).enumerate() {
        axis.other = out_stride(place);
    }
    let work = product.terms();
    let count = shape::elements(&axes.iter().map(|axis| axis.size).collect::<Vec<_>>())?;
    let last = target.is_some();
    let mut block = None;
    let mut out = match target {
        Some((_, elements)) => Target { elements, chunked: None },
        None => block.insert(memory.elements(count, storage_for(memory, count))?).target(count),
    };
    let mut scales = [left.scale, right.scale];
    // Of the product, as far as was told: it may be made twice.
    let mut told = 0.0_f64;
    let mut scale_of = loop {
        (product.left_exponent, product.right_exponent) = (0, 0);
        let made = Scale::of_product(scales[0], scales[1], &mut product);
        let mut tick = |share: f64| {
            told = told.max(share);
            let (done, total) = (*done + told * work, plan.terms);
            network.progress.report(OPERATIONS_PER_TERM * done, OPERATIONS_PER_TERM * total)
        };
        tiled::multiply(&product, left_source, right_source, &mut out, memory.pinnable(), next, &mut tick)?;
        let unknown = scales.iter().any(Scale::is_unknown);
        if !unknown || !Scale::looks_wrong(Source { elements: out.elements, chunked: out.chunked })? {
            break made;
        }
        for (scale, source) in scales.iter_mut().zip([left_source, right_source]) {
            if scale.is_unknown() {
                *scale = Scale::measure(source)?;
            }
        }
    };
    *done += work;
    if last {
        if scale_of.exponent != 0 {
            scale(out.elements, scale_of.exponent);
        }
        return Ok(None);
    }
    scale_of.refresh(&mut out)?;
    let Some(data) = block else { return fail!(Internal, "a product without a place") };
    Ok(Some(Tensor { axes, data: Some(data), scale: scale_of }))
}
