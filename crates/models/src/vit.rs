//! Vision Transformer, and DeiT, which is the same network trained by another recipe; distilled, it has a
//! second token and a second head.
//!
//! ```text
//! X_0 = [cls; patches W + b] + P                       (B, N, C), N = 1 + (H/p)(W/p)
//! Y_0 = condition(X_0)
//! X'  = X + MSA(LN(X)),   X'' = X' + MLP(LN(X'))       depth times, pre-norm
//! logits = head(LN(X)[cls])                            (B, K)
//! ```
//!
//! Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al.,
//! "Training data-efficient image transformers", ICML 2021. Names, layout and initialisation
//! follow timm's `VisionTransformer`: its checkpoints load by name. One difference: the class token
//! starts like the position table (normal, `table_std`), as in the Hugging Face port, where timm
//! has 1e-6; the scale of both tables is what the experiments tune.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Attention, LayerNorm, Linear, Pass, PatchEmbed, Sequence, add_table, init};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::block::{Branches, LINEAR_STD, drop_path_of};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Method, Placement};
use crate::model::Model;
use crate::self_attention::{SelfAttention, branches, folded_weights};
use crate::stem::{Places, Stem, Way};

/// timm's epsilon of every layer norm in a ViT.
pub(crate) const EPS: f64 = 1e-6;

/// What a ViT is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the (square) image in pixels.
    pub image_size: usize,
    /// Side p of a patch in pixels.
    pub patch_size: usize,
    /// Image channels.
    pub channels: usize,
    /// Classes K.
    pub classes: usize,
    /// Token width C.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads H per block.
    pub heads: usize,
    /// Hidden width of the MLP over C.
    pub mlp_ratio: usize,
    /// Drop-path rate of the last block; it grows linearly from 0 in the first.
    pub drop_path: f64,
    /// Deviation of class token and position table at initialisation; published: 0.02.
    pub table_std: f64,
    /// Whether a distillation token stands behind the class token, with a head of its own: logits are the mean
    /// of both heads, in training too, as timm has it where no teacher is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distilled: bool,
    /// Epsilon of every layer norm: 1e-6 in timm, 1e-12 in most files of transformers.
    #[serde(default = "eps_of_timm", skip_serializing_if = "is_eps_of_timm")]
    pub eps: f64,
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
}

