//! Every op, forward and backward in f32, beside its definition in candle's own operations: at the
//! sizes of ViT-S (8 images) and of a small GPT (8 sequences of 256).
//!
//! `cargo bench -p conditioned-nn`; one op: `cargo bench -p conditioned-nn -- attention`
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    Attention, BatchNorm2d, ChannelAttention, Conv2d, ConvTranspose2d, CrossCovarianceAttention,
    DepthwiseConv2d, Gelu, InverseScale, LayerNorm, LayerScale, Linear, MergePatches, Mode,
    NystromAttention, Precision, Roi, Sequence, WindowAttention, attention, average_pool,
    causal_attention, embedding, gated_gelu, gelu, gelu_tanh, layer_norm, linear_cross_entropy,
    reference, rms_norm, roi_align, softmax,
};
use divan::Bencher;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// As in the training binaries: candle allocates every result anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Batch, tokens and width of ViT-S.
const IMAGES: [usize; 3] = [8, 197, 384];

/// Its heads.
const HEADS: usize = 6;

/// Tokens of a small GPT.
const CONTEXT: usize = 256;

/// Whether the op itself runs or its definition.
#[derive(Debug, Clone, Copy)]
enum Form {
    Fused,
    Definition,
}
use Form::{Definition, Fused};

const FORMS: [Form; 2] = [Fused, Definition];

fn main() {
    divan::main();
}

/// A variable uniform in +-1.
fn variable(shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    Var::from_tensor(&tensor).unwrap().into_inner()
}

/// Numbers below `end`.
fn indices(n: usize, end: u32) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let values: Vec<u32> = (0..n).map(|_| rng.random_range(0..end)).collect();
    Tensor::from_vec(values, n, &Device::Cpu).unwrap()
}

/// Times `f` and the backward pass of its result, whose gradient is one everywhere.
fn pass(bencher: Bencher<'_, '_>, f: impl Fn() -> Result<Tensor>) {
    bencher.bench_local(|| f().unwrap().backward().unwrap());
}

#[divan::bench(name = "linear", args = FORMS)]
fn linear_layer(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w, b) = (variable(&IMAGES), variable(&[1536, 384]), variable(&[1536]));
    let layer = Linear::new(w.clone(), Some(b.clone()));
    pass(bencher, || match form {
        Fused => layer.forward(&x),
        Definition => reference::linear(&x, &w, Some(&b)),
    });
}

#[divan::bench(name = "layer_norm", args = FORMS)]
fn norm(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w, b) = (variable(&IMAGES), variable(&[384]), variable(&[384]));
    pass(bencher, || match form {
        Fused => layer_norm(&x, &w, &b, 1e-6),
        Definition => reference::layer_norm(&x, &w, &b, 1e-6),
    });
}

#[divan::bench(name = "rms_norm", args = FORMS)]
fn root_mean_square(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w) = (variable(&IMAGES), variable(&[384]));
    pass(bencher, || match form {
        Fused => rms_norm(&x, &w, 1e-6),
        Definition => reference::rms_norm(&x, &w, 1e-6),
    });
}

#[divan::bench(name = "gelu", args = FORMS)]
fn gelu_erf(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, 197, 1536]);
    pass(bencher, || match form {
        Fused => gelu(&x),
        Definition => reference::gelu(&x),
    });
}

#[divan::bench(name = "gelu_tanh", args = FORMS)]
fn gelu_of_gpt(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, 197, 1536]);
    pass(bencher, || match form {
        Fused => gelu_tanh(&x),
        Definition => reference::gelu_tanh(&x),
    });
}

#[divan::bench(name = "gated_gelu", args = FORMS)]
fn gelu_of_crammed_bert(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, 128, 3072]);
    pass(bencher, || match form {
        Fused => gated_gelu(&x),
        Definition => reference::gated_gelu(&x),
    });
}

#[divan::bench(name = "attention", args = FORMS)]
fn attention_of_vit(bencher: Bencher<'_, '_>, form: Form) {
    let qkv = variable(&[8, 197, 3 * 384]);
    pass(bencher, || match form {
        Fused => attention(&qkv, HEADS),
        Definition => reference::attention(&qkv, HEADS, false),
    });
}

