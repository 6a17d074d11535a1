//! Planning trees of any size: exactly where that is cheap, else a good order improved window by window.
//!
//! The search starts from an order in which everything flows towards one tensor, the center, and every branch is contracted
//! before it is joined. The center is the one with which such an order takes the fewest multiply-adds.
//!
//! At a tensor, the best sequence of its branches follows from exchanging neighbours: branch i goes before j if 1/d_i -
//! 1/f_i < 1/d_j - 1/f_j. Here d is the size of the branch's bond, and f its open size: the elements of the contracted
//! branch, divided by d.
//!
//! Windows of a few neighbouring products are then put in their best order by the exact method ("subtree reconfiguration"
//! of Gray and Kourtis, "Hyper-optimized tensor network contraction", 2021).
use super::exact::{self, Objective, SmallTree};
use super::graph::Graph;
use super::order::{Plan, Products};
use crate::tensor::Complex;

/// How much planning is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Effort {
    /// For a contraction: microseconds a node, and more only for long contractions.
    Quick,
    /// For a program that asks for a plan.
    Thorough,
}

/// Plans for the fewest multiply-adds with a peak of at most `limit` bytes. If no order found keeps the limit, the result
/// is the fastest one, and its tensors leave RAM. The order that comes nearest to the limit would not be worth its time.
pub fn plan(graph: &Graph, effort: Effort, limit: Option<usize>) -> Plan {
    let first = plan_for(graph, effort, Objective::Time);
    let fits =
        |plan: &Plan| limit.is_none_or(|bytes| plan.peak * size_of::<Complex>() as f64 <= bytes as f64);
    if fits(&first) {
        return first;
    }
    let second = plan_for(graph, effort, Objective::Space);
    if fits(&second) { second } else { first }
}

fn plan_for(graph: &Graph, effort: Effort, objective: Objective) -> Plan {
    let nodes = graph.len();
    if nodes == 1 {
        return Products::new(graph).arrange(graph, 0);
    }
    let flow = Flow::new(graph);
    // One unit of work is about 10 nanoseconds of planning, in which 100 multiply-adds could be done. Planning may take a
    // twentieth of the time of the contraction.
    let worth = flow.terms * 0.05 / 100.0;
    let budget = match effort {
        Effort::Quick => (600.0 * nodes as f64).max(worth.min(1e7)),
        Effort::Thorough => (2e4 * nodes as f64).max(worth).min(1e8),
    };
    if nodes <= 64 && exact::work(nodes, |v| graph.parent[v]) <= budget {
        return solve_exactly(graph, objective);
    }
    search_from(graph, &flow, objective, budget)
}

/// The best order of a tree of at most 64 tensors.
fn solve_exactly(graph: &Graph, objective: Objective) -> Plan {
    let nodes = graph.len();
    let edges = (1..nodes).map(|v| (graph.parent[v], v, graph.bond[v].log2())).collect();
    let tree = SmallTree { size: graph.size.iter().map(|s| s.log2()).collect(), edges };
    let mut products = Products::new(graph);
    let mut made: Vec<usize> = (0..nodes).collect(); // by node: the tensor whose top it is, if any
    let owner = |made: &[usize], mut v: usize| {
        while made[v] == usize::MAX {
            v = graph.parent[v];
        }
        v
    };
    let mut last = 0;
    for edge in exact::solve(&tree, objective).edges {
        let (upper, lower) = (owner(&made, graph.parent[edge + 1]), edge + 1);
        last = products.join(graph, made[upper], made[lower], edge + 1);
        made[upper] = last;
        made[lower] = usize::MAX;
    }
    products.arrange(graph, last)
}

/// The search alone, also for small trees.
#[cfg(test)]
pub fn search(graph: &Graph, objective: Objective, budget: f64) -> Plan {
    search_from(graph, &Flow::new(graph), objective, budget)
}
fn search_from(graph: &Graph, flow: &Flow, objective: Objective, budget: f64) -> Plan {
    let mut products = Products::new(graph);
    let top = flow.products(graph, &mut products);
    improve(graph, &mut products, objective, budget);
    products.arrange(graph, top)
}

/// What it costs to contract everything towards one tensor, for every choice of that tensor, the center.
struct Flow {
    /// By node, the branch below it, as its parent joins it: multiply-adds to contract it, and its open size.
    up: Vec<(f64, f64)>,
    /// By node, the branch through its parent: the same for everything that is not below the node. Infinite where it is not
    /// known.
    down: Vec<(f64, f64)>,
    /// The best center.
    center: usize,
    /// Multiply-adds of contracting towards the best center.
    terms: f64,
    children: Vec<Vec<usize>>,
}

