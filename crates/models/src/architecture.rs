//! What every configuration of a model can be asked, and the macro that makes one type of several.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use conditioned_nn::Store;
use conditioned_nn::store::is_buffer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::UnknownPreset;
use crate::conditioning::{ConditioningConfig, Tokens};
use crate::model::Model;

/// The names of a family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// In errors and on the command line, such as `vit`.
    pub name: &'static str,
    /// In tables, such as `ViT`.
    pub label: &'static str,
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Square images (B, channels, side, side) of `classes` classes.
    Images {
        /// Image channels.
        channels: usize,
        /// Side in pixels.
        side: usize,
        /// Classes K.
        classes: usize,
    },
    /// Token ids (B, N), u32, below `vocabulary`, with N up to `context`.
    Ids {
        /// Tokens V that the model knows.
        vocabulary: usize,
        /// The longest sequence.
        context: usize,
    },
}

/// The standard deviations of the embedding tables at initialisation; `None` where a model has no such
/// table, or none whose deviation is a setting.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TableStds {
    /// Of words, or of the class token.
    pub words: Option<f64>,
    /// Of positions.
    pub positions: Option<f64>,
}

/// A weight that holds the matrices of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedWeight {
    /// The pattern of the names of such weights; `*` stands for any characters.
    pub names: &'static str,
    /// The axis along which the three lie: 0 one below the other, 1 side by side.
    pub axis: usize,
    /// Blocks along the axis, each with its share of each matrix: the heads, where a head has its rows of
    /// queries, keys and values; else 1.
    pub blocks: usize,
}

/// The configuration of a model: everything that is known of it before it is built.
pub trait Architecture: Serialize + DeserializeOwned + Clone + PartialEq + Debug {
    /// The family.
    fn family(&self) -> Family;

    /// All presets by name, without conditioning.
    fn presets() -> Vec<(&'static str, Self)>;

    /// The preset called `name`.
    ///
    /// # Errors
    /// When there is no such preset; names those that there are.
    fn preset(name: &str) -> std::result::Result<Self, UnknownPreset> {
        let presets = Self::presets();
        let known = presets.iter().map(|(known, _)| *known).collect();
        let found = presets.into_iter().find(|(known, _)| *known == name);
        found
            .map(|(_, preset)| preset)
            .ok_or_else(|| UnknownPreset { name: name.to_string(), known })
    }

    /// What the model takes.
    fn input(&self) -> Input;

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the first contradiction.
    fn validate(&self) -> Result<()>;

    /// What is done to tokens, weights and attention.
    fn conditioning(&self) -> ConditioningConfig;

    /// Sets what is done to tokens, weights and attention; [`Architecture::validate`] refuses what the
    /// model cannot do.
    fn set_conditioning(&mut self, conditioning: ConditioningConfig);

    /// The deviations of the embedding tables at initialisation.
    fn table_stds(&self) -> TableStds {
        TableStds::default()
    }

    /// Sets the deviation of all embedding tables.
    ///
    /// # Errors
    /// When the model has no embedding table.
    fn set_table_std(&mut self, _std: f64) -> Result<()> {
        candle_core::bail!(
            "{}: it has no embedding table whose deviation at initialisation could be set",
            self.family().name
        )
    }

    /// Sets the deviation that the arm `init` looks for.
    ///
    /// # Errors
    /// As [`Architecture::set_table_std`].
    fn set_init_std(&mut self, std: f64) -> Result<()> {
        self.set_table_std(std)
    }

    /// Sets the drop-path rate of the last block.
    ///
    /// # Errors
    /// When the model has no drop path.
    fn set_drop_path(&mut self, _rate: f64) -> Result<()> {
        candle_core::bail!("{}: it has no drop path", self.family().name)
    }

    /// Sets the number of classes.
    ///
    /// # Errors
    /// When the model is not one of images.
    fn set_classes(&mut self, _classes: usize) -> Result<()> {
        candle_core::bail!("{}: it has no classes; models of images have them", self.family().name)
    }

    /// The weights that hold the matrices of queries, keys and values together.
    fn packed_weights(&self) -> Vec<PackedWeight> {
        vec![
            PackedWeight { names: "*.qkv.weight", axis: 0, blocks: 1 },
            PackedWeight { names: "*.c_attn.weight", axis: 1, blocks: 1 },
        ]
    }

    /// Multiply-accumulates of one forward pass, matrix products only, of one image or of one sequence of
    /// `tokens` tokens; models of images do not read `tokens`. Of a configuration that
    /// [`validate`](Architecture::validate) refuses it means nothing.
    fn macs(&self, tokens: usize) -> usize;

    /// The model over `vb`, an encoder without head, at the names of its reference implementation.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>>;

    /// The tokens that enter the first block for images or ids, with fresh parameters of a seed.
    ///
    /// # Errors
    /// As [`Architecture::build`], or when the input does not fit.
    fn fresh_tokens(&self, seed: u64, input: &Tensor) -> Result<Tokens> {
        let store = Store::new(seed, DType::F32, input.device());
        self.build(store.builder())?.tokens(input)
    }

    /// Trainable scalars of what [`Architecture::build`] makes, counted on the model itself, of which no
    /// parameter is allocated. What is done to tokens, weights and attention is not counted.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    fn parameter_count(&self) -> Result<usize> {
        let mut plain = self.clone();
        plain.set_conditioning(ConditioningConfig::default());
        parameters_of(|vb| plain.build(vb))
    }
}

