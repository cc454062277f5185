//! Swin Transformer: attention in windows, shifted in every other block, over four scales.
//!
//! ```text
//! X_0 = LN(patches W + b)                               (B, H/p, W/p, C)
//! Y_0 = condition(X_0)
//! X'  = X + WMSA(LN(X)),   X'' = X' + MLP(LN(X'))       pre-norm, windows shifted in odd blocks
//! X   = LN([X_00; X_10; X_01; X_11]) W_r                between stages: half the sides, twice the width
//! logits = head(mean(LN(X)))                            (B, K)
//! ```
//!
//! Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
//! Names, layout and initialisation follow timm's `SwinTransformer`: its checkpoints load by name.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    LayerNorm, Linear, MergePatches, Mode, Pass, PatchEmbed, Sequence, WindowAttention,
    average_pool,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::block::{Branches, LINEAR_STD, drop_path_of};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Placement};
use crate::model::Model;
use crate::pyramid::Pyramid;
use crate::self_attention::{SelfAttention, branches};
use crate::stem::{Places, Stem, Way};

/// timm's epsilon of every layer norm in a Swin.
const EPS: f64 = 1e-5;

/// What a Swin is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwinConfig {
    /// Side of the (square) image in pixels.
    pub image_size: usize,
    /// Side p of a patch in pixels.
    pub patch_size: usize,
    /// Image channels.
    pub channels: usize,
    /// Classes K.
    pub classes: usize,
    /// Token width C of the first stage; every stage has twice that of the one before.
    pub width: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Heads of each stage.
    pub heads: Vec<usize>,
    /// Side of a window in tokens; a stage with fewer tokens is one window.
    pub window: usize,
    /// Hidden width of the MLP over that of the stage.
    pub mlp_ratio: usize,
    /// Drop-path rate of the last block; it grows linearly from 0 in the first.
    pub drop_path: f64,
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl SwinConfig {
    fn pyramid(&self) -> Pyramid<'_> {
        let Self { image_size, patch_size, width, ref depths, ref heads, .. } = *self;
        let twice = |stage: usize| width.checked_shl(stage as u32).unwrap_or_default();
        let widths = (0..depths.len()).map(twice).collect();
        Pyramid { model: "swin", image_size, patch_size, widths, depths, heads }
    }

    /// Side of the windows of a stage of `side` x `side` tokens, and by how much odd blocks shift them.
    fn windows(&self, side: usize) -> (usize, usize) {
        match side <= self.window {
            true => (side, 0),
            false => (self.window, self.window / 2),
        }
    }
}

impl Architecture for SwinConfig {
    fn family(&self) -> Family {
        Family { name: "swin", label: "Swin" }
    }

    from_fields!(image_size, conditioning, drop_path);

    /// `*_patch4_window7_224` as in timm; the others are for 8 x 8 digits, 28 x 28 MNIST and 32 x 32 RGB
    /// images. None has drop path.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            image_size: 224,
            patch_size: 4,
            channels: 3,
            classes: 1000,
            width: 128,
            depths: vec![2, 2, 18, 2],
            heads: vec![4, 8, 16, 32],
            window: 7,
            mlp_ratio: 4,
            drop_path: 0.0,
            conditioning: ConditioningConfig::default(),
        };
        let small = Self { width: 96, heads: vec![3, 6, 12, 24], ..base.clone() };
        let tiny = Self { depths: vec![2, 2, 6, 2], ..small.clone() };
        let digits = Self {
            image_size: 8,
            patch_size: 2,
            channels: 1,
            classes: 10,
            width: 32,
            depths: vec![2, 2],
            heads: vec![2, 4],
            window: 2,
            ..base.clone()
        };
        let mnist = Self { image_size: 28, window: 7, ..digits.clone() };
        let rgb = Self {
            image_size: 32,
            channels: 3,
            width: 64,
            depths: vec![2, 4],
            window: 4,
            ..digits.clone()
        };
        vec![
            ("swin_tiny_patch4_window7_224", tiny),
            ("swin_small_patch4_window7_224", small),
            ("swin_base_patch4_window7_224", base),
            ("swin-8", digits.clone()),
            ("swin-8-tiny", Self { width: 8, depths: vec![2, 1], ..digits }),
            ("swin-28", mnist),
            ("swin-32", rgb),
        ]
    }

    fn validate(&self) -> Result<()> {
        let places = Places { tables: false, positions: false, norm: false };
        places.check(&self.conditioning, "swin")?;
        let Self { channels, classes, window, mlp_ratio, .. } = *self;
        checks::at_least_one(
            "swin",
            [
                ("channels", channels),
                ("classes", classes),
                ("window", window),
                ("mlp_ratio", mlp_ratio),
            ],
        )?;
        checks::probability("swin", "drop_path", self.drop_path)?;
        self.pyramid().validate(|side| self.windows(side).0)
    }

    fn macs(&self, _: usize) -> usize {
        if self.validate().is_err() {
            return 0;
        }
        let pyramid = self.pyramid();
        let mut side = self.image_size / self.patch_size;
        let mut macs = side.pow(2) * self.width * self.channels * self.patch_size.pow(2);
        let stages = pyramid.sides().zip(&pyramid.widths).zip(&self.depths);
        for ((stage_side, &c), &depth) in stages {
            let (n, window) = (stage_side.pow(2), self.windows(stage_side).0);
            if stage_side != side {
                macs += 2 * n * c * c; // 4 C / 2 inputs, C outputs
            }
            side = stage_side;
            macs += depth * ((4 + 2 * self.mlp_ratio) * n * c * c + 2 * n * window.pow(2) * c);
        }
        macs + pyramid.last_width() * self.classes
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Swin::new(self, vb)?))
    }
}