#[divan::bench(name = "causal_attention", args = FORMS)]
fn attention_of_gpt(bencher: Bencher<'_, '_>, form: Form) {
    let qkv = variable(&[8, CONTEXT, 3 * 384]);
    pass(bencher, || match form {
        Fused => causal_attention(&qkv, HEADS),
        Definition => reference::attention(&qkv, HEADS, true),
    });
}

#[divan::bench(name = "window_attention", args = FORMS)]
fn attention_of_swin(bencher: Bencher<'_, '_>, form: Form) {
    let (qkv, table) = (variable(&[8, 56, 56, 3 * 96]), variable(&[169, 3]));
    let layer = WindowAttention::from_tensor(table.clone(), 3, 7, 3);
    let layer = Sequence::new([layer.into()]);
    pass(bencher, || match form {
        Fused => layer.forward(&qkv, Mode::Eval),
        Definition => reference::window_attention(&qkv, 3, 7, 3, Some(&table)),
    });
}

#[divan::bench(name = "cross_covariance_attention", args = FORMS)]
fn attention_of_xcit(bencher: Bencher<'_, '_>, form: Form) {
    let (qkv, tau) = (variable(&[8, 196, 3 * 384]), variable(&[8, 1, 1]));
    let layer = CrossCovarianceAttention::from_tensor(tau.clone()).unwrap();
    let layer = Sequence::new([layer.into()]);
    pass(bencher, || match form {
        Fused => layer.forward(&qkv, Mode::Eval),
        Definition => reference::cross_covariance_attention(&qkv, &tau),
    });
}

#[divan::bench(name = "channel_attention", args = FORMS)]
fn attention_of_davit(bencher: Bencher<'_, '_>, form: Form) {
    let qkv = variable(&[8, 56, 56, 3 * 96]);
    let layer = Sequence::new([ChannelAttention { heads: 3 }.into()]);
    pass(bencher, || match form {
        Fused => layer.forward(&qkv, Mode::Eval),
        Definition => reference::channel_attention(&qkv, 3),
    });
}

#[divan::bench(name = "softmax", args = FORMS)]
fn scores(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, HEADS, 197, 197]);
    pass(bencher, || match form {
        Fused => softmax(&x, 0.125, None),
        Definition => reference::softmax(&x, 0.125, None),
    });
}

#[divan::bench(name = "softmax_masked", args = FORMS)]
fn masked_scores(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, HEADS, CONTEXT, CONTEXT]);
    let mask = Tensor::tril2(CONTEXT, DType::U8, &Device::Cpu).unwrap();
    pass(bencher, || match form {
        Fused => softmax(&x, 0.125, Some(&mask)),
        Definition => reference::softmax(&x, 0.125, Some(&mask)),
    });
}

#[divan::bench(name = "linear_cross_entropy", args = FORMS, sample_count = 20)]
fn head(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w, labels) = (variable(&[2048, 384]), variable(&[4096, 384]), indices(2048, 4096));
    let list: Vec<u32> = labels.to_vec1().unwrap();
    pass(bencher, || match form {
        Fused => linear_cross_entropy(&x, &w, &labels, Precision::Full),
        Definition => reference::linear_cross_entropy(&x, &w, &list),
    });
}

#[divan::bench(name = "embedding", args = FORMS)]
fn table(bencher: Bencher<'_, '_>, form: Form) {
    let (ids, table) = (indices(2048, 4096), variable(&[4096, 384]));
    pass(bencher, || match form {
        Fused => embedding(&ids, &table),
        Definition => reference::embedding(&ids, &table),
    });
}

#[divan::bench(name = "depthwise_2d", args = FORMS)]
fn image(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w, b) = (variable(&[8, 14, 14, 384]), variable(&[384, 1, 3, 3]), variable(&[384]));
    let layer = DepthwiseConv2d::from_tensors(w.clone(), b.clone());
    pass(bencher, || match form {
        Fused => layer.forward(&x),
        Definition => reference::depthwise2d(&x, &w, &b),
    });
}

