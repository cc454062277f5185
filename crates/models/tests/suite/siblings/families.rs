//! Every family of models, shrunk, and each of them by hand behind its tokens.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::Model as _;
use conditioned_models::bert::BertConfig;
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::crammed_bert::CrammedBertConfig;
use conditioned_models::crammed_heads::CrammedBertClassifier;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_nn::{Mode, Store, gated_gelu, gelu, gelu_tanh, reference};

use crate::bert::{alone, batch};
use crate::uniform;

pub(super) const WIDTH: usize = 12;
pub(super) const HEADS: usize = 3;
pub(super) const DEPTH: usize = 2;

/// A model on one batch: its logits, and the tokens that enter its first layer without conditioning.
pub(super) struct Model {
    pub(super) logits: Box<dyn Fn(Mode) -> Result<Tensor>>,
    pub(super) tokens: Box<dyn Fn() -> Result<Tensor>>,
}

/// One family, shrunk; without dropout, so that training computes what evaluation does.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) build: fn(ConditioningConfig, &Store) -> Result<Model>,
    /// Where entry (o, i), output and input, of the matrix of queries (0), keys (1) or values (2) of a
    /// layer lies: tensor, row, column.
    pub(super) place: fn(usize, usize, usize, usize) -> (String, usize, usize),
    /// The network behind its tokens in plain operations (but GELU, which candle has
    /// with an error of 1e-7).
    pub(super) by_hand: fn(&Store, &Tensor, &Scales) -> Result<Tensor>,
}

pub(super) const FAMILIES: [Family; 4] = [
    Family { name: "vit", build: vit, place: vit_place, by_hand: vit_by_hand },
    Family { name: "gpt2", build: gpt2, place: gpt2_place, by_hand: gpt2_by_hand },
    Family { name: "bert", build: bert, place: bert_place, by_hand: bert_by_hand },
    Family { name: "crammed-bert", build: crammed, place: crammed_place, by_hand: crammed_by_hand },
];

pub(super) fn vit(conditioning: ConditioningConfig, store: &Store) -> Result<Model> {
    let config = VitConfig {
        image_size: 4,
        classes: 5,
        width: WIDTH,
        heads: HEADS,
        depth: DEPTH,
        conditioning,
        ..VitConfig::preset("vit-8").unwrap()
    };
    let images = uniform(&[3, 1, 4, 4], 91)?.to_dtype(store.builder().dtype())?;
    let model = std::rc::Rc::new((Vit::new(&config, store.builder())?, images));
    let other = model.clone();
    Ok(Model {
        logits: Box::new(move |mode| model.0.forward(&model.1, mode.into())),
        tokens: Box::new(move || Ok(other.0.tokens(&other.1)?.plain)),
    })
}

pub(super) fn gpt2_config(conditioning: ConditioningConfig) -> Gpt2Config {
    Gpt2Config {
        vocabulary: 11,
        context: 9,
        width: WIDTH,
        heads: HEADS,
        depth: DEPTH,
        conditioning,
        ..Gpt2Config::preset("gpt2").unwrap()
    }
}

pub(super) fn gpt2_ids() -> Result<Tensor> {
    let ids: Vec<u32> = (0..14).map(|i| (i * i + 3 * i) % 11).collect();
    Tensor::from_vec(ids, (2, 7), &Device::Cpu)
}

pub(super) fn gpt2(conditioning: ConditioningConfig, store: &Store) -> Result<Model> {
    let model = Gpt2::new(&gpt2_config(conditioning), store.builder())?;
    let model = std::rc::Rc::new((model, gpt2_ids()?));
    let other = model.clone();
    Ok(Model {
        logits: Box::new(move |mode| model.0.logits(&model.1, mode)),
        tokens: Box::new(move || Ok(other.0.tokens(&other.1)?.plain)),
    })
}

pub(super) fn bert_config(conditioning: ConditioningConfig) -> BertConfig {
    BertConfig {
        vocabulary: 23,
        context: 9,
        width: WIDTH,
        heads: HEADS,
        depth: DEPTH,
        hidden: 20,
        dropout: 0.0,
        conditioning,
        ..BertConfig::preset("bert-base-uncased").unwrap()
    }
}

