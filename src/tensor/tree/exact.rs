//! The best order of contracting a small tree of tensors, by dynamic programming over its edges.
//!
//! The last product of any order removes one edge and joins the two parts beside it, each of which was contracted in
//! its own best order. So the best order of a connected part is found by trying each of its edges as the last one,
//! given the best orders of smaller parts.
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// A tree of at most 64 tensors. Sizes are logarithms to base 2.
pub struct SmallTree {
    /// Elements of each tensor.
    pub size: Vec<f64>,
    /// Edges: the vertex above, the vertex below, the size of the bond.
    pub edges: Vec<(usize, usize, f64)>,
}

/// What to minimise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Multiply-adds.
    Time,
    /// The largest intermediate tensor; of orders with the same, multiply-adds.
    Space,
}

/// What an order costs: the largest tensor (0 where only time matters), then multiply-adds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Score(f64, f64);

/// A solved part: its score, and the edge that is removed last.
#[derive(Clone, Copy)]
struct Solved {
    score: Score,
    edge: usize,
}

/// An order of contraction, and what it costs.
pub struct Order {
    /// The edges in the sequence of their products. Operands come before the products that use them.
    pub edges: Vec<usize>,
    /// Multiply-adds.
    pub terms: f64,
    /// Elements of the largest product.
    pub largest: f64,
}

struct Solver<'a> {
    tree: &'a SmallTree,
    objective: Objective,
    /// For each edge, the set of vertices below it, a bit for each.
    below: Vec<u64>,
    /// For each edge, the set of its two ends.
    ends: Vec<u64>,
    known: Table,
}

/// The solved parts: an array for the smallest trees, which are solved often, else a hash table. A part is the set
/// of its vertices, a bit for each.
enum Table {
    Dense(Vec<Solved>),
    Sparse(HashMap<u64, Solved, FixedState>),
}
impl Table {
    const NONE: Solved = Solved { score: Score(0.0, 0.0), edge: usize::MAX };
    fn new(vertices: usize) -> Table {
        if vertices <= 10 {
            Table::Dense(vec![Table::NONE; 1 << vertices])
        } else {
            Table::Sparse(HashMap::default())
        }
    }
    fn get(&self, part: u64) -> Option<Solved> {
        match self {
            Table::Dense(array) => Some(array[part as usize]).filter(|solved| solved.edge != usize::MAX),
            Table::Sparse(table) => table.get(&part).copied(),
        }
    }
    fn set(&mut self, part: u64, solved: Solved) {
        match self {
            Table::Dense(array) => array[part as usize] = solved,
            Table::Sparse(table) => drop(table.insert(part, solved)),
        }
    }
}

/// An estimate of what [`solve`] has to do: the number of connected parts, times a third of the vertices for the
/// edges of each. The first vertex must be the top, and every other vertex must come after the one above it.
pub fn work(vertices: usize, parents: impl Fn(usize) -> usize) -> f64 {
    // Connected parts whose top is v: from below each child, nothing or any part whose top is that child.
    let mut parts = vec![1.0f64; vertices];
    for v in (1..vertices).rev() {
        parts[parents(v)] *= 1.0 + parts[v];
    }
    parts.iter().sum::<f64>() * vertices as f64 / 3.0
}

/// Finds the best order. The tree must have at least one edge. One vertex, the top, must be no edge's lower end, and
/// every edge's lower end must be farther from the top than its upper end.
pub fn solve(tree: &SmallTree, objective: Objective) -> Order {
    let mut below: Vec<u64> = tree.edges.iter().map(|edge| 1 << edge.1).collect();
    // Grow each edge's set until it holds everything that hangs from the edge. One pass does where edges are listed
    // from the top down, because it visits the last one first.
    loop {
        let mut grown = false;
        for (e, edge) in tree.edges.iter().enumerate().rev() {
            for f in 0..tree.edges.len() {
                if below[f] & 1 << edge.0 != 0 && below[f] | below[e] != below[f] {
                    below[f] |= below[e];
                    grown = true;
                }
            }
        }
        if !grown {
            break;
        }
    }
    let ends = tree.edges.iter().map(|edge| 1 << edge.0 | 1 << edge.1).collect();
    let mut solver = Solver { tree, objective, below, ends, known: Table::new(tree.size.len()) };
    let all = u64::MAX >> (64 - tree.size.len());
    let best = solver.part(all);
    let mut order = Order { edges: Vec::with_capacity(tree.edges.len()), terms: 0.0, largest: 0.0 };
    let mut stack = vec![all];
    while let Some(part) = stack.pop() {
        if part.count_ones() > 1 {
            let Some(Solved { edge, .. }) = solver.known.get(part) else { break };
            order.edges.push(edge);
            order.largest = order.largest.max(solver.size(part).exp2());
            stack.extend([part & solver.below[edge], part & !solver.below[edge]]);
        }
    }
    order.edges.reverse();
    order.terms = best.1;
    order
}

impl Solver<'_> {
    /// Size of a contracted part: that of all its tensors together, without the bonds inside the part. Each such
    /// bond is an axis of two tensors, so it is taken off twice.
    fn size(&self, part: u64) -> f64 {
        let inside = |e: &usize| part & self.ends[*e] == self.ends[*e];
        let tensors: f64 =
            (0..self.tree.size.len()).filter(|v| part & 1 << v != 0).map(|v| self.tree.size[v]).sum();
        tensors - 2.0 * (0..self.ends.len()).filter(inside).map(|e| self.tree.edges[e].2).sum::<f64>()
    }
    /// Solves a part. The recursion is at most 64 deep.
    fn part(&mut self, part: u64) -> Score {
        if part.count_ones() == 1 {
            return Score(0.0, 0.0);
        }
        if let Some(solved) = self.known.get(part) {
            return solved.score;
        }
        let size = self.size(part);
        let mut best = Solved { score: Score(f64::INFINITY, f64::INFINITY), edge: usize::MAX };
        for edge in 0..self.ends.len() {
            if part & self.ends[edge] != self.ends[edge] {
                continue;
            }
            let (lower, upper) = (self.part(part & self.below[edge]), self.part(part & !self.below[edge]));
            // Multiply-adds of a product: the elements of the result times the size of the bond.
            let terms = lower.1 + upper.1 + (size + self.tree.edges[edge].2).exp2();
            let largest =
                if self.objective == Objective::Space { lower.0.max(upper.0).max(size) } else { 0.0 };
            if Score(largest, terms) < best.score || best.edge == usize::MAX {
                best = Solved { score: Score(largest, terms), edge };
            }
        }
        self.known.set(part, best);
        best.score
    }
}
