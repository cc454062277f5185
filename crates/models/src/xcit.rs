//! XCiT: attention among channels by their cross-covariance, linear in the number of tokens.
//!
//! ```text
//! X_0 = BN(conv(...BN(conv(image)))) + P(y, x)          (B, H/p, W/p, C), P of Fourier features
//! Y_0 = condition(X_0)
//! X = X + g1 XCA(LN(X)),  X = X + g3 LPI(LN(X)),  X = X + g2 MLP(LN(X))      depth times
//! [cls; X]: class attention, in which the class token alone asks              class_depth times
//! logits = head(LN(cls))                                (B, K)
//! ```
//!
//! LPI is depthwise 3 x 3, GELU, batch norm, depthwise 3 x 3.
//!
//! Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021; class attention from
//! Touvron et al., "Going deeper with Image Transformers", ICCV 2021. Names, layout and initialisation follow timm's
//! `Xcit`: its checkpoints load by name.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    BatchNorm2d, Conv2d, CrossCovarianceAttention, DepthwiseConv2d, Gelu, Layer, LayerNorm, Linear,
    Mode, Pass, Sequence, add_table, channels_last, init, upload,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::block::{Branches, LINEAR_STD};
use crate::checks;
use crate::class_attention::ClassBlock;
use crate::conditioning::{ConditioningConfig, Placement};
use crate::model::Model;
use crate::self_attention::SelfAttention;
use crate::stem::{Places, Stem, Way};

/// timm's epsilon of every layer norm in an XCiT.
pub(crate) const EPS: f64 = 1e-6;

/// Fourier features of each axis of the positional encoding.
const FEATURES: usize = 32;

/// Base of the wavelengths of the positional encoding.
const TEMPERATURE: f64 = 10_000.0;

/// What an XCiT is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XcitConfig {
    /// Side of the (square) image in pixels.
    pub image_size: usize,
    /// Side p of a patch in pixels, a power of two: the stem has log2(p) convolutions of stride 2.
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
    /// Blocks of class attention.
    pub class_depth: usize,
    /// Hidden width of the MLP over C.
    pub mlp_ratio: usize,
    /// What every branch is multiplied by, channel by channel, at initialisation.
    pub layer_scale: f64,
    /// Whether class attention normalises all tokens behind its first branch, or the class token alone.
    pub tokens_norm: bool,
    /// Drop-path rate of every block; class attention has none.
    pub drop_path: f64,
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl XcitConfig {
    /// Channels between the convolutions of the stem, those of the image first.
    fn stem_widths(&self) -> Vec<usize> {
        let convolutions = self.patch_size.checked_ilog2().unwrap_or(0);
        let inner = (0..convolutions).rev().map(|i| self.width >> i);
        std::iter::once(self.channels).chain(inner).collect()
    }
}

impl Architecture for XcitConfig {
    fn family(&self) -> Family {
        Family { name: "xcit", label: "XCiT" }
    }

    from_fields!(image_size, conditioning, drop_path);

    /// `*_p16_224` as in timm; the others are for 8 x 8 digits, 28 x 28 MNIST, and RGB images of 32 x 32
    /// and, as backbones of detectors, 64 x 64. None has
    /// drop path.
    fn presets() -> Vec<(&'static str, Self)> {
        let small = Self {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes: 1000,
            width: 384,
            depth: 12,
            heads: 8,
            class_depth: 2,
            mlp_ratio: 4,
            layer_scale: 1.0,
            tokens_norm: true,
            drop_path: 0.0,
            conditioning: ConditioningConfig::default(),
        };
        let nano = Self { width: 128, heads: 4, tokens_norm: false, ..small.clone() };
        let medium = Self { width: 512, depth: 24, layer_scale: 1e-5, ..small.clone() };
        let digits = Self {
            image_size: 8,
            patch_size: 2,
            channels: 1,
            classes: 10,
            width: 48,
            depth: 3,
            heads: 4,
            class_depth: 1,
            ..small.clone()
        };
        let mnist = Self { image_size: 28, patch_size: 4, ..digits.clone() };
        let rgb = Self {
            image_size: 32,
            patch_size: 4,
            channels: 3,
            width: 192,
            depth: 6,
            class_depth: 2,
            ..digits.clone()
        };
        let objects = Self { image_size: 64, width: 48, depth: 4, ..rgb.clone() };
        let nuclei = Self { image_size: 256, patch_size: 8, width: 96, ..objects.clone() };
        vec![
            ("xcit_nano_12_p16_224", nano),
            ("xcit_small_12_p16_224", small),
            ("xcit_medium_24_p16_224", medium),
            ("xcit-8", digits.clone()),
            ("xcit-8-tiny", Self { width: 16, depth: 2, class_depth: 2, ..digits }),
            ("xcit-28", mnist),
            ("xcit-32", rgb.clone()),
            ("xcit-64", objects.clone()),
            ("xcit-64-medium", Self { depth: 6, ..objects.clone() }),
            ("xcit-64-tiny", Self { width: 16, ..objects }),
            ("xcit-256", nuclei.clone()),
            ("xcit-256-medium", Self { depth: 8, ..nuclei }),
        ]
    }

