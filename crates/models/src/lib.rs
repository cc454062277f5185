//! Transformers that train in candle, with conditioned tokens by one configuration field.
//!
//! One file per family; parameter paths follow the reference implementation, so that its
//! checkpoints load by name. Axes: B batch, N tokens, C channels, H heads, D head width, K classes.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use conditioned_models::conditioning::{ConditioningConfig, Method};
//! use conditioned_models::vit::VitConfig;
//! use conditioned_models::{Architecture, Model};
//! use conditioned_nn::{Mode, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = VitConfig {
//!     conditioning: ConditioningConfig::from(Method::pooled(0.3)?),
//!     ..VitConfig::preset("vit-8")?
//! };
//! let store = Store::new(1, DType::F32, &Device::Cpu);
//! let vit = config.build(store.builder())?;
//! let images = Tensor::zeros((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
//! let logits = vit.forward(&images, Mode::train(1, 0).into())?; // (2, 10)
//! assert_eq!(logits.dims(), [2, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! | family | file | presets | reference |
//! | --- | --- | --- | --- |
//! | ViT, DeiT | [`vit`] | `vit_{tiny,small,base}_patch16_224`, `deit_*`, `vit-8`, `vit-28`, `vit-32` | timm |
//! | Swin | [`swin`] | `swin_{tiny,small,base}_patch4_window7_224`, `swin-8`, `swin-28`, `swin-32` | timm |
//! | XCiT | [`xcit`] | `xcit_{nano_12,small_12,medium_24}_p16_224`, `xcit-8`, `xcit-28`, `xcit-32` | timm |
//! | DaViT | [`davit`] | `davit_{tiny,base}`, `davit-8`, `davit-28`, `davit-32` | timm |
//! | BERT | [`bert`], heads in [`bert_heads`] | `bert-{base,large}-uncased`, `minilm-l6`, `bert-4x128` | Hugging Face |
//! | Crammed BERT | [`crammed_bert`], heads in [`crammed_heads`] | `crammed-bert`, `crammed-4x128` | JonasGeiping/cramming |
//! | Nystromformer | [`nystromformer`], heads in [`nystromformer_heads`] | `nystromformer-lra` | mlpen/Nystromformer |
//! | GPT-2 | [`gpt2`] | `gpt2`, `gpt2-{medium,large,xl}`, `gpt2-6x384` | Hugging Face |
//!
//! Every configuration is an [`Architecture`] and every model a [`Model`]; [`network::Network`] is the
//! configuration of any of them, made by the name of a preset. Conditioning in front of the first block is in one
//! place for all, [`stem`].
//!
//! Folders of Hugging Face are read and written by [`hugging_face`]; for GPT-2 also generation
//! ([`mod@generate`]) and perplexity ([`perplexity`]).

pub mod architecture;
pub mod bert;
mod bert_embedding;
pub mod bert_heads;
mod block;
mod checks;
mod class_attention;
pub mod conditioning;
pub mod crammed_bert;
pub mod crammed_heads;
pub mod davit;
pub mod detection;
pub mod encoder;
pub mod generate;
pub mod gpt2;
pub mod hugging_face;
pub mod model;
pub mod network;
pub mod nystromformer;
pub mod nystromformer_heads;
pub mod perplexity;
mod preset;
mod pyramid;
mod self_attention;
pub mod stem;
pub mod swin;
pub mod vit;
pub mod xcit;

pub use architecture::Architecture;
pub use model::Model;
pub use preset::UnknownPreset;

/// Patterns of the names of embedding tables in the models of this crate, and in those of timm and
/// Hugging Face with the same names; `*` stands for any characters.
///
/// In this order: position tables, class and distillation tokens (ViT, DeiT, XCiT), relative position
/// biases (Swin), token and position tables (GPT-2), those of BERT (token types too), token tables of
/// Crammed BERT. An optimiser does not decay them, and may give them a rate of their own. The order is
/// fixed: the list stands in recorded configurations.
pub const EMBEDDING_TABLES: [&str; 8] = [
    "*pos_embed",
    "*cls_token",
    "*dist_token",
    "*relative_position_bias_table",
    "*wte.weight",
    "*wpe.weight",
    "*_embeddings.weight",
    "*word_embedding.weight",
];

/// Patterns of the names of the first and the last matrices of the models of this crate: patch embeddings and
/// stems, heads with what pools for them. An optimiser for hidden matrices, such as Muon, leaves them out.
pub const OUTER_MATRICES: [&str; 11] = [
    "*patch_embed.*",
    "*pos_embed.*",
    "*stem.*",
    "*head.weight",
    "*head.fc.weight",
    "*classifier.*",
    "*pooler.*",
    "*cls.predictions.*",
    "*_cls.weight",
    "*_reg.weight",
    "*conv_logits.weight",
];