/// At a vertex with more neighbours than this, the branches through it are not computed, because each leaves out another
/// neighbour. So no vertex below it is tried as the center.
const WIDE: usize = 64;

/// A branch at a vertex: the vertex it starts with, its bond, its open size, its multiply-adds.
#[derive(Clone, Copy)]
struct Branch {
    start: usize,
    bond: f64,
    open: f64,
    terms: f64,
}

impl Flow {
    fn new(graph: &Graph) -> Flow {
        let nodes = graph.len();
        let mut children = vec![Vec::new(); nodes];
        for v in 1..nodes {
            children[graph.parent[v]].push(v);
        }
        let none = (f64::INFINITY, f64::INFINITY);
        let mut flow =
            Flow { up: vec![none; nodes], down: vec![none; nodes], center: 0, terms: 0.0, children };
        for v in (1..nodes).rev() {
            flow.up[v] = absorb(graph, v, &flow.branches(graph, v), v, graph.bond[v]);
        }
        let mut best = f64::INFINITY;
        for v in 0..nodes {
            if v > 0 && !flow.down[v].0.is_finite() {
                continue;
            }
            let branches = flow.branches(graph, v);
            let total = absorb(graph, v, &branches, usize::MAX, 1.0).0;
            if total < best || v == 0 {
                (flow.center, best) = (v, total);
            }
            if branches.len() <= WIDE {
                for i in 0..flow.children[v].len() {
                    let child = flow.children[v][i];
                    flow.down[child] = absorb(graph, v, &branches, child, graph.bond[child]);
                }
            }
        }
        flow.terms = best;
        flow
    }
    /// The branches at a vertex whose costs are known, in the best sequence.
    fn branches(&self, graph: &Graph, v: usize) -> Vec<Branch> {
        let branch = |start: usize, bond: f64, (terms, open): (f64, f64)| Branch { start, bond, open, terms };
        let mut branches: Vec<Branch> =
            self.children[v].iter().map(|&c| branch(c, graph.bond[c], self.up[c])).collect();
        if v > 0 && self.down[v].0.is_finite() {
            branches.push(branch(v, graph.bond[v], self.down[v]));
        }
        let key = |b: &Branch| 1.0 / b.bond - 1.0 / b.open;
        branches.sort_by(|a, b| key(a).total_cmp(&key(b)));
        branches
    }
    /// Adds the products of contracting towards the center to `products`. Returns the last one.
    fn products(&self, graph: &Graph, products: &mut Products) -> usize {
        // Visit from the center outwards, then join backwards.
        let mut order = Vec::with_capacity(graph.len());
        let mut stack = vec![(self.center, usize::MAX)];
        while let Some((v, from)) = stack.pop() {
            order.push((v, from));
            let neighbours = self.children[v].iter().copied().chain((v > 0).then(|| graph.parent[v]));
            stack.extend(neighbours.filter(|n| *n != from).map(|n| (n, v)));
        }
        let mut made: Vec<usize> = (0..graph.len()).collect();
        for &(v, from) in order.iter().rev() {
            for branch in self.branches(graph, v) {
                // A branch that starts with the vertex itself is the one through its parent.
                let through_parent = branch.start == v;
                let other = if through_parent { graph.parent[v] } else { branch.start };
                if other == from {
                    continue;
                }
                let (upper, lower) = if through_parent { (other, v) } else { (v, other) };
                made[v] = products.join(graph, made[upper], made[lower], branch.start);
            }
        }
        made[self.center]
    }
}

/// Contracts all branches at a vertex into it, apart from the one that starts with `except`. Returns the multiply-adds and
/// the open size towards that one; `kept` is the size of its bond.
fn absorb(graph: &Graph, v: usize, branches: &[Branch], except: usize, kept: f64) -> (f64, f64) {
    let (mut size, mut terms) = (graph.size[v], 0.0);
    // The branch through the parent starts with v itself. On the way up it is not among the branches yet.
    for branch in branches.iter().filter(|b| b.start != except) {
        terms += branch.terms + size * branch.open;
        size *= branch.open / branch.bond;
    }
    (terms, size / kept)
}

/// Which product in a window is replaced by its two operands next.
#[derive(Clone, Copy)]
enum Expansion {
    Largest,
    Oldest,
}

/// Puts windows of neighbouring products into their best order until nothing gets better or the budget is used up.
fn improve(graph: &Graph, products: &mut Products, objective: Objective, mut budget: f64) {
    for (window, expansion) in
        [(6, Expansion::Largest), (6, Expansion::Oldest), (9, Expansion::Largest), (9, Expansion::Oldest)]
    {
        let cost = f64::from(1 << window) * window as f64 / 3.0;
        let mut better = true;
        while better {
            better = false;
            for made in products.nodes()..products.size.len() {
                if budget < cost {
                    return;
                }
                budget -= cost;
                better |= improve_window(graph, products, made, objective, window, expansion);
            }
        }
    }
}

