//! Contracting the whole tree: plan the order, then evaluate it.
//!
//! - `graph` reduces a tree to the sizes of its tensors and bonds.
//! - `exact` finds the best order of a small tree by dynamic programming over its edges.
//! - `search` plans trees of any size.
//! - `order` arranges the steps so that they need little memory.
//! - `evaluate` carries them out.
mod evaluate;
mod exact;
mod graph;
mod order;
mod scaled;
mod search;
#[cfg(test)]
mod tests;

pub use evaluate::contract;
pub use graph::dimensions;
pub use order::Plan;

use super::kernel::OPERATIONS_PER_TERM;
use super::memory::Memory;
use super::network::Network;
use crate::error::{Result, fail};
use graph::Graph;
use search::Effort;
use std::rc::Rc;
use std::time::Instant;

/// The last plan, and what it was made for: the effort, the version of the network, the limit in bytes.
#[derive(Default)]
pub struct Cache {
    made: Option<(Rc<Plan>, Effort, u64, Option<usize>)>,
}

/// The plan for contracting the root's tree. The one in the cache is taken if neither the network nor the limit
/// has changed since, and if it was made with as much effort.
fn plan(network: &mut Network, memory: &Memory, effort: Effort) -> Result<Rc<Plan>> {
    let Some(root) = network.root() else { return fail!(InvalidArgument, "the network has no nodes") };
    let (version, limit) = (network.version(), memory.limit());
    if let Some((plan, made, of, under)) = &network.plan.made
        && (*of, *under) == (version, limit)
        && *made >= effort
    {
        return Ok(plan.clone());
    }
    let start = Instant::now();
    let graph = Graph::new(network, root);
    let plan = Rc::new(search::plan(&graph, effort, limit));
    network.plan.made = Some((plan.clone(), effort, version, limit));
    network.metrics.optimization_time += start.elapsed().as_secs_f64();
    Ok(plan)
}

/// Plans thoroughly, and keeps the plan for later contractions.
pub fn optimize(network: &mut Network, memory: &Memory) -> Result<()> {
    let start = Instant::now();
    plan(network, memory, Effort::Thorough)?;
    network.spent(start);
    Ok(())
}

/// What contracting the tree will cost: floating-point operations, and the most bytes that intermediate tensors
/// and the result take at one time.
pub fn cost(network: &mut Network, memory: &Memory) -> Result<(f64, f64)> {
    let start = Instant::now();
    let plan = plan(network, memory, Effort::Quick)?;
    network.spent(start);
    Ok((OPERATIONS_PER_TERM * plan.terms, plan.peak * size_of::<super::Complex>() as f64))
}
