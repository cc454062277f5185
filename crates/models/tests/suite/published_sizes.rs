//! Parameters and multiply-accumulates of published image models, as timm 1.0.31 has them.

use conditioned_models::Architecture;
use conditioned_models::network::Network;

/// Name, parameters of `timm.create_model`, and products of one image by torch's `FlopCounterMode`: convolutions,
/// linear layers and both products of attention. The published 15.47 GMAC of Swin-B count five operations an
/// element of every layer norm too.
const PUBLISHED: [(&str, usize, usize); 10] = [
    ("swin_tiny_patch4_window7_224", 28_288_354, 4_490_566_656),
    ("swin_small_patch4_window7_224", 49_606_258, 8_740_875_264),
    ("swin_base_patch4_window7_224", 87_768_224, 15_430_946_816),
    ("xcit_nano_12_p16_224", 3_053_224, 550_952_448),
    ("xcit_small_12_p16_224", 26_253_304, 4_795_832_832),
    ("xcit_medium_24_p16_224", 84_395_752, 16_083_597_312),
    ("davit_tiny", 28_360_168, 4_521_801_216),
    ("davit_base", 87_954_408, 15_473_797_120),
    ("deit_base_patch16_224", 86_567_656, 17_563_828_224),
    ("deit_base_distilled_patch16_224", 87_338_192, 17_656_811_520),
];

#[test]
fn sizes_are_those_of_timm() {
    for (name, parameters, products) in PUBLISHED {
        let network = Network::preset(name).unwrap();
        assert_eq!(network.parameter_count().unwrap(), parameters, "{name}");
        assert_eq!(network.macs(0), products, "{name}");
    }
}