#[divan::bench(name = "conv2d", args = FORMS, sample_count = 20)]
fn stem(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w) = (variable(&[8, 56, 56, 96]), variable(&[192, 96, 3, 3]));
    let layer = Conv2d::from_tensors(w.clone(), None).stride(2).padding(1);
    pass(bencher, || match form {
        Fused => layer.forward(&x),
        Definition => reference::conv2d(&x, &w, None, 2, 1),
    });
}

#[divan::bench(name = "batch_norm", args = FORMS)]
fn batch_norm(bencher: Bencher<'_, '_>, form: Form) {
    let (x, w, b) = (variable(&[8, 56, 56, 96]), variable(&[96]), variable(&[96]));
    let layer = BatchNorm2d::from_tensors(w.clone(), b.clone(), variable(&[96]), variable(&[96]));
    let mode = Mode::train(0, 0);
    pass(bencher, || match form {
        Fused => layer.forward(&x, mode),
        Definition => Ok(reference::batch_norm(&x, &w, &b, 1e-5)?.0),
    });
}

#[divan::bench(name = "layer_scale", args = FORMS)]
fn scale(bencher: Bencher<'_, '_>, form: Form) {
    let (x, gamma) = (variable(&IMAGES), variable(&[384]));
    let layer = LayerScale::from_tensor(gamma.clone());
    pass(bencher, || match form {
        Fused => layer.forward(&x),
        Definition => reference::layer_scale(&x, &gamma),
    });
}

#[divan::bench(name = "merge_patches", args = FORMS)]
fn merging(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, 56, 56, 96]);
    pass(bencher, || match form {
        Fused => MergePatches.forward(&x),
        Definition => reference::merge_patches(&x),
    });
}

#[divan::bench(name = "average_pool", args = FORMS)]
fn pooling(bencher: Bencher<'_, '_>, form: Form) {
    let x = variable(&[8, 14, 14, 384]);
    pass(bencher, || match form {
        Fused => average_pool(&x),
        Definition => reference::average_pool(&x),
    });
}

/// Tokens of a long sequence; time and memory grow with them as they do.
const LONG: [usize; 4] = [512, 1024, 2048, 4096];

#[divan::bench(name = "nystrom_attention", args = LONG, consts = [0, 1], sample_count = 20)]
fn landmarks<const FORM: usize>(bencher: Bencher<'_, '_>, tokens: usize) {
    let (qkv, w) = (variable(&[4, tokens, 3 * 64]), variable(&[2, 1, 35, 1]));
    let layer = Sequence::new([NystromAttention::new(2, 64).convolution_from(w.clone()).into()]);
    pass(bencher, || match FORMS[FORM] {
        Fused => layer.forward(&qkv, Mode::Eval),
        Definition => reference::nystrom_attention(&qkv, 2, 64, InverseScale::Head, Some(&w), None),
    });
}

/// The parameters of a pre-norm block and its two branches.
struct Block {
    norms: [(Tensor, Tensor); 2],
    /// Queries, keys and values; projection; the two layers of the MLP.
    linears: [(Tensor, Tensor); 4],
}

impl Block {
    fn new() -> Self {
        let layer = |outputs, inputs| (variable(&[outputs, inputs]), variable(&[outputs]));
        Self {
            norms: [(); 2].map(|()| (variable(&[384]), variable(&[384]))),
            linears: [layer(1152, 384), layer(384, 384), layer(1536, 384), layer(384, 1536)],
        }
    }

    fn fused(&self) -> [Sequence; 2] {
        let norm = |(w, b): &(Tensor, Tensor)| LayerNorm::from_tensors(w.clone(), b.clone(), 1e-6);
        let linear = |(w, b): &(Tensor, Tensor)| Linear::new(w.clone(), Some(b.clone()));
        let (norms, linears) =
            (self.norms.each_ref().map(norm), self.linears.each_ref().map(linear));
        let ([norm1, norm2], [qkv, proj, fc1, fc2]) = (norms, linears);
        let attention = Attention { heads: HEADS, causal: false };
        [
            Sequence::residual([norm1.into(), qkv.into(), attention.into(), proj.into()]),
            Sequence::residual([norm2.into(), fc1.into(), Gelu::Erf.into(), fc2.into()]),
        ]
    }

