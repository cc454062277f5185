//! Conditioned tokens inside a candle model: one field and one line of the forward.
//!
//! `cargo run --release --example drop_in -p candle-conditioning`
//!
//! A patch embedding with a position table, as a ViT begins, and a linear head, under a few steps of
//! gradient descent. The conditioner stands after the position table, before the first layer. It has
//! no parameters: a checkpoint fits the model with and without it.
#![allow(clippy::print_stdout)]

use candle_conditioning::{Conditioner, condition_number};
use candle_core::{Device, Module, Result, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// B, N, entries of a patch, d, classes.
const SIZES: [usize; 5] = [8, 16, 12, 32, 4];

struct Model {
    patches: Var,
    positions: Var,
    conditioner: Conditioner,
    head: Var,
}

impl Model {
    /// The tokens that enter the first layer: (B, N, P) -> (B, N, d).
    fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let embedded = images.broadcast_matmul(&self.patches)?;
        embedded.broadcast_add(&self.positions)?.apply(&self.conditioner)
    }
}

impl Module for Model {
    /// (B, N, P) -> (B, classes).
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.tokens(images)?.mean(1)?.matmul(&self.head)
    }
}

fn main() -> Result<()> {
    let [batch, tokens, patch, channels, classes] = SIZES;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let images = normal(&mut rng, &[batch, tokens, patch], 1.0)?;
    let wanted = normal(&mut rng, &[batch, classes], 1.0)?;
    let patches = normal(&mut rng, &[patch, channels], 0.3)?;
    let positions = normal(&mut rng, &[tokens, channels], 0.02)?;
    let head = normal(&mut rng, &[channels, classes], 0.02)?;
    for (name, t) in [("plain", 0.0), ("conditioned", 1.0)] {
        let model = Model {
            patches: Var::from_tensor(&patches)?,
            positions: Var::from_tensor(&positions)?,
            conditioner: Conditioner::default().with_strength(t)?,
            head: Var::from_tensor(&head)?,
        };
        let kappa = condition_number(&model.tokens(&images)?)?.to_vec1::<f64>()?;
        let worst = kappa.into_iter().fold(0.0, f64::max);
        println!(
            "{name}: kappa of the tokens {worst:.2}, loss {:.4?}",
            train(&model, &images, &wanted)?
        );
    }
    Ok(())
}

/// The losses of a few steps of gradient descent.
fn train(model: &Model, images: &Tensor, wanted: &Tensor) -> Result<Vec<f32>> {
    let mut losses = Vec::new();
    for _ in 0..6 {
        let loss = (model.forward(images)? - wanted)?.sqr()?.mean_all()?;
        let gradients = loss.backward()?;
        for var in [&model.patches, &model.positions, &model.head] {
            if let Some(gradient) = gradients.get(var) {
                var.set(&(var.as_tensor() - (gradient * 0.05)?)?)?;
            }
        }
        losses.push(loss.to_scalar()?);
    }
    Ok(losses)
}

fn normal(rng: &mut ChaCha8Rng, shape: &[usize], scale: f32) -> Result<Tensor> {
    let mut draw = || -> f32 { StandardNormal.sample(rng) };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| scale * draw()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}
