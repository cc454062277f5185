//! Vision Transformer, and DeiT, which is the same network trained by another recipe.
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
use conditioned_nn::{
    Attention, DropPath, Gelu, LayerNorm, Linear, Mode, PatchEmbed, Sequence, add_table, init,
};
use serde::{Deserialize, Serialize};

use crate::UnknownPreset;
use crate::conditioning::{
    ConditioningConfig, Method, Packing, Placement, TokenConditioner, Tokens,
};
use crate::self_attention::{Projection, SelfAttention, folded_weights};

/// timm's epsilon of every layer norm in a ViT.
const EPS: f64 = 1e-6;

/// Deviation of every linear weight at initialisation, as in timm.
const LINEAR_STD: f64 = 0.02;

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
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl VitConfig {
    /// Presets by name: (name, image, patch, channels, classes, width, depth, heads).
    ///
    /// `*_patch16_224` as in timm; `vit-8` (UCI digits) and `vit-28` (MNIST) are this project's
    /// first prototypes; `vit-32` is for 32 x 32 RGB images.
    const PRESETS: [(&'static str, [usize; 7]); 9] = [
        ("vit_tiny_patch16_224", [224, 16, 3, 1000, 192, 12, 3]),
        ("vit_small_patch16_224", [224, 16, 3, 1000, 384, 12, 6]),
        ("vit_base_patch16_224", [224, 16, 3, 1000, 768, 12, 12]),
        ("deit_tiny_patch16_224", [224, 16, 3, 1000, 192, 12, 3]),
        ("deit_small_patch16_224", [224, 16, 3, 1000, 384, 12, 6]),
        ("deit_base_patch16_224", [224, 16, 3, 1000, 768, 12, 12]),
        ("vit-8", [8, 2, 1, 10, 64, 4, 4]),
        ("vit-28", [28, 4, 1, 10, 64, 4, 4]),
        ("vit-32", [32, 4, 3, 1000, 192, 6, 3]),
    ];

    /// The names of all presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        Self::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset called `name`, without drop path and without conditioning.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> std::result::Result<Self, UnknownPreset> {
        let preset = Self::PRESETS.iter().find(|(known, _)| *known == name);
        let Some((_, [image_size, patch_size, channels, classes, width, depth, heads])) = preset
        else {
            let known = Self::presets().collect();
            return Err(UnknownPreset { name: name.to_string(), known });
        };
        Ok(Self {
            image_size: *image_size,
            patch_size: *patch_size,
            channels: *channels,
            classes: *classes,
            width: *width,
            depth: *depth,
            heads: *heads,
            mlp_ratio: 4,
            drop_path: 0.0,
            table_std: 0.02,
            conditioning: ConditioningConfig::default(),
        })
    }

    /// Patches per image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Tokens N per image, class token included.
    pub fn tokens(&self) -> usize {
        self.patches() + 1
    }

    /// Trainable scalars.
    pub fn parameter_count(&self) -> usize {
        let (c, hidden) = (self.width, self.width * self.mlp_ratio);
        let embed = c * (self.channels * self.patch_size.pow(2) + 1);
        let block = 2 * 2 * c + (c + 1) * 3 * c + (c + 1) * c + (c + 1) * hidden + (hidden + 1) * c;
        embed + c + self.tokens() * c + self.depth * block + 2 * c + (c + 1) * self.classes
    }

    /// Multiply-accumulates of one forward pass of one image as published, matrix products only.
    /// (The MLP of the last block is computed for the class token alone, which is all that the head
    /// reads; the count has it for every token.)
    pub fn macs(&self) -> usize {
        let (n, c) = (self.tokens(), self.width);
        let embed = self.patches() * c * self.channels * self.patch_size.pow(2);
        let block = n * c * c * (4 + 2 * self.mlp_ratio) + 2 * n * n * c;
        embed + self.depth * block + c * self.classes
    }

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("channels", self.channels),
            ("classes", self.classes),
            ("width", self.width),
            ("heads", self.heads),
            ("mlp_ratio", self.mlp_ratio),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            candle_core::bail!("vit: {name} must be at least 1");
        }
        self.conditioning.validate()?;
        self.conditioning.placement.check_no_norm("vit")?;
        if matches!(self.conditioning.method, Method::Table { .. }) {
            candle_core::bail!(
                "vit: patches are not rows of a table; conditioned tables are for models of text"
            );
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            candle_core::bail!(
                "vit: patches of {} do not tile images of {}",
                self.patch_size,
                self.image_size
            );
        }
        if !self.width.is_multiple_of(self.heads) {
            candle_core::bail!("vit: {} heads do not divide width {}", self.heads, self.width);
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            candle_core::bail!("vit: drop_path {} is not a probability in [0, 1)", self.drop_path);
        }
        if !(self.table_std >= 0.0 && self.table_std.is_finite()) {
            candle_core::bail!("vit: table_std {} must be finite and >= 0", self.table_std);
        }
        Ok(())
    }
}