    fn validate(&self) -> Result<()> {
        let Self { image_size, patch_size: p, width, heads, .. } = *self;
        checks::at_least_one(
            "xcit",
            [
                ("image_size", image_size),
                ("channels", self.channels),
                ("classes", self.classes),
                ("width", width),
                ("heads", heads),
                ("mlp_ratio", self.mlp_ratio),
            ],
        )?;
        Places { tables: false, positions: true, norm: false }.check(&self.conditioning, "xcit")?;
        if !p.is_power_of_two() || p < 2 || !width.is_multiple_of(p / 2) {
            candle_core::bail!(
                "xcit: patch_size {p} must be a power of two from 2 on, and half of it divide width {width}"
            );
        }
        checks::tiles("xcit", p, image_size)?;
        checks::equal_heads("xcit", heads, width)?;
        checks::probability("xcit", "drop_path", self.drop_path)?;
        if !self.layer_scale.is_finite() {
            candle_core::bail!("xcit: layer_scale {} must be finite", self.layer_scale);
        }
        Ok(())
    }

    fn macs(&self, _: usize) -> usize {
        let (c, r) = (self.width, self.mlp_ratio);
        let n = self.image_size.checked_div(self.patch_size).unwrap_or(0).pow(2);
        let d = c.checked_div(self.heads).unwrap_or(0);
        let widths = self.stem_widths();
        let convolution = |(i, pair): (usize, &[usize])| {
            9 * pair[0] * pair[1] * (self.image_size >> (i + 1)).pow(2)
        };
        let stem: usize = widths.windows(2).enumerate().map(convolution).sum();
        let block = (4 + 2 * r) * n * c * c + 2 * n * c * d + 18 * n * c;
        let class = 2 * (n + 1) * c * c + 2 * c * c + 2 * (n + 1) * c + 2 * r * c * c;
        let positions = 2 * FEATURES * n * c;
        stem + positions + self.depth * block + self.class_depth * class + c * self.classes
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Xcit::new(self, vb)?))
    }
}

/// An XCiT in front of its class attention: the tokens, and the blocks over them.
#[derive(Debug)]
pub(crate) struct Trunk {
    patch_size: usize,
    convolutions: Sequence,
    positions: Linear,
    pub(crate) stem: Stem,
    pub(crate) blocks: Vec<Block>,
}

impl Trunk {
    /// A trunk over `vb`, at the names of timm's `Xcit`.
    ///
    /// # Errors
    /// When a tensor has another shape.
    pub(crate) fn new(config: &XcitConfig, vb: &VarBuilder) -> Result<Self> {
        let c = config.width;
        let blocks = (0..config.depth)
            .map(|i| Block::new(config, vb.pp("blocks").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            patch_size: config.patch_size,
            convolutions: convolutions(&config.stem_widths(), &vb.pp("patch_embed.proj"))?,
            positions: projection(vb.pp("pos_embed.token_projection"), c)?,
            stem: Stem::new(config, c, vb)?,
            blocks,
        })
    }

    /// Images (B, channels, H, W) to tokens (B, H/p, W/p, C); of images that padding fills to one size, `sizes` are
    /// height and width of what is real.
    ///
    /// # Errors
    /// When the images do not fit.
    pub(crate) fn embed(
        &self,
        images: &Tensor,
        sizes: Option<&[[usize; 2]]>,
        way: Way<'_>,
    ) -> Result<Tensor> {
        let patches = self.convolutions.forward(&channels_last(images)?, way.pass())?;
        let (b, h, w, _) = patches.dims4()?;
        let real = match sizes {
            None => vec![[h, w]; b],
            Some(sizes) => {
                sizes.iter().map(|size| size.map(|side| side.div_ceil(self.patch_size))).collect()
            }
        };
        let patches = self.stem.at_padded(Placement::BeforePosition, patches, &real, way)?;
        let features = fourier_features(h, w)?.to_dtype(patches.dtype())?;
        let features = upload(&features, patches.device())?;
        let positions = features.apply(&self.positions)?.unsqueeze(0)?; // (1, N, C)
        let x = add_table(&patches.flatten(1, 2)?, &positions)?.reshape(patches.shape())?;
        self.stem.at_padded(Placement::AfterPosition, x, &real, way)
    }
}

/// An XCiT with a classification head on the class token.
#[derive(Debug)]
pub struct Xcit {
    trunk: Trunk,
    cls_token: Tensor,
    class_blocks: Vec<ClassBlock>,
    norm: LayerNorm,
    head: Linear,
}

