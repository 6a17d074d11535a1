//! Walking trees without recursion, because a tree may be any number of nodes deep.
use super::Network;

impl Network {
    /// `top` and the nodes below it in depth-first pre-order, with children in the order in which they were
    /// connected.
    pub fn preorder(&self, top: usize) -> Vec<usize> {
        let mut order = Vec::new();
        let mut stack = vec![top];
        while let Some(id) = stack.pop() {
            order.push(id);
            stack.extend(self.node(id).children().iter().rev());
        }
        order
    }
}