/// A Swin Transformer with a classification head on the mean of its tokens.
#[derive(Debug)]
pub struct Swin {
    patch_embed: PatchEmbed,
    patch_norm: LayerNorm,
    stem: Stem,
    stages: Vec<Stage>,
    norm: LayerNorm,
    head: Linear,
}

impl Swin {
    /// A model over `vb`, at the names of timm's `SwinTransformer`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &SwinConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (pyramid, patches) = (config.pyramid(), vb.pp("patch_embed"));
        let (c, last) = (config.width, pyramid.last_width());
        let stages = (0..config.depths.len())
            .map(|stage| Stage::new(config, stage, vb.pp("layers").pp(stage)))
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_embed: PatchEmbed::new(patches.clone(), config.channels, config.patch_size, c)?,
            patch_norm: LayerNorm::new(patches.pp("norm"), c, EPS)?,
            stem: Stem::new(config, c, &vb)?,
            stages,
            norm: LayerNorm::new(vb.pp("norm"), last, EPS)?,
            head: Linear::with_std(vb.pp("head.fc"), last, config.classes, LINEAR_STD)?,
        })
    }
}

impl Model for Swin {
    fn forward(&self, images: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed(images, Way::Conditioned(pass))?; // (B, H/p, W/p, C)
        let mut branches = Vec::new();
        for stage in &self.stages {
            branches.push(stage.sequence(pass.mode)?); // (B, H/p/2^i, W/p/2^i, 2^i C)
        }
        branches.push(Sequence::new([self.norm.clone().into()]));
        average_pool(&Sequence::chain(branches).forward(&x, pass)?)?.apply(&self.head)
    }

    fn embed(&self, images: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.stem.check(images)?;
        let patches = self.patch_embed.image(images)?.apply(&self.patch_norm)?;
        self.stem.at(Placement::AfterPosition, patches, &[], way)
    }

    fn stem(&self) -> &Stem {
        &self.stem
    }
}

/// Blocks of one scale, and what brings the tokens to it.
#[derive(Debug)]
struct Stage {
    merge: Option<Sequence>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &SwinConfig, stage: usize, vb: VarBuilder) -> Result<Self> {
        let c = config.width << stage;
        let merge = |vb: VarBuilder| -> Result<Sequence> {
            let reduction = Linear::with_std_no_bias(vb.pp("reduction"), 2 * c, c, LINEAR_STD)?;
            let norm = LayerNorm::new(vb.pp("norm"), 2 * c, EPS)?;
            Ok(Sequence::new([MergePatches.into(), norm.into(), reduction.into()]))
        };
        let blocks = vb.pp("blocks");
        Ok(Self {
            merge: (stage > 0).then(|| merge(vb.pp("downsample"))).transpose()?,
            blocks: (0..config.depths[stage])
                .map(|block| Block::new(config, stage, block, blocks.pp(block)))
                .collect::<Result<_>>()?,
        })
    }

    fn sequence(&self, mode: Mode) -> Result<Sequence> {
        let blocks = self.blocks.iter().map(|Block { attention, mlp }| (attention, mlp));
        Ok(Sequence::chain(self.merge.clone().into_iter().chain(branches(blocks, mode)?)))
    }
}

/// A pre-norm block: two residual branches.
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    mlp: Sequence,
}

impl Block {
    fn new(config: &SwinConfig, stage: usize, block: usize, vb: VarBuilder) -> Result<Self> {
        let (width, heads) = (config.width << stage, config.heads[stage]);
        let (window, shift) = config.windows((config.image_size / config.patch_size) >> stage);
        let shift = if block % 2 == 1 { shift } else { 0 };
        let attention = WindowAttention::shifted(&vb.pp("attn"), heads, window, shift)?;
        let (before, all) = config.pyramid().blocks(stage);
        let branches = Branches {
            vb,
            width,
            hidden: width * config.mlp_ratio,
            eps: EPS,
            layer_scale: None,
            drop_path: drop_path_of(config.drop_path, before + block, all),
            conditioning: config.conditioning,
        };
        Ok(Self { attention: branches.attention(attention, heads)?, mlp: branches.mlp()? })
    }
}