fn eps_of_timm() -> f64 {
    EPS
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_eps_of_timm(eps: &f64) -> bool {
    *eps == EPS
}

impl VitConfig {
    /// Patches per image; none where `patch_size` is 0, which [`validate`](Architecture::validate) refuses.
    pub fn patches(&self) -> usize {
        self.image_size.checked_div(self.patch_size).unwrap_or(0).pow(2)
    }

    /// Whether the conditioning folds into parameters: into patch embedding, class token and position table one
    /// linear map of every token, or none; into the weights what is done to them; what is done to the output of
    /// attention does not.
    pub fn folds(&self) -> bool {
        let ConditioningConfig { method, attention, .. } = self.conditioning;
        attention.is_none() && (method == Method::None || method.is_frozen_map())
    }

    /// Tokens N per image, class and distillation token included.
    pub fn tokens(&self) -> usize {
        self.patches() + self.special_tokens()
    }

    /// Class token, and distillation token where there is one.
    pub(crate) fn special_tokens(&self) -> usize {
        1 + usize::from(self.distilled)
    }
}

impl Architecture for VitConfig {
    fn family(&self) -> Family {
        Family { name: "vit", label: "ViT" }
    }

    from_fields!(image_size, conditioning, table_std, drop_path);

    /// `*_patch16_224` as in timm; `vit-8` (UCI digits) and `vit-28` (MNIST) are this project's first
    /// prototypes, `vit-8-tiny` is for tests, `vit-32` for 32 x 32 RGB images. None has drop path.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes: 1000,
            width: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4,
            drop_path: 0.0,
            table_std: 0.02,
            distilled: false,
            eps: EPS,
            conditioning: ConditioningConfig::default(),
        };
        let small = Self { width: 384, heads: 6, ..base.clone() };
        let tiny = Self { width: 192, heads: 3, ..base.clone() };
        let digits = Self {
            image_size: 8,
            patch_size: 2,
            channels: 1,
            classes: 10,
            width: 64,
            depth: 4,
            heads: 4,
            ..base.clone()
        };
        let mnist = Self { image_size: 28, patch_size: 4, ..digits.clone() };
        let rgb = Self { image_size: 32, patch_size: 4, depth: 6, ..tiny.clone() };
        vec![
            ("vit_tiny_patch16_224", tiny.clone()),
            ("vit_small_patch16_224", small.clone()),
            ("vit_base_patch16_224", base.clone()),
            ("deit_tiny_patch16_224", tiny),
            ("deit_small_patch16_224", small),
            ("deit_base_patch16_224", base.clone()),
            ("deit_base_distilled_patch16_224", Self { distilled: true, ..base }),
            ("vit-8", digits.clone()),
            ("vit-8-tiny", Self { width: 16, depth: 2, ..digits }),
            ("vit-28", mnist),
            ("vit-32", rgb),
        ]
    }

    fn validate(&self) -> Result<()> {
        checks::at_least_one(
            "vit",
            [
                ("image_size", self.image_size),
                ("patch_size", self.patch_size),
                ("channels", self.channels),
                ("classes", self.classes),
                ("width", self.width),
                ("heads", self.heads),
                ("mlp_ratio", self.mlp_ratio),
            ],
        )?;
        Places { tables: false, positions: true, norm: false }.check(&self.conditioning, "vit")?;
        checks::tiles("vit", self.patch_size, self.image_size)?;
        checks::equal_heads("vit", self.heads, self.width)?;
        checks::probability("vit", "drop_path", self.drop_path)?;
        checks::epsilon("vit", self.eps)?;
        checks::deviations("vit", [("table_std", self.table_std)])
    }

    /// As published: the MLP of the last block is computed for the class token alone, which is all that the
    /// head reads; the count has it for every token.
    fn macs(&self, _: usize) -> usize {
        let (n, c) = (self.tokens(), self.width);
        let embed = self.patches() * c * self.channels * self.patch_size.pow(2);
        let block = n * c * c * (4 + 2 * self.mlp_ratio) + 2 * n * n * c;
        embed + self.depth * block + self.special_tokens() * c * self.classes
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Vit::new(self, vb)?))
    }
}

/// A Vision Transformer with a classification head on the class token.
#[derive(Debug)]
pub struct Vit {
    patch_embed: PatchEmbed,
    cls_token: Tensor,
    dist_token: Option<Tensor>,
    pos_embed: Tensor,
    stem: Stem,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    head_dist: Option<Linear>,
}