impl Xcit {
    /// A model over `vb`, at the names of timm's `Xcit`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &XcitConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let c = config.width;
        let class_blocks = (0..config.class_depth)
            .map(|i| ClassBlock::new(config, vb.pp("cls_attn_blocks").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            trunk: Trunk::new(config, &vb)?,
            cls_token: vb.get_with_hints((1, 1, c), "cls_token", init::normal(LINEAR_STD))?,
            class_blocks,
            norm: LayerNorm::new(vb.pp("norm"), c, EPS)?,
            head: Linear::with_std(vb.pp("head"), c, config.classes, LINEAR_STD)?,
        })
    }
}

impl Model for Xcit {
    fn forward(&self, images: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed(images, Way::Conditioned(pass))?; // (B, H/p, W/p, C)
        let blocks = self.trunk.blocks.iter().map(|block| block.sequence(pass.mode));
        let x = Sequence::chain(blocks.collect::<Result<Vec<_>>>()?).forward(&x, pass)?;
        let mut patches = x.flatten(1, 2)?; // (B, N, C)
        let (b, _, c) = patches.dims3()?;
        let mut class = self.cls_token.broadcast_as((b, 1, c))?.contiguous()?;
        for block in &self.class_blocks {
            (class, patches) = block.forward(&class, &patches, pass)?;
        }
        class.squeeze(1)?.apply(&self.norm)?.apply(&self.head)
    }

    fn embed(&self, images: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.trunk.stem.check(images)?;
        self.trunk.embed(images, None, way)
    }

    fn stem(&self) -> &Stem {
        &self.trunk.stem
    }
}

/// Convolutions of stride 2 between these channels, each with batch norm, GELU between them.
fn convolutions(widths: &[usize], vb: &VarBuilder) -> Result<Sequence> {
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    for (i, pair) in widths.windows(2).enumerate() {
        if i > 0 {
            layers.push(Gelu::Erf.into());
        }
        let vb = vb.pp(2 * i);
        let convolution = Conv2d::without_bias(vb.pp(0), pair[0], pair[1], 3)?;
        layers.push(convolution.stride(2).padding(1).into());
        layers.push(BatchNorm2d::new(vb.pp(1), pair[1])?.into());
    }
    Ok(Sequence::new(layers))
}

/// The projection of Fourier features to C channels: a 1 x 1 convolution in timm.
fn projection(vb: VarBuilder, c: usize) -> Result<Linear> {
    let inputs = 2 * FEATURES;
    let weight = vb.get_with_hints((c, inputs, 1, 1), "weight", init::torch_default(inputs))?;
    let bias = vb.get_with_hints(c, "bias", init::torch_default(inputs))?;
    Ok(Linear::new(weight.reshape((c, inputs))?, Some(bias)))
}

/// sin and cos in turn of (place / T^(2 floor(j/2)/32)), first of the row, then of the column: (H W, 64), f64.
///
/// Places are 1 ..= size over (size + 1e-6), times 2 pi; T = 10000.
fn fourier_features(height: usize, width: usize) -> Result<Tensor> {
    let feature = |place: usize, size: usize, j: usize| {
        let angle = (place + 1) as f64 / (size as f64 + 1e-6) * std::f64::consts::TAU;
        let angle = angle / TEMPERATURE.powf((j / 2 * 2) as f64 / FEATURES as f64);
        if j.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    let token = |(y, x): (usize, usize)| {
        let row = (0..FEATURES).map(move |j| feature(y, height, j));
        row.chain((0..FEATURES).map(move |j| feature(x, width, j)))
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let values: Vec<f64> = places.flat_map(token).collect();
    Tensor::from_vec(values, (height * width, 2 * FEATURES), &candle_core::Device::Cpu)
}

/// A block: three residual branches.
#[derive(Debug)]
pub(crate) struct Block {
    attention: SelfAttention,
    local: Sequence,
    mlp: Sequence,
}

impl Block {
    fn new(config: &XcitConfig, vb: VarBuilder) -> Result<Self> {
        let (width, heads) = (config.width, config.heads);
        let attention = CrossCovarianceAttention::new(&vb.pp("attn"), heads)?;
        let branches = Branches {
            vb: vb.clone(),
            width,
            hidden: width * config.mlp_ratio,
            eps: EPS,
            layer_scale: Some(config.layer_scale),
            drop_path: config.drop_path,
            conditioning: config.conditioning,
        };
        let local = [
            branches.norm("norm3")?.into(),
            DepthwiseConv2d::new(vb.pp("local_mp.conv1"), width, 3)?.into(),
            Gelu::Erf.into(),
            BatchNorm2d::new(vb.pp("local_mp.bn"), width)?.into(),
            DepthwiseConv2d::new(vb.pp("local_mp.conv2"), width, 3)?.into(),
        ];
        Ok(Self {
            attention: branches.attention(attention, heads)?,
            local: branches.branch(local, "gamma3", "drop_path3")?,
            mlp: branches.mlp()?,
        })
    }

    /// (B, h, w, C) -> (B, h, w, C).
    pub(crate) fn sequence(&self, mode: Mode) -> Result<Sequence> {
        let Self { attention, local, mlp } = self;
        Ok(Sequence::chain([attention.sequence(mode)?, local.clone(), mlp.clone()]))
    }
}
