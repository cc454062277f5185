//! Layers for [candle](candle_core) whose gradients are right, and the parameters they train.
//!
//! candle 0.11 computes `LayerNorm`, `softmax_last_dim` and others by fused kernels that cut the
//! graph in silence: the loss still falls, but queries, keys and norms never move. The layers here
//! carry their own backward, in one of two forms:
//!
//! * on the CPU in `f32` and `f64`, custom ops with fused, parallel kernels, forward and backward;
//! * elsewhere, candle's fused forward with a backward in tensor operations ([`device`]), or the
//!   definition in candle's differentiable operations ([`reference`](mod@reference)), which is also
//!   the oracle that both are tested against.
//!
//! Nothing is ambient: a layer that draws random numbers takes a [`Mode`], and a [`Store`] seeds
//! every parameter by its *name*, so that neither construction order nor thread count matters.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use conditioned_nn::{LayerNorm, Linear, Store, linear};
//! # fn main() -> candle_core::Result<()> {
//! let store = Store::new(7, DType::F32, &Device::Cpu);
//! let vb = store.builder();
//! let norm = LayerNorm::new(vb.pp("norm"), 16, 1e-6)?;
//! let head: Linear = linear(vb.pp("head"), 16, 4)?;
//! let x = Tensor::ones((2, 3, 16), DType::F32, &Device::Cpu)?;
//! let y = x.apply(&norm)?.apply(&head)?;                   // (2, 3, 4)
//! let grads = y.sqr()?.sum_all()?.backward()?;
//! for (name, parameter) in store.parameters() {
//!     assert!(grads.get(&parameter).is_some(), "{name} has a gradient");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`store`] | parameters and buffers by name: seeded, frozen, saved, loaded |
//! | [`init`] | the distributions that parameters are drawn from |
//! | [`mode`] | training or evaluation, and the random streams of a training step |
//! | [`linear`](mod@linear), [`layer_norm`](mod@layer_norm), [`rms_norm`](mod@rms_norm), [`gelu`](mod@gelu), [`gated_gelu`](mod@gated_gelu), [`attention`](mod@attention), [`window_attention`], [`channel_attention`], [`nystrom_attention`], [`head_norm`](mod@head_norm), [`dropout`], [`batch_norm`], [`conv2d`], [`conv_transpose2d`], [`max_pool2d`], [`mod@relu`], [`depthwise`], [`layer_scale`], [`merge_patches`], [`average_pool`](mod@average_pool) | a layer each, alone or in a sequence |
//! | [`sequence`] | layers one after the other as one operation |
//! | [`mod@pass`], [`padding`] | what a forward pass knows beside its tokens; where the sequences of a batch end |
//! | [`mod@probe`] | queries, keys and attention of every layer, to look at |
//! | [`cache`] | what causal attention remembers, for one token after the other |
//! | [`softmax`](mod@softmax), [`embedding`](mod@embedding), [`patch_embed`], [`table`], [`upsample`], [`roi_align`](mod@roi_align) | an op or layer each |
//! | [`loss`] | cross-entropy, of logits and of a linear head without them |
//! | [`device`] | what the layers run on a GPU and in half precision |
//! | [`cuda`] | kernels of our own on CUDA devices |
//! | [`reference`](mod@reference) | each op in plain candle operations |
//! | [`check`] | gradients against central differences |

pub mod attention;
pub mod average_pool;
mod backward;
pub mod batch_norm;
pub mod cache;
pub mod channel_attention;
pub mod check;
pub mod conv2d;
pub mod conv_transpose2d;
pub mod cuda;
pub mod depthwise;
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod gated_gelu;
pub mod gelu;
pub mod head_norm;
pub mod init;
mod kernel;
mod layer;
pub mod layer_norm;
pub mod layer_scale;
pub mod linear;
pub mod loss;
pub mod max_pool2d;
pub mod merge_patches;
pub mod mode;
pub mod nystrom_attention;
mod nystrom_head;
pub mod padding;
pub mod pass;
pub mod patch_embed;
pub mod precision;
pub mod probe;
mod pseudo_inverse;
pub mod reference;
pub mod relu;
pub mod rms_norm;
pub mod roi_align;
pub mod sequence;
mod sequence_op;
pub mod softmax;
pub mod store;
pub mod table;
mod upload;
pub mod upsample;
pub mod window_attention;

pub use attention::{Attention, attention, causal_attention, padded_attention};
pub use average_pool::{AveragePool, average_pool};
pub use backward::backward;
pub use batch_norm::BatchNorm2d;
pub use cache::Cache;
pub use channel_attention::{ChannelAttention, CrossCovarianceAttention};
pub use conv_transpose2d::ConvTranspose2d;
pub use conv2d::Conv2d;
pub use depthwise::DepthwiseConv2d;
pub use dropout::{DropPath, Dropout};
pub use embedding::embedding;
pub use gated_gelu::{GatedGelu, gated_gelu};
pub use gelu::{Gelu, gelu, gelu_tanh};
pub use head_norm::{HeadNorm, head_norm};
pub use layer::Layer;
pub use layer_norm::{LayerNorm, layer_norm};
pub use layer_scale::LayerScale;
pub use linear::{Linear, linear};
pub use loss::{cross_entropy, linear_cross_entropy};
pub use max_pool2d::MaxPool2d;
pub use merge_patches::MergePatches;
pub use mode::Mode;
pub use nystrom_attention::{InverseScale, NystromAttention};
pub use padding::Padding;
pub use pass::Pass;
pub use patch_embed::{PatchEmbed, channels_last};
pub use precision::Precision;
pub use probe::{Among, Heads, Probe, Probed, Seen};
pub use relu::Relu;
pub use rms_norm::{RmsNorm, rms_norm};
pub use roi_align::{Roi, roi_align};
pub use sequence::Sequence;
pub use softmax::softmax;
pub use store::{Store, StoreError};
pub use table::add_table;
pub use upload::upload;
pub use upsample::upsample_nearest;
pub use window_attention::WindowAttention;
