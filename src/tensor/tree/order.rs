//! A contraction order as a binary tree of products, and its steps arranged so that little is held at one time.
use super::graph::Graph;

/// Tensors are numbered: first the nodes (by position in the graph), then the products.
#[derive(Clone)]
pub struct Products {
    /// For each product: the tensor above its edge, the tensor below, and the position whose bond to its parent is
    /// that edge.
    pub joins: Vec<(usize, usize, usize)>,
    /// Elements of every tensor, nodes first.
    pub size: Vec<f64>,
    nodes: usize,
}

/// One product of a plan: two tensors of `Products` numbering. The n-th step makes tensor `nodes + n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The operand that holds the parent end of the edge.
    pub upper: usize,
    /// The other operand.
    pub lower: usize,
}

/// What to do, and what it costs.
#[derive(Debug)]
pub struct Plan {
    /// The products in order.
    pub steps: Vec<Step>,
    /// Multiply-adds of all steps.
    pub terms: f64,
    /// Most elements in intermediate tensors and the result at one time.
    pub peak: f64,
}

impl Products {
    /// No products yet.
    pub fn new(graph: &Graph) -> Products {
        Products { joins: Vec::with_capacity(graph.len()), size: graph.size.clone(), nodes: graph.len() }
    }
    /// Joins two tensors over the edge above `position`; gives the product's number.
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
    /// The products below `top` and itself, operands before what is made of them.
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
    /// Arranges the products for the least peak: of two operands, the one that needs more beyond what it leaves
    /// behind comes first.
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
