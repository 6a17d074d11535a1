//! One budget of squared error for all bonds of a tree.

/// The squared error that may still be made, and how bonds share it.
pub struct Budget {
    /// Squared error that is neither made nor set aside.
    left: f64,
    /// Squared error set aside for bonds that are too large, by node. Empty if nothing is.
    reserved: Vec<f64>,
    /// Largest bond wanted; 0: no limit.
    most: usize,
    /// Bonds that have not had their share yet.
    bonds: usize,
    fitted: bool,
}

/// Sum of the squares of all values after the first `kept`.
pub fn tail(values: &[f64], kept: usize) -> f64 {
    values.iter().skip(kept).rev().map(|value| value * value).sum()
}

impl Budget {
    /// A budget of `squared`, the squared error allowed in all, for bonds of size `most` if that can be (0: any
    /// size).
    pub fn new(squared: f64, most: usize) -> Budget {
        Budget { left: squared, reserved: Vec::new(), most, bonds: 0, fitted: true }
    }
    /// Sets aside what each bond, by node, needs to come down to the largest size wanted. Bonds that need least come
    /// first. Those for which too little is left get nothing.
    pub fn reserve(&mut self, needed: &[f64]) {
        self.reserved = vec![0.0; needed.len()];
        let mut nodes: Vec<usize> = (0..needed.len()).filter(|node| needed[*node] > 0.0).collect();
        nodes.sort_by(|a, b| needed[*a].total_cmp(&needed[*b]));
        for node in nodes {
            if needed[node] <= self.left {
                self.reserved[node] = needed[node];
                self.left -= needed[node];
            }
        }
    }
    /// Shares what is left equally over so many bonds. What a bond does not use goes to the next ones.
    pub fn share_over(&mut self, bonds: usize) {
        self.bonds = bonds;
    }
    /// How many singular values (given descending) the bond above `node` keeps.
    pub fn keep(&mut self, node: usize, values: &[f64]) -> usize {
        let reserved = self.reserved.get(node).copied().unwrap_or(0.0);
        let share = self.left / self.bonds.max(1) as f64;
        self.bonds = self.bonds.saturating_sub(1);
        let allowed = reserved + share;
        // Walk up from the smallest value while all that is dropped fits.
        let (mut kept, mut dropped) = (values.len(), 0.0);
        while kept > 1 && dropped + values[kept - 1] * values[kept - 1] <= allowed {
            kept -= 1;
            dropped += values[kept] * values[kept];
        }
        kept = kept.min(numerical_rank(values));
        if self.most != 0 && kept > self.most && tail(values, self.most) <= reserved + self.left {
            kept = self.most;
        }
        self.fitted &= self.most == 0 || kept <= self.most;
        self.left = (self.left + reserved - tail(values, kept)).max(0.0);
        kept
    }
    /// Whether no bond had to stay larger than wanted.
    pub fn fitted(&self) -> bool {
        self.fitted
    }
}

/// How many values are above the rounding error of 32-bit elements; at least 1.
fn numerical_rank(values: &[f64]) -> usize {
    let largest = values.first().copied().unwrap_or(0.0);
    let floor = largest * f64::from(f32::EPSILON) * (values.len() as f64).sqrt();
    values.iter().filter(|value| **value > floor).count().max(1)
}