/// Trainable scalars of what `build` makes, of which no parameter is allocated.
///
/// # Errors
/// Those of `build`.
pub(crate) fn parameters_of<T>(build: impl FnOnce(VarBuilder) -> Result<T>) -> Result<usize> {
    let shapes = Shapes::default();
    build(shapes.builder())?;
    Ok(shapes.parameter_count())
}

/// Names and shapes that a model asks for; it gets tensors of one stored element each.
#[derive(Clone, Default)]
struct Shapes(Arc<Mutex<BTreeMap<String, Shape>>>);

impl Shapes {
    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    fn parameter_count(&self) -> usize {
        let shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parameters = shapes.iter().filter(|(name, _)| !is_buffer(name));
        parameters.map(|(_, shape)| shape.elem_count()).sum()
    }
}

impl SimpleBackend for Shapes {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.insert(name.to_string(), shape.clone());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("parameter `{name}` is asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

/// Makes one type of several configurations: a variant each, read and written under the variant's name.
/// Whatever can be asked of a configuration can be asked of it.
macro_rules! architectures {
    ($(#[$about:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $variant:ident($config:ty),)+
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $($(#[$doc])* $variant($config),)+
        }

        $(impl From<$config> for $name {
            fn from(config: $config) -> Self {
                Self::$variant(config)
            }
        })+

        impl $crate::architecture::Architecture for $name {
            fn family(&self) -> $crate::architecture::Family {
                match self { $(Self::$variant(config) => config.family(),)+ }
            }

            fn presets() -> Vec<(&'static str, Self)> {
                let mut presets = Vec::new();
                $(presets.extend(
                    <$config>::presets().into_iter().map(|(name, config)| (name, config.into())),
                );)+
                presets
            }

            fn input(&self) -> $crate::architecture::Input {
                match self { $(Self::$variant(config) => config.input(),)+ }
            }

            fn validate(&self) -> candle_core::Result<()> {
                match self { $(Self::$variant(config) => config.validate(),)+ }
            }

            fn conditioning(&self) -> $crate::conditioning::ConditioningConfig {
                match self { $(Self::$variant(config) => config.conditioning(),)+ }
            }

            fn set_conditioning(&mut self, to: $crate::conditioning::ConditioningConfig) {
                match self { $(Self::$variant(config) => config.set_conditioning(to),)+ }
            }

            fn table_stds(&self) -> $crate::architecture::TableStds {
                match self { $(Self::$variant(config) => config.table_stds(),)+ }
            }

            fn set_table_std(&mut self, std: f64) -> candle_core::Result<()> {
                match self { $(Self::$variant(config) => config.set_table_std(std),)+ }
            }

            fn set_init_std(&mut self, std: f64) -> candle_core::Result<()> {
                match self { $(Self::$variant(config) => config.set_init_std(std),)+ }
            }

            fn set_drop_path(&mut self, rate: f64) -> candle_core::Result<()> {
                match self { $(Self::$variant(config) => config.set_drop_path(rate),)+ }
            }

            fn set_classes(&mut self, classes: usize) -> candle_core::Result<()> {
                match self { $(Self::$variant(config) => config.set_classes(classes),)+ }
            }

            fn packed_weights(&self) -> Vec<$crate::architecture::PackedWeight> {
                match self { $(Self::$variant(config) => config.packed_weights(),)+ }
            }

            fn macs(&self, tokens: usize) -> usize {
                match self { $(Self::$variant(config) => config.macs(tokens),)+ }
            }

            fn build(
                &self,
                vb: candle_nn::VarBuilder,
            ) -> candle_core::Result<Box<dyn $crate::model::Model>> {
                match self { $(Self::$variant(config) => config.build(vb),)+ }
            }
        }
    };
}
pub(crate) use architectures;

/// Answers of a configuration that are fields of it, by the names of the fields.
macro_rules! from_fields {
    ($($field:ident),+) => { $($crate::architecture::from_fields!(@ $field);)+ };
    (@ image_size) => {
        fn input(&self) -> $crate::architecture::Input {
            let Self { channels, image_size: side, classes, .. } = *self;
            $crate::architecture::Input::Images { channels, side, classes }
        }

        fn set_classes(&mut self, classes: usize) -> candle_core::Result<()> {
            self.classes = classes;
            Ok(())
        }
    };
    (@ context) => {
        fn input(&self) -> $crate::architecture::Input {
            let Self { vocabulary, context, .. } = *self;
            $crate::architecture::Input::Ids { vocabulary, context }
        }
    };
    (@ conditioning) => {
        fn conditioning(&self) -> $crate::conditioning::ConditioningConfig {
            self.conditioning
        }

        fn set_conditioning(&mut self, to: $crate::conditioning::ConditioningConfig) {
            self.conditioning = to;
        }
    };
    (@ table_std) => {
        fn table_stds(&self) -> $crate::architecture::TableStds {
            let std = Some(self.table_std);
            $crate::architecture::TableStds { words: std, positions: std }
        }

        fn set_table_std(&mut self, std: f64) -> candle_core::Result<()> {
            self.table_std = std;
            Ok(())
        }
    };
    (@ drop_path) => {
        fn set_drop_path(&mut self, rate: f64) -> candle_core::Result<()> {
            self.drop_path = rate;
            Ok(())
        }
    };
}
pub(crate) use from_fields;
