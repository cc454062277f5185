//! The names of tensors: those of the model are timm's, those of a file timm's or those of transformers.
//!
//! | model | transformers | transformers 5, `save_original_format=False` |
//! | --- | --- | --- |
//! | `cls_token` | `vit.embeddings.cls_token` | |
//! | `dist_token` | `deit.embeddings.distillation_token` | |
//! | `pos_embed` | `vit.embeddings.position_embeddings` | |
//! | `patch_embed.proj` | `vit.embeddings.patch_embeddings.projection` | |
//! | `blocks.N.norm1`, `norm2` | `vit.encoder.layer.N.layernorm_before`, `_after` | `vit.layers.N...` |
//! | `blocks.N.attn.qkv` | `...attention.attention.query`, `key`, `value` | `...attention.q_proj`, `k_proj`, `v_proj` |
//! | `blocks.N.attn.proj` | `...attention.output.dense` | `...attention.o_proj` |
//! | `blocks.N.mlp.fc1`, `fc2` | `...intermediate.dense`, `output.dense` | `...mlp.fc1`, `fc2` |
//! | `norm` | `vit.layernorm` | |
//! | `head` | `classifier`, of DeiT `cls_classifier` | |
//! | `head_dist` | `distillation_classifier` | |
//!
//! An encoder alone has no `vit.` or `deit.` in front.

use super::super::weights;
use super::config::Layout;

/// The one head of a DeiT that is no model here.
pub(super) const ONE_HEAD: &str = "classifier.";

/// Names of timm and transformers outside of blocks.
const ROOT: [(&str, &str); 5] = [
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
];

/// Inside of a block; queries, keys and values lie one below the other in timm.
const BLOCK: [(&str, &[&str]); 6] = [
    ("norm1.", &["layernorm_before."]),
    (
        "attn.qkv.",
        &["attention.attention.query.", "attention.attention.key.", "attention.attention.value."],
    ),
    ("attn.proj.", &["attention.output.dense."]),
    ("norm2.", &["layernorm_after."]),
    ("mlp.fc1.", &["intermediate.dense."]),
    ("mlp.fc2.", &["output.dense."]),
];

/// What parts of blocks are called in transformers 5, and before.
const MODERN: [(&str, &str); 6] = [
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
];

/// What belongs to a model of images rather than to a task, in transformers.
const BODY: [&str; 4] = ["embeddings.", "encoder.", "layers.", "layernorm."];

/// What a masked patch is replaced by in pretraining.
const MASK: &str = "embeddings.mask_token";

impl Layout {
    /// What the name of a tensor in a file comes to: without prefix, and as before transformers 5.
    pub(super) fn key(self, name: &str) -> String {
        let Self::Transformers { .. } = self else { return name.to_string() };
        let name = ["vit.", "deit."].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
        let Some((block, part)) = name.strip_prefix("layers.").and_then(|n| n.split_once('.'))
        else {
            return name.to_string();
        };
        let old = MODERN.iter().find_map(|(new, old)| Some((old, part.strip_prefix(new)?)));
        match old {
            Some((old, end)) => format!("encoder.layer.{block}.{old}{end}"),
            None => format!("encoder.layer.{block}.{part}"),
        }
    }

    /// The keys of a tensor of the model: one, or those of its rows in order.
    pub(super) fn keys(self, name: &str) -> Vec<String> {
        let Self::Transformers { distilled, .. } = self else { return vec![name.to_string()] };
        // Where queries, keys and values have been told apart, state stays with what it is of.
        if weights::is_state(name) {
            return vec![name.to_string()];
        }
        if let Some((block, part)) = name.strip_prefix("blocks.").and_then(|n| n.split_once('.'))
            && let Some((keys, end)) =
                BLOCK.iter().find_map(|(own, keys)| Some((keys, part.strip_prefix(own)?)))
        {
            return keys.iter().map(|key| format!("encoder.layer.{block}.{key}{end}")).collect();
        }
        let heads = [
            ("head.", if distilled { "cls_classifier." } else { ONE_HEAD }),
            ("head_dist.", "distillation_classifier."),
        ];
        let key = ROOT
            .iter()
            .chain(&heads)
            .find_map(|(own, key)| Some(format!("{key}{}", name.strip_prefix(own)?)));
        vec![key.unwrap_or_else(|| name.to_string())]
    }

    /// The name of a key in a file that is written, with the prefix of a model with a head.
    pub(super) fn full(self, key: &str) -> String {
        match self {
            Self::Transformers { distilled, .. }
                if self.is_body(key) && !weights::is_state(key) =>
            {
                format!("{}{key}", if distilled { "deit." } else { "vit." })
            }
            _ => key.to_string(),
        }
    }

    /// Whether a tensor of a file, by its key, is part of the model whatever its task: nothing of it may be
    /// missing or left over.
    pub(super) fn is_body(self, key: &str) -> bool {
        match self {
            Self::Timm => !self.is_head(key),
            Self::Transformers { .. } => {
                weights::is_state(key)
                    || (key != MASK && BODY.iter().any(|part| key.starts_with(part)))
            }
        }
    }

    /// Whether a tensor of a file, by its key, is of a classifier.
    pub(super) fn is_head(self, key: &str) -> bool {
        let heads: &[&str] = match self {
            Self::Timm => &["head.", "head_dist."],
            Self::Transformers { .. } => &[ONE_HEAD, "cls_classifier.", "distillation_classifier."],
        };
        heads.iter().any(|head| key.starts_with(head))
    }
}
