//! Table 1.
fn main() {}