pub(super) fn bert(conditioning: ConditioningConfig, store: &Store) -> Result<Model> {
    let model = BertClassifier::new(&bert_config(conditioning), 3, store.builder())?;
    let model = std::rc::Rc::new((model, alone(&batch()?, 0)?));
    let other = model.clone();
    Ok(Model {
        logits: Box::new(move |mode| model.0.logits(&model.1, mode)),
        tokens: Box::new(move || other.0.bert().real_tokens(&other.1)?.plain.unsqueeze(0)),
    })
}

pub(super) fn crammed_config(conditioning: ConditioningConfig) -> CrammedBertConfig {
    CrammedBertConfig {
        vocabulary: 23,
        context: 9,
        width: WIDTH,
        heads: HEADS,
        depth: DEPTH,
        hidden: 20,
        dropout: 0.0,
        conditioning,
        ..CrammedBertConfig::preset("crammed-bert").unwrap()
    }
}

pub(super) fn crammed(conditioning: ConditioningConfig, store: &Store) -> Result<Model> {
    let model = CrammedBertClassifier::new(&crammed_config(conditioning), 3, store.builder())?;
    let model = std::rc::Rc::new((model, alone(&batch()?, 0)?));
    let other = model.clone();
    Ok(Model {
        logits: Box::new(move |mode| model.0.logits(&model.1, mode)),
        tokens: Box::new(move || other.0.bert().real_tokens(&other.1)?.plain.unsqueeze(0)),
    })
}

pub(super) fn vit_place(layer: usize, k: usize, o: usize, i: usize) -> (String, usize, usize) {
    (format!("blocks.{layer}.attn.qkv.weight"), k * WIDTH + o, i)
}

pub(super) fn gpt2_place(layer: usize, k: usize, o: usize, i: usize) -> (String, usize, usize) {
    (format!("h.{layer}.attn.c_attn.weight"), i, k * WIDTH + o)
}

pub(super) fn bert_place(layer: usize, k: usize, o: usize, i: usize) -> (String, usize, usize) {
    let name = ["query", "key", "value"][k];
    (format!("bert.encoder.layer.{layer}.attention.self.{name}.weight"), o, i)
}

pub(super) fn crammed_place(layer: usize, k: usize, o: usize, i: usize) -> (String, usize, usize) {
    let d = WIDTH / HEADS;
    let name = format!("encoder.layers.{layer}.attn.self_attention.query_key_value.weight");
    (name, o / d * 3 * d + k * d + o % d, i)
}

/// The norms of the rows of every layer's heads: those of the first pass, constants from then on.
#[derive(Default)]
pub(super) struct Scales(RefCell<BTreeMap<usize, Tensor>>);

impl Scales {
    /// A / (|A| + 1e-8) for the outputs A of the heads of a layer, (B, N, C).
    fn precondition(&self, layer: usize, outputs: &Tensor) -> Result<Tensor> {
        let rows = outputs.reshape(((), WIDTH / HEADS))?;
        let mut known = self.0.borrow_mut();
        let norms = match known.get(&layer) {
            Some(norms) => norms.clone(),
            None => (rows.detach().sqr()?.sum_keepdim(1)?.sqrt()? + 1e-8)?,
        };
        known.insert(layer, norms.clone());
        rows.broadcast_div(&norms)?.reshape(outputs.shape())
    }
}

/// The parameters of a store by name.
pub(super) struct Names<'a>(&'a Store, String);

impl Names<'_> {
    fn get(&self, name: &str) -> Tensor {
        self.0.get(&format!("{}{name}", self.1)).expect(name).as_tensor().clone()
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        reference::linear(x, &self.get(&weight), Some(&self.get(&bias)))
    }

    fn conv1d(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        reference::linear(x, &self.get(&weight).t()?, Some(&self.get(&bias)))
    }

    fn norm(&self, x: &Tensor, name: &str, eps: f64) -> Result<Tensor> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        reference::layer_norm(x, &self.get(&weight), &self.get(&bias), eps)
    }
}