/// A Vision Transformer with a classification head on the class token.
#[derive(Debug)]
pub struct Vit {
    patch_embed: PatchEmbed,
    cls_token: Tensor,
    pos_embed: Tensor,
    conditioner: TokenConditioner,
    conditioning: ConditioningConfig,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
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
                let share = i as f64 / config.depth.saturating_sub(1).max(1) as f64;
                Block::new(config, share * config.drop_path, vb.pp("blocks").pp(i))
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
            pos_embed: vb.get_with_hints((1, config.tokens(), c), "pos_embed", table)?,
            conditioner: TokenConditioner::new(config.conditioning, c, vb.pp("conditioner"))?,
            conditioning: config.conditioning,
            blocks,
            norm: LayerNorm::new(vb.pp("norm"), c, EPS)?,
            head: Linear::with_std(vb.pp("head"), c, config.classes, LINEAR_STD)?,
        })
    }

    /// (B, channels, H, W) -> logits (B, K).
    ///
    /// # Errors
    /// When the images have another shape.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.embed(images, mode)?; // (B, N, C)
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.attention.forward(&x, None, mode)?;
            if i + 1 == self.blocks.len() {
                // What follows acts on each token alone, and only the class token is read.
                x = x.narrow(1, 0, 1)?; // (B, 1, C)
            }
            x = block.mlp.forward(&x, mode)?;
        }
        x.narrow(1, 0, 1)?.squeeze(1)?.apply(&self.norm)?.apply(&self.head)
    }

    /// Images to the tokens that enter the first block.
    fn embed(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let patches = self.patch_embed.forward(images)?;
        match self.conditioning.placement {
            Placement::BeforePosition => {
                self.position(&self.conditioner.forward(&patches, None, &[], mode)?)
            }
            Placement::AfterPosition | Placement::AfterNorm => {
                self.conditioner.forward(&self.position(&patches)?, None, &[], mode)
            }
        }
    }

    /// Prepends the class token and adds the position table: (B, N - 1, C) -> (B, N, C).
    fn position(&self, patches: &Tensor) -> Result<Tensor> {
        let (b, _, c) = patches.dims3()?;
        let cls = self.cls_token.broadcast_as((b, 1, c))?;
        add_table(&Tensor::cat(&[&cls, patches], 1)?, &self.pos_embed)
    }

    /// The tokens entering the first block in evaluation mode, without and with conditioning.
    ///
    /// # Errors
    /// When the images have another shape.
    pub fn tokens(&self, images: &Tensor) -> Result<Tokens> {
        Ok(Tokens {
            plain: self.position(&self.patch_embed.forward(images)?)?,
            conditioned: self.embed(images, Mode::Eval)?,
        })
    }

    /// Replaces the running averages of the conditioning, if it has any, by those over `batches`
    /// of images: precise statistics for an evaluation.
    ///
    /// # Errors
    /// When a batch is an error, images have another shape, or the state is read-only.
    pub fn recalibrate<E>(
        &self,
        batches: impl IntoIterator<Item = std::result::Result<Tensor, E>>,
    ) -> std::result::Result<(), E>
    where
        E: From<candle_core::Error>,
    {
        if !self.conditioner.has_state() {
            return Ok(());
        }
        // The first error of the batches ends the sum and is handed out as it is.
        let mut failed = None;
        let tokens = batches.into_iter().map_while(|batch| match batch {
            Ok(images) => Some(self.conditioned_tokens(&images)),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let recalibrated = self.conditioner.recalibrate(tokens);
        match failed {
            Some(error) => Err(error),
            None => Ok(recalibrated?),
        }
    }

    /// What an evaluation makes of `rows` (R, C) of which tokens are sums, where that is one linear map: a model
    /// without conditioning over rows that went through it computes what this one does.
    ///
    /// # Errors
    /// When what the method does to a token depends on other tokens.
    pub(crate) fn fold(&self, rows: &Tensor) -> Result<Tensor> {
        self.conditioning.check_folds("vit")?;
        if !self.conditioning.method.is_frozen_map() {
            candle_core::bail!(
                "vit: what this method does to a token depends on other tokens; it cannot be folded into the \
                 weights"
            );
        }
        self.conditioner.forward(rows, None, &[], Mode::Eval)
    }

    /// The query, key and value weights, by name, of a model without conditioning that computes what this one
    /// does; none where nothing is done to weights.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub(crate) fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.conditioning.check_folds("vit")?;
        folded_weights(self.blocks.iter().map(|block| &block.attention))
    }

    /// The X that the conditioning acts on.
    fn conditioned_tokens(&self, images: &Tensor) -> Result<Tensor> {
        let patches = self.patch_embed.forward(images)?;
        match self.conditioning.placement {
            Placement::BeforePosition => Ok(patches),
            Placement::AfterPosition | Placement::AfterNorm => self.position(&patches),
        }
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
        let (c, hidden) = (config.width, config.width * config.mlp_ratio);
        let norm = |name| LayerNorm::new(vb.pp(name), c, EPS);
        let linear =
            |path, inputs, outputs| Linear::with_std(vb.pp(path), inputs, outputs, LINEAR_STD);
        let drop_path = |name| DropPath::new(&vb.pp(name), drop_path);
        Ok(Self {
            attention: SelfAttention::new(
                Some(norm("norm1")?.into()),
                Projection::new(
                    Packing::Rows,
                    [(linear("attn.qkv", c, 3 * c)?, vb.pp("attn.qkv"))],
                    config.conditioning,
                )?,
                Attention { heads: config.heads, causal: false },
                config.conditioning,
                [linear("attn.proj", c, c)?.into(), drop_path("drop_path1")?.into()],
            ),
            mlp: Sequence::residual([
                norm("norm2")?.into(),
                linear("mlp.fc1", c, hidden)?.into(),
                Gelu::Erf.into(),
                linear("mlp.fc2", hidden, c)?.into(),
                drop_path("drop_path2")?.into(),
            ]),
        })
    }
}
