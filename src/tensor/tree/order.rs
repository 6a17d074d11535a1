//! A contraction order as a binary tree of products, and its steps arranged so that little is held at one time.
use super::graph::Graph;

/// The products of an order. Tensors are numbered: first the nodes (by position in the graph), then the products.
#[derive(Clone)]
pub struct Products {
    /// For each product: the tensor at the upper end of its edge, the tensor at the lower end, and the edge, which
    /// is named by the position at its lower end.
    pub joins: Vec<(usize, usize, usize)>,
    /// Elements of every tensor, nodes first.
    pub size: Vec<f64>,
    nodes: usize,
}

/// One product of a plan. Operands are numbered as in [`Products`], but products by the sequence of the steps: the
/// n-th step makes tensor `nodes + n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The operand that holds the parent end of the edge.
    pub upper: usize,
    /// The other operand.
    pub lower: usize,
}

/// The steps of a contraction, and what they cost.
#[derive(Debug)]
pub struct Plan {
    /// The products in order.
    pub steps: Vec<Step>,
    /// Multiply-adds of all steps.
    pub terms: f64,
    /// The most elements that intermediate tensors and the result have at one time.
    pub peak: f64,
}

impl Products {
    /// Starts with the nodes, and no products.
    pub fn new(graph: &Graph) -> Products {
        Products { joins: Vec::with_capacity(graph.len()), size: graph.size.clone(), nodes: graph.len() }
    }
    /// Joins two tensors over the edge above `position`. Returns the product's number.
    pub fn join(&mut self, graph: &Graph, upper: usize, lower: usize, position: usize) -> usize {
        self.joins.push((upper, lower, position));
        self.size.push(0.0);
        let made = self.size.len() - 1;
        self.resize(graph, made);
        made
    }
    /// Recomputes a product's size from its operands'.
    pub fn resize(&mut self, graph: &Graph, made: usize) {
        let (upper, lower, position) = self.joins[made - self.nodes];
        let bond = graph.bond[position];
        self.size[made] = self.size[upper] / bond * (self.size[lower] / bond);
    }
    /// Number of nodes: the number of the first product.
    pub fn nodes(&self) -> usize {
        self.nodes
    }
    /// Multiply-adds of one product.
    pub fn terms(&self, graph: &Graph, made: usize) -> f64 {
        self.size[made] * graph.bond[self.joins[made - self.nodes].2]
    }
    /// `top` and the products below it, operands before the products that use them.
    fn bottom_up(&self, top: usize) -> Vec<usize> {
        let mut found = Vec::with_capacity(self.joins.len());
        let mut stack = vec![top];
        while let Some(made) = stack.pop() {
            if made >= self.nodes {
                found.push(made);
                let (upper, lower, _) = self.joins[made - self.nodes];
                stack.extend([upper, lower]);
            }
        }
        found.reverse();
        found
    }
    /// Arranges the products for the least peak. Of two operands, the one whose making needs more memory beyond
    /// what its result holds is made first.
    pub fn arrange(&self, graph: &Graph, top: usize) -> Plan {
        let held = |tensor: usize| if tensor < self.nodes { 0.0 } else { self.size[tensor] };
        let mut peak = vec![0.0f64; self.size.len()];
        let mut lower_first = vec![false; self.size.len()];
        let mut terms = 0.0;
        for made in self.bottom_up(top) {
            let (upper, lower, _) = self.joins[made - self.nodes];
            let together = held(upper) + held(lower) + self.size[made];
            let by_upper = peak[upper].max(held(upper) + peak[lower]);
            let by_lower = peak[lower].max(held(lower) + peak[upper]);
            lower_first[made] = by_lower < by_upper;
            peak[made] = by_upper.min(by_lower).max(together);
            terms += self.terms(graph, made);
        }
        let mut number: Vec<usize> = (0..self.size.len()).collect();
        let mut steps = Vec::with_capacity(self.joins.len());
        let mut stack = vec![(top, false)];
        while let Some((made, ready)) = stack.pop() {
            if made < self.nodes {
                continue;
            }
            let (upper, lower, _) = self.joins[made - self.nodes];
            if ready {
                steps.push(Step { upper: number[upper], lower: number[lower] });
                number[made] = self.nodes + steps.len() - 1;
            } else {
                stack.push((made, true));
                stack.extend(if lower_first[made] {
                    [(upper, false), (lower, false)]
                } else {
                    [(lower, false), (upper, false)]
                });
            }
        }
        Plan { steps, terms, peak: if top < self.nodes { self.size[top] } else { peak[top] } }
    }
}
