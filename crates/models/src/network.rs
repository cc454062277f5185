//! All models behind one name: what a run that can train any of them is configured with.

use crate::architecture::{Architecture, architectures};
use crate::davit::DavitConfig;
use crate::encoder::EncoderConfig;
use crate::gpt2::Gpt2Config;
use crate::nystromformer::NystromformerConfig;
use crate::swin::SwinConfig;
use crate::vit::VitConfig;
use crate::xcit::XcitConfig;

architectures! {
    /// The configuration of a model of any family.
    pub enum Network {
        /// ViT, DeiT.
        Vit(VitConfig),
        /// GPT-2.
        Gpt2(Gpt2Config),
        /// BERT or Crammed BERT.
        Encoder(EncoderConfig),
        /// Nystromformer.
        Nystromformer(NystromformerConfig),
        /// Swin.
        Swin(SwinConfig),
        /// XCiT.
        Xcit(XcitConfig),
        /// DaViT.
        Davit(DavitConfig),
    }
}

impl Network {
    /// The label of the family called `name`.
    pub fn label(name: &str) -> Option<&'static str> {
        let mut families = Self::presets().into_iter().map(|(_, network)| network.family());
        families.find(|family| family.name == name).map(|family| family.label)
    }
}