    fn definition(&self, x: &Tensor) -> Result<Tensor> {
        let norm = |x: &Tensor, i: usize| {
            reference::layer_norm(x, &self.norms[i].0, &self.norms[i].1, 1e-6)
        };
        let linear = |x: &Tensor, i: usize| {
            reference::linear(x, &self.linears[i].0, Some(&self.linears[i].1))
        };
        let y = reference::attention(&linear(&norm(x, 0)?, 0)?, HEADS, false)?;
        let x = (x + linear(&y, 1)?)?;
        let y = reference::gelu(&linear(&norm(&x, 1)?, 2)?)?;
        &x + linear(&y, 3)?
    }
}

#[divan::bench(name = "block", args = FORMS, sample_count = 20)]
fn block(bencher: Bencher<'_, '_>, form: Form) {
    let (x, block) = (variable(&IMAGES), Block::new());
    let branches = block.fused();
    pass(bencher, || match form {
        Fused => branches.iter().try_fold(x.clone(), |x, branch| branch.forward(&x, Mode::Eval)),
        Definition => block.definition(&x),
    });
}

// A Mask R-CNN: what it spends its time on, at the sizes of a batch of one.

/// 512 boxes for classes, 128 for masks, with sides of 8 to 264 pixels in an image of 512.
#[divan::bench(args = [(512, 7), (128, 14)], sample_count = 10)]
fn roi_align_both(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let x = variable(&[1, 128, 128, 256]);
    let rois = boxes(count);
    pass(bencher, || roi_align(&x, &rois, size, 0.25, 0));
}

#[divan::bench(args = [(512, 7), (128, 14)], sample_count = 10)]
fn roi_align_forward(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let x = variable(&[1, 128, 128, 256]).detach();
    let rois = boxes(count);
    bencher.bench_local(|| roi_align(&x, &rois, size, 0.25, 0).unwrap());
}

/// Spread over the image by fixed steps, so that another program can have the same.
fn boxes(count: usize) -> Vec<Roi> {
    let at = |i: usize| {
        let part = |step: f64| (i as f64 * step).fract();
        let (x, y) = (part(0.618_034) * 512.0, part(0.414_214) * 512.0);
        let (w, h) = (8.0 + 256.0 * part(0.732_051), 8.0 + 256.0 * part(0.236_068));
        Roi { image: 0, corners: [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0] }
    };
    (0..count).map(at).collect()
}

#[divan::bench(sample_count = 10)]
fn conv_transpose2d(bencher: Bencher<'_, '_>) {
    let (x, w, b) = (variable(&[100, 14, 14, 256]), variable(&[256, 256, 2, 2]), variable(&[256]));
    let layer = ConvTranspose2d::from_tensors(w, b);
    pass(bencher, || layer.forward(&x));
}

#[divan::bench(args = [(1, 128), (128, 14)], sample_count = 5)]
fn conv2d_of_detector(bencher: Bencher<'_, '_>, (images, side): (usize, usize)) {
    let (x, w) = (variable(&[images, side, side, 256]), variable(&[256, 256, 3, 3]));
    let layer = Conv2d::from_tensors(w, Some(variable(&[256]))).padding(1);
    pass(bencher, || layer.forward(&x));
}

#[divan::bench(args = [(1, 128), (128, 14)], sample_count = 5)]
fn conv2d_of_detector_forward(bencher: Bencher<'_, '_>, (images, side): (usize, usize)) {
    let (x, w) =
        (variable(&[images, side, side, 256]).detach(), variable(&[256, 256, 3, 3]).detach());
    let layer = Conv2d::from_tensors(w, Some(variable(&[256]).detach())).padding(1);
    bencher.bench_local(|| layer.forward(&x).unwrap());
}
