//! DaViT: attention among the tokens of windows and attention among channels, in turn, over four scales.
//!
//! ```text
//! X_0 = LN(conv(image))                                 (B, H/p, W/p, C)
//! Y_0 = condition(X_0)
//! X = X + DW(X),  X = X + A(LN(X)),  X = X + DW(X),  X = X + MLP(LN(X))
//!                          A: windows of tokens, then channels; DW: depthwise 3 x 3
//! X = conv(LN(X))                                       between stages: half the sides
//! logits = head(LN(mean(X)))                            (B, K)
//! ```
//!
//! Source: Ding et al., "DaViT: Dual Attention Vision Transformers", ECCV 2022. Names, layout and
//! initialisation follow timm's `DaVit`: its checkpoints load by name. timm pads stages that windows do not
//! tile; here such sizes are refused.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    ChannelAttention, Conv2d, DepthwiseConv2d, Layer, LayerNorm, Linear, Mode, Pass, Sequence,
    WindowAttention, average_pool, channels_last,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::block::{Branches, LINEAR_STD, drop_path_of};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Placement};
use crate::model::Model;
use crate::pyramid::Pyramid;
use crate::self_attention::SelfAttention;
use crate::stem::{Places, Stem, Way};

/// timm's epsilon of every layer norm in a DaViT.
const EPS: f64 = 1e-5;

/// What a DaViT is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DavitConfig {
    /// Side of the (square) image in pixels.
    pub image_size: usize,
    /// Pixels p between two tokens of the stem, whose convolution has 2p - 1 taps; published: 4.
    pub patch_size: usize,
    /// Image channels.
    pub channels: usize,
    /// Classes K.
    pub classes: usize,
    /// Token width C of each stage.
    pub widths: Vec<usize>,
    /// Pairs of blocks of each stage: one with windows, one with channels.
    pub depths: Vec<usize>,
    /// Heads of each stage.
    pub heads: Vec<usize>,
    /// Side of a window in tokens.
    pub window: usize,
    /// Hidden width of the MLP over that of the stage.
    pub mlp_ratio: usize,
    /// Drop-path rate of the last pair of blocks; it grows linearly from 0 in the first.
    pub drop_path: f64,
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl DavitConfig {
    fn pyramid(&self) -> Pyramid<'_> {
        let Self { image_size, patch_size, ref widths, ref depths, ref heads, .. } = *self;
        Pyramid { model: "davit", image_size, patch_size, widths: widths.clone(), depths, heads }
    }
}

impl Architecture for DavitConfig {
    fn family(&self) -> Family {
        Family { name: "davit", label: "DaViT" }
    }

    from_fields!(image_size, conditioning, drop_path);

    /// `davit_*` as in timm; the others are for 8 x 8 digits, 28 x 28 MNIST and 32 x 32 RGB images. None has
    /// drop path.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            image_size: 224,
            patch_size: 4,
            channels: 3,
            classes: 1000,
            widths: vec![128, 256, 512, 1024],
            depths: vec![1, 1, 9, 1],
            heads: vec![4, 8, 16, 32],
            window: 7,
            mlp_ratio: 4,
            drop_path: 0.0,
            conditioning: ConditioningConfig::default(),
        };
        let tiny = Self {
            widths: vec![96, 192, 384, 768],
            depths: vec![1, 1, 3, 1],
            heads: vec![3, 6, 12, 24],
            ..base.clone()
        };
        let digits = Self {
            image_size: 8,
            patch_size: 2,
            channels: 1,
            classes: 10,
            widths: vec![32, 64],
            depths: vec![1, 1],
            heads: vec![2, 4],
            window: 2,
            ..base.clone()
        };
        let mnist = Self { image_size: 28, window: 7, ..digits.clone() };
        let rgb = Self {
            image_size: 32,
            channels: 3,
            widths: vec![64, 128],
            depths: vec![1, 2],
            window: 8,
            ..digits.clone()
        };
        vec![
            ("davit_tiny", tiny),
            ("davit_base", base),
            ("davit-8", digits.clone()),
            ("davit-8-tiny", Self { widths: vec![8, 16], ..digits }),
            ("davit-28", mnist),
            ("davit-32", rgb),
        ]
    }

    fn validate(&self) -> Result<()> {
        let places = Places { tables: false, positions: false, norm: false };
        places.check(&self.conditioning, "davit")?;
        let Self { channels, classes, mlp_ratio, window, .. } = *self;
        checks::at_least_one(
            "davit",
            [("channels", channels), ("classes", classes), ("mlp_ratio", mlp_ratio)],
        )?;
        checks::probability("davit", "drop_path", self.drop_path)?;
        self.pyramid().validate(|_| window)
    }

    fn macs(&self, _: usize) -> usize {
        if self.validate().is_err() {
            return 0;
        }
        let pyramid = self.pyramid();
        let taps = (2 * self.patch_size - 1).pow(2);
        let first = (self.image_size / self.patch_size).pow(2);
        let mut macs = first * self.widths[0] * self.channels * taps;
        let mut before = None;
        for (i, side) in pyramid.sides().enumerate() {
            let (n, c, d) = (side.pow(2), self.widths[i], self.widths[i] / self.heads[i]);
            if let Some(before) = before.replace(c) {
                macs += 4 * n * before * c;
            }
            let rest = 2 * (2 * self.mlp_ratio * n * c * c + 18 * n * c);
            let attention = 8 * n * c * c + 2 * n * self.window.pow(2) * c + 2 * n * c * d;
            macs += self.depths[i] * (attention + rest);
        }
        macs + pyramid.last_width() * self.classes
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Davit::new(self, vb)?))
    }
}