impl Vit {
    /// A model over `vb`, at the names of timm's `VisionTransformer`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let c = config.width;
        let table = init::normal(config.table_std);
        let blocks = (0..config.depth)
            .map(|i| {
                let rate = drop_path_of(config.drop_path, i, config.depth);
                Block::new(config, rate, vb.pp("blocks").pp(i))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embed: PatchEmbed::new(
                vb.pp("patch_embed"),
                config.channels,
                config.patch_size,
                c,
            )?,
            cls_token: vb.get_with_hints((1, 1, c), "cls_token", table)?,
            dist_token: config
                .distilled
                .then(|| vb.get_with_hints((1, 1, c), "dist_token", table))
                .transpose()?,
            pos_embed: vb.get_with_hints((1, config.tokens(), c), "pos_embed", table)?,
            stem: Stem::new(config, c, &vb)?,
            blocks,
            norm: LayerNorm::new(vb.pp("norm"), c, config.eps)?,
            head: Linear::with_std(vb.pp("head"), c, config.classes, LINEAR_STD)?,
            head_dist: config
                .distilled
                .then(|| Linear::with_std(vb.pp("head_dist"), c, config.classes, LINEAR_STD))
                .transpose()?,
        })
    }

    /// Prepends the special tokens and adds the position table: (B, patches, C) -> (B, N, C).
    fn position(&self, patches: &Tensor) -> Result<Tensor> {
        let (b, _, c) = patches.dims3()?;
        let special = std::iter::once(&self.cls_token).chain(&self.dist_token);
        let mut tokens =
            special.map(|token| token.broadcast_as((b, 1, c))).collect::<Result<Vec<_>>>()?;
        tokens.push(patches.clone());
        add_table(&Tensor::cat(&tokens, 1)?, &self.pos_embed)
    }

    /// The logits (B, K) of each head: of the class token, and of the distillation token where there is one.
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn heads(&self, images: &Tensor, pass: Pass<'_>) -> Result<Vec<Tensor>> {
        let special = 1 + usize::from(self.dist_token.is_some());
        let mut x = self.embed(images, Way::Conditioned(pass))?; // (B, N, C)
        let blocks = self.blocks.iter().map(|Block { attention, mlp }| (attention, mlp));
        let mut branches = branches(blocks, pass.mode)?;
        let last = branches.pop();
        x = Sequence::chain(branches).forward(&x, pass)?;
        if let Some(mlp) = last {
            // What follows acts on each token alone, and only these tokens are read.
            x = mlp.forward(&x.narrow(1, 0, special)?, pass)?;
        }
        let heads = std::iter::once(&self.head).chain(&self.head_dist);
        let logits = heads
            .enumerate()
            .map(|(token, head)| x.narrow(1, token, 1)?.squeeze(1)?.apply(&self.norm)?.apply(head));
        logits.collect()
    }

    /// What an evaluation makes of rows (R, C) of patches, where that is one linear map: see [`Stem::fold`].
    ///
    /// # Errors
    /// As [`Stem::fold`].
    pub(crate) fn fold(&self, rows: &Tensor) -> Result<Tensor> {
        self.stem.fold(rows, &[])
    }

    /// The same of rows of class token and position table.
    ///
    /// # Errors
    /// As [`Stem::fold`].
    pub(crate) fn fold_positions(&self, rows: &Tensor) -> Result<Tensor> {
        self.stem.fold_positions(rows, &[])
    }

    /// The query, key and value weights, by name, of a model without conditioning that computes what this one
    /// does; none where nothing is done to weights.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub(crate) fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.stem.check_folds()?;
        folded_weights(self.blocks.iter().map(|block| &block.attention))
    }
}

impl Model for Vit {
    fn forward(&self, images: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        match <[Tensor; 2]>::try_from(self.heads(images, pass)?) {
            Ok([class, distillation]) => (class + distillation)? * 0.5,
            Err(mut heads) => Ok(heads.remove(0)),
        }
    }

    fn embed(&self, images: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.stem.check(images)?;
        let patches = self.patch_embed.forward(images)?;
        let patches = self.stem.at(Placement::BeforePosition, patches, &[], way)?;
        self.stem.at(Placement::AfterPosition, self.position(&patches)?, &[], way)
    }

    fn stem(&self) -> &Stem {
        &self.stem
    }
}

/// A pre-norm transformer block: two residual branches.
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    mlp: Sequence,
}

impl Block {
    fn new(config: &VitConfig, drop_path: f64, vb: VarBuilder) -> Result<Self> {
        let branches = Branches {
            vb,
            width: config.width,
            hidden: config.width * config.mlp_ratio,
            eps: config.eps,
            layer_scale: None,
            drop_path,
            conditioning: config.conditioning,
        };
        let attention = Attention { heads: config.heads, causal: false };
        Ok(Self { attention: branches.attention(attention, config.heads)?, mlp: branches.mlp()? })
    }
}