/// Reorders `top` and the products just below it. Returns whether that saved something.
fn improve_window(
    graph: &Graph,
    products: &mut Products,
    top: usize,
    objective: Objective,
    size: usize,
    expansion: Expansion,
) -> bool {
    let Some(window) = Window::below(graph, products, top, size, expansion) else { return false };
    let tree = SmallTree {
        size: window.parts.iter().map(|part| products.size[*part].log2()).collect(),
        edges: window.edges.iter().map(|e| (e.0, e.1, graph.bond[e.2].log2())).collect(),
    };
    let found = exact::solve(&tree, objective);
    let better = window.is_worse_than(&found, graph, products, objective);
    if better {
        window.reorder(&found, graph, products);
    }
    better
}

/// Neighbouring products and what they join.
struct Window {
    /// The products, the top one first.
    inner: Vec<usize>,
    /// The tensors that these products join.
    parts: Vec<usize>,
    /// For each product, which two parts its bond connects (upper, lower), and the bond.
    edges: Vec<(usize, usize, usize)>,
}

impl Window {
    /// Starts with `top` as the only part, and replaces one product after the other by its operands until there are `size`
    /// parts. `None` if that finds only one product.
    fn below(
        graph: &Graph,
        products: &Products,
        top: usize,
        size: usize,
        expansion: Expansion,
    ) -> Option<Window> {
        let nodes = products.nodes();
        let (mut inner, mut parts) = (Vec::with_capacity(size), vec![top]);
        while parts.len() < size {
            let mut products_left = (0..parts.len()).filter(|i| parts[*i] >= nodes);
            let chosen = match expansion {
                Expansion::Oldest => products_left.next(),
                Expansion::Largest => {
                    products_left.max_by(|a, b| products.size[parts[*a]].total_cmp(&products.size[parts[*b]]))
                }
            };
            let Some(i) = chosen else { break };
            let made = parts.remove(i);
            inner.push(made);
            let (upper, lower, _) = products.joins[made - nodes];
            parts.extend([upper, lower]);
        }
        if inner.len() < 2 {
            return None;
        }
        let edge = |made: &usize| {
            // Find the parts that have the edge's two ends, from the product's operands downwards. The lower end is the top
            // vertex of its part.
            let (upper, lower, edge) = products.joins[made - nodes];
            let part = |tensor, vertex| part_with(graph, products, &parts, tensor, vertex);
            (part(upper, graph.parent[edge]), part(lower, edge), edge)
        };
        let edges = inner.iter().map(edge).collect();
        Some(Window { inner, parts, edges })
    }
    /// Whether the window's products cost more in their present order than in the one that was found.
    fn is_worse_than(
        &self,
        found: &exact::Order,
        graph: &Graph,
        products: &Products,
        objective: Objective,
    ) -> bool {
        let terms: f64 = self.inner.iter().map(|made| products.terms(graph, *made)).sum();
        let largest = self.inner.iter().map(|made| products.size[*made]).fold(0.0, f64::max);
        match objective {
            Objective::Time => found.terms < terms * (1.0 - 1e-9),
            Objective::Space => {
                found.largest < largest * (1.0 - 1e-9)
                    || found.largest <= largest * (1.0 + 1e-9) && found.terms < terms * (1.0 - 1e-9)
            }
        }
    }
    /// Puts the window's products in another order.
    fn reorder(mut self, order: &exact::Order, graph: &Graph, products: &mut Products) {
        let nodes = products.nodes();
        self.inner.rotate_left(1); // the top, which the rest of the tree refers to, is made last
        let mut part_of = self.parts; // the tensor that each part belongs to now
        for (&made, &edge) in self.inner.iter().zip(&order.edges) {
            let (upper, lower, bond) = self.edges[edge];
            let (above, below) = (part_of[upper], part_of[lower]);
            products.joins[made - nodes] = (above, below, bond);
            products.resize(graph, made);
            for part in &mut part_of {
                if *part == above || *part == below {
                    *part = made;
                }
            }
        }
    }
}

/// The index of the part that has `vertex`, searched for from `tensor` downwards.
fn part_with(graph: &Graph, products: &Products, parts: &[usize], mut tensor: usize, vertex: usize) -> usize {
    loop {
        if let Some(found) = parts.iter().position(|part| *part == tensor) {
            return found;
        }
        let (above, below, between) = products.joins[tensor - products.nodes()];
        tensor = if (between..graph.end[between]).contains(&vertex) { below } else { above };
    }
}