pub(super) fn vit_by_hand(store: &Store, tokens: &Tensor, scales: &Scales) -> Result<Tensor> {
    let mut x = tokens.clone();
    for layer in 0..DEPTH {
        let block = Names(store, format!("blocks.{layer}."));
        let qkv = block.linear(&block.norm(&x, "norm1", 1e-6)?, "attn.qkv")?;
        let heads = reference::attention(&qkv, HEADS, false)?;
        x = (x + block.linear(&scales.precondition(layer, &heads)?, "attn.proj")?)?;
        let hidden = block.linear(&block.norm(&x, "norm2", 1e-6)?, "mlp.fc1")?;
        x = (x + block.linear(&gelu(&hidden)?, "mlp.fc2")?)?;
    }
    let root = Names(store, String::new());
    root.linear(&root.norm(&x.narrow(1, 0, 1)?.squeeze(1)?, "norm", 1e-6)?, "head")
}

pub(super) fn gpt2_by_hand(store: &Store, tokens: &Tensor, scales: &Scales) -> Result<Tensor> {
    let mut x = tokens.clone();
    for layer in 0..DEPTH {
        let block = Names(store, format!("h.{layer}."));
        let qkv = block.conv1d(&block.norm(&x, "ln_1", 1e-5)?, "attn.c_attn")?;
        let heads = reference::attention(&qkv, HEADS, true)?;
        x = (x + block.conv1d(&scales.precondition(layer, &heads)?, "attn.c_proj")?)?;
        let hidden = block.conv1d(&block.norm(&x, "ln_2", 1e-5)?, "mlp.c_fc")?;
        x = (x + block.conv1d(&gelu_tanh(&hidden)?, "mlp.c_proj")?)?;
    }
    let root = Names(store, String::new());
    reference::linear(&root.norm(&x, "ln_f", 1e-5)?, &root.get("wte.weight"), None)
}

pub(super) fn bert_by_hand(store: &Store, tokens: &Tensor, scales: &Scales) -> Result<Tensor> {
    let mut x = tokens.clone();
    for index in 0..DEPTH {
        let layer = Names(store, format!("bert.encoder.layer.{index}."));
        let parts = ["query", "key", "value"]
            .map(|name| layer.linear(&x, &format!("attention.self.{name}")));
        let qkv = Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 2)?;
        let heads = scales.precondition(index, &reference::attention(&qkv, HEADS, false)?)?;
        let attended = (&x + layer.linear(&heads, "attention.output.dense")?)?;
        let attended = layer.norm(&attended, "attention.output.LayerNorm", 1e-12)?;
        let hidden = gelu(&layer.linear(&attended, "intermediate.dense")?)?;
        let fed = (attended + layer.linear(&hidden, "output.dense")?)?;
        x = layer.norm(&fed, "output.LayerNorm", 1e-12)?;
    }
    let root = Names(store, String::new());
    let pooled = root.linear(&x.narrow(1, 0, 1)?.squeeze(1)?, "bert.pooler.dense")?.tanh()?;
    root.linear(&pooled, "classifier")
}

pub(super) fn crammed_by_hand(store: &Store, tokens: &Tensor, scales: &Scales) -> Result<Tensor> {
    let mut x = tokens.clone();
    for index in 0..DEPTH {
        let layer = Names(store, format!("encoder.layers.{index}."));
        let packed = layer.get("attn.self_attention.query_key_value.weight");
        let packed = packed.reshape((HEADS, 3, WIDTH / HEADS, WIDTH))?;
        let packed = packed.transpose(0, 1)?.reshape((3 * WIDTH, WIDTH))?;
        let qkv = reference::linear(&layer.norm(&x, "norm1", 1e-12)?, &packed, None)?;
        let heads = scales.precondition(index, &reference::attention(&qkv, HEADS, false)?)?;
        x = (x + reference::linear(&heads, &layer.get("attn.dense.weight"), None)?)?;
        let inner = layer.get("ffn.dense_in.weight");
        let inner = reference::linear(&layer.norm(&x, "norm2", 1e-12)?, &inner, None)?;
        let outer = layer.get("ffn.dense_out.weight");
        x = (x + reference::linear(&gated_gelu(&inner)?, &outer, None)?)?;
    }
    let root = Names(store, String::new());
    let first = root.norm(&x, "encoder.final_norm", 1e-12)?.narrow(1, 0, 1)?.squeeze(1)?;
    root.linear(&root.linear(&first, "pooler.dense")?.tanh()?, "head")
}