/// A DaViT with a classification head on the mean of its tokens.
#[derive(Debug)]
pub struct Davit {
    convolution: Sequence,
    stem: Stem,
    stages: Vec<Stage>,
    norm: LayerNorm,
    head: Linear,
}

impl Davit {
    /// A model over `vb`, at the names of timm's `DaVit`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &DavitConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (c, last, p) = (config.widths[0], config.pyramid().last_width(), config.patch_size);
        let convolution = Conv2d::new(vb.pp("stem.conv"), config.channels, c, 2 * p - 1)?;
        let convolution = convolution.stride(p).padding(p - 1);
        let stages = (0..config.depths.len())
            .map(|stage| Stage::new(config, stage, vb.pp("stages").pp(stage)))
            .collect::<Result<_>>()?;
        Ok(Self {
            convolution: Sequence::new([
                convolution.into(),
                LayerNorm::new(vb.pp("stem.norm"), c, EPS)?.into(),
            ]),
            stem: Stem::new(config, c, &vb)?,
            stages,
            norm: LayerNorm::new(vb.pp("head.norm"), last, EPS)?,
            head: Linear::with_std(vb.pp("head.fc"), last, config.classes, LINEAR_STD)?,
        })
    }
}

impl Model for Davit {
    fn forward(&self, images: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed(images, Way::Conditioned(pass))?; // (B, H/p, W/p, C)
        let stages = self.stages.iter().map(|stage| stage.sequence(pass.mode));
        let x = Sequence::chain(stages.collect::<Result<Vec<_>>>()?).forward(&x, pass)?;
        average_pool(&x)?.apply(&self.norm)?.apply(&self.head)
    }

    fn embed(&self, images: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.stem.check(images)?;
        let x = self.convolution.forward(&channels_last(images)?, way.pass())?;
        self.stem.at(Placement::AfterPosition, x, &[], way)
    }

    fn stem(&self) -> &Stem {
        &self.stem
    }
}

/// Pairs of blocks of one scale, and what brings the tokens to it.
#[derive(Debug)]
struct Stage {
    halve: Option<Sequence>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &DavitConfig, stage: usize, vb: VarBuilder) -> Result<Self> {
        let c = config.widths[stage];
        let halve = |before: usize, vb: VarBuilder| -> Result<Sequence> {
            let convolution = Conv2d::new(vb.pp("conv"), before, c, 2)?.stride(2);
            let norm = LayerNorm::new(vb.pp("norm"), before, EPS)?;
            Ok(Sequence::new([norm.into(), convolution.into()]))
        };
        let before = stage.checked_sub(1).map(|before| config.widths[before]);
        let blocks = (0..config.depths[stage]).flat_map(|pair| {
            let vb = vb.pp("blocks").pp(pair);
            [0, 1].map(|kind| Block::new(config, stage, pair, kind == 1, vb.pp(kind)))
        });
        Ok(Self {
            halve: before.map(|before| halve(before, vb.pp("downsample"))).transpose()?,
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    fn sequence(&self, mode: Mode) -> Result<Sequence> {
        let mut branches = Vec::from_iter(self.halve.clone());
        for Block { positions: [first, second], attention, mlp } in &self.blocks {
            let attention = attention.sequence(mode)?;
            branches.extend([first.clone(), attention, second.clone(), mlp.clone()]);
        }
        Ok(Sequence::chain(branches))
    }
}

/// A block: attention and MLP, each behind a convolution that tells tokens where they are.
#[derive(Debug)]
struct Block {
    positions: [Sequence; 2],
    attention: SelfAttention,
    mlp: Sequence,
}

impl Block {
    fn new(
        config: &DavitConfig,
        stage: usize,
        pair: usize,
        among_channels: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (width, heads) = (config.widths[stage], config.heads[stage]);
        let position = |name: &str| -> Result<Sequence> {
            let convolution = DepthwiseConv2d::new(vb.pp(name).pp("proj"), width, 3)?;
            Ok(Sequence::residual([convolution.into()]))
        };
        let attention: Box<dyn Layer> = match among_channels {
            true => ChannelAttention { heads }.into(),
            false => WindowAttention::new(heads, config.window).into(),
        };
        let positions = [position("cpe1")?, position("cpe2")?];
        let (before, all) = config.pyramid().blocks(stage);
        let branches = Branches {
            vb,
            width,
            hidden: width * config.mlp_ratio,
            eps: EPS,
            layer_scale: None,
            drop_path: drop_path_of(config.drop_path, before + pair, all),
            conditioning: config.conditioning,
        };
        let attention = branches.attention(attention, heads)?;
        Ok(Self { positions, attention, mlp: branches.mlp()? })
    }
}
