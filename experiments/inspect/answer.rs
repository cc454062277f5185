//! What was found, in words, numbers and pictures.

use conditioned_models::Architecture;
use conditioned_report::curves::{Curve, Figure, Panel};
use conditioned_report::grid::Grid;
use conditioned_report::html::Plate;
use conditioned_train::Findings;
use experiments::figures::{Named, layers, resolved};
use experiments::probe::{KAPPA, MEASURES, PLACES, RESOLVED, shown};

use crate::subject::Subject;

/// kappa below which, and above which, tokens are called well and ill conditioned: what tables 1 to 5 saw on either
/// side is in docs/CONDITIONING.md.
const WELL: f64 = 10.0;
const ILL: f64 = 100.0;

/// Strengths t of the method that are tried.
const STRENGTHS: [f64; 2] = [0.3, 1.0];

fn kappa(found: &Findings, place: &str) -> f64 {
    resolved(found.metrics.get(&format!("{place}/{KAPPA}")).copied().unwrap_or(f64::NAN))
}

/// kappa of the tokens that enter layer 1, and what that is called.
pub(crate) fn verdict(found: &Findings) -> String {
    let tokens = kappa(found, "layer1/tokens");
    let called = match tokens {
        kappa if kappa < WELL => {
            "well conditioned. In our tables conditioning gained little or nothing there"
        }
        kappa if kappa <= ILL => {
            "of middling condition. In our tables conditioning gained something there, and as much did larger \
             embedding tables or a mere factor"
        }
        _ => {
            "ill conditioned. Conditioning may help, and so may larger embedding tables or a mere factor: try all \
             three"
        }
    };
    let conditioned = (kappa(found, "x") - kappa(found, "y")).abs() > 1e-3 * kappa(found, "y");
    let by = match conditioned {
        true => format!(
            " (its own conditioning brings κ from {} to {})",
            shown(kappa(found, "x")),
            shown(kappa(found, "y"))
        ),
        false => String::new(),
    };
    format!("Verdict: the tokens have κ {}{by} and are {called}.", shown(tokens))
}

/// Ten lines for somebody who has never heard of condition numbers.
pub(crate) fn lines(subject: &Subject, found: &Findings, scales: &[(f64, f64)]) -> Vec<String> {
    let (network, depth) = (&subject.network, layers(found));
    let of = |name: &str| found.metrics.get(name).copied().unwrap_or(f64::NAN);
    let parameters = match subject.store.parameter_count() {
        few if few < 1_000_000 => format!("{few}"),
        many => format!("{:.1} million", many as f64 / 1e6),
    };
    let rank = found.spectra.get("layer1/tokens").map_or(0, Vec::len);
    let mut lines = vec![
        format!("{}: {depth} layers with attention, {parameters} parameters.", network.family().label),
        format!("It looked at {}.", subject.input),
        "κ is the largest singular value over the smallest: 1 is best, and at 1e7 directions are lost in f32."
            .to_string(),
        format!(
            "Tokens that enter layer 1: κ {} (middle half of the inputs: {} to {}), effective rank {:.0} of {rank}.",
            shown(kappa(found, "layer1/tokens")),
            shown(of("layer1/tokens/kappa_q1")),
            shown(of("layer1/tokens/kappa_q3")),
            of("layer1/tokens/effective_rank")
        ),
        by_layer(found, "tokens", "Tokens of later layers"),
        format!(
            "{} {}",
            by_layer(found, "attention", "Attention matrices"),
            by_layer(found, "output", "Their output")
        ),
    ];
    if let Some(share) = violations(found) {
        lines.push(format!(
            "The published bound on attention (Proposition 4.2) is missed by {share:.1} % of the heads."
        ));
    }
    lines.push(verdict(found));
    lines.push(what_if(found, scales));
    lines.push(
        "What a lower κ was worth where we trained with both: docs/CONDITIONING.md. κ alone decides nothing."
            .to_string(),
    );
    lines
}

/// kappa of a place in the first and last layer, and where it is largest.
fn by_layer(found: &Findings, place: &str, label: &str) -> String {
    let kappas: Vec<f64> =
        (1..=layers(found)).map(|layer| kappa(found, &format!("layer{layer}/{place}"))).collect();
    let (Some(first), Some(last)) = (kappas.first(), kappas.last()) else {
        return format!("{label}: none.");
    };
    let worst = (0..kappas.len()).max_by(|&a, &b| kappas[a].total_cmp(&kappas[b])).unwrap_or(0);
    format!(
        "{label}: κ {} in layer 1, {} in layer {}, at worst {} (layer {}).",
        shown(*first),
        shown(*last),
        kappas.len(),
        shown(kappas[worst]),
        worst + 1
    )
}

/// The share of heads that miss Proposition 4.2 in %, where a layer has both sides.
fn violations(found: &Findings) -> Option<f64> {
    let shares: Vec<f64> = (1..=layers(found))
        .filter_map(|layer| found.metrics.get(&format!("layer{layer}/violations")).copied())
        .collect();
    (!shares.is_empty()).then(|| 100.0 * shares.iter().sum::<f64>() / shares.len() as f64)
}

/// What conditioning, a factor and other embedding tables would do to kappa.
fn what_if(found: &Findings, scales: &[(f64, f64)]) -> String {
    let x = kappa(found, "x");
    let conditioning = match x < RESOLVED {
        // sigma_i + t sigma_1 in place of sigma_i.
        true => {
            STRENGTHS.map(|t| format!("{} at t = {t}", shown((1.0 + t) / (1.0 / x + t)))).join(", ")
        }
        false => {
            "about (1 + t) / t over the directions that X has, and leave lost ones lost".to_string()
        }
    };
    let tables = match scales.iter().min_by(|a, b| a.1.total_cmp(&b.1)) {
        None => "It has no position table or class token to scale.".to_string(),
        Some((factor, best)) if *best < 0.9 * kappa(found, "layer1/tokens") => format!(
            "Tokens that enter layer 1 with a position table, and class token where there is one, {factor} times as large: κ {}; a \
             new training can begin so at no cost.",
            shown(*best)
        ),
        Some(_) => "No other scale of position table and class token, from 0.25 to 16, lowers κ of the tokens that enter layer 1 by a \
                    tenth."
            .to_string(),
    };
    format!(
        "What would lower κ of X ({}): conditioning, to {conditioning}. A factor: never. {tables}",
        shown(x)
    )
}

/// All numbers.
pub(crate) fn table(name: &str, found: &Findings) -> Grid {
    let mut heads = vec![("place".to_string(), true)];
    heads.extend(
        MEASURES.iter().enumerate().map(|(i, (measure, _))| (measure.replace('_', " "), i == 0)),
    );
    let row = |place: &String| {
        let value = |(measure, _): &(&str, _)| {
            let of = |suffix: &str| {
                let value = found.metrics.get(&format!("{place}/{measure}{suffix}")).copied();
                let value = value.unwrap_or(f64::NAN);
                if measure.ends_with(KAPPA) { shown(value) } else { format!("{value:.2}") }
            };
            format!("{} ({} to {})", of(""), of("_q1"), of("_q3"))
        };
        std::iter::once(place.clone()).chain(MEASURES.iter().map(value)).collect()
    };
    Grid {
        title: format!("Condition numbers inside {name}"),
        columns: heads,
        rows: found.spectra.keys().map(row).collect(),
        notes: vec![
            "Median over inputs and heads, and quartiles. x, y: tokens before and after conditioning. input: what \
             queries and keys are made of. Entropy in nats; effective rank is its exponential."
                .to_string(),
        ],
    }
}

/// Condition numbers by layer, and spectra.
pub(crate) fn figures(found: &Findings) -> Vec<Named> {
    let named = |name, caption: &str, figure: Figure| Named {
        name,
        plate: Plate { caption: caption.to_string(), drawing: Box::new(figure) },
    };
    let by_layer = PLACES.map(|place| {
        let point = |layer: usize| {
            let of = |suffix: &str| {
                let name = format!("layer{layer}/{place}/{KAPPA}{suffix}");
                resolved(found.metrics.get(&name).copied().unwrap_or(f64::NAN))
            };
            (layer as f64, of(""), of("_q1"), of("_q3"))
        };
        Curve { name: place.to_string(), points: (1..=layers(found)).map(point).collect() }
    });
    let last = format!("layer{}/tokens", layers(found));
    let shown = [
        ("x", "X, before conditioning"),
        ("y", "Y, after conditioning"),
        ("layer1/tokens", "tokens of layer 1"),
        (last.as_str(), "tokens of the last layer"),
        ("layer1/attention", "attention matrix of layer 1"),
    ];
    let spectra = shown.into_iter().filter_map(|(place, name)| {
        let spectrum = found.spectra.get(place)?;
        let largest = f64::from(*spectrum.first()?);
        let point = |(i, sigma): (usize, &f32)| {
            let relative = (f64::from(*sigma) / largest).max(1.0 / RESOLVED);
            ((i + 1) as f64, relative, relative, relative)
        };
        Some(Curve {
            name: name.to_string(),
            points: spectrum.iter().enumerate().map(point).collect(),
        })
    });
    let figure = |x: &str, y: &str, title: &str, curves| Figure {
        x: x.to_string(),
        y: y.to_string(),
        log_y: true,
        panels: vec![Panel { title: title.to_string(), curves }],
    };
    vec![
        named(
            "layers",
            "Condition numbers of every layer: median over inputs and heads, and quartiles. f32 resolves up to 1e7.",
            figure("layer", "κ", "condition numbers by layer", by_layer.into()),
        ),
        named(
            "spectra",
            "Singular values over the largest: the steeper the fall, the worse the condition.",
            figure("index", "singular value over the largest", "spectra", spectra.collect()),
        ),
    ]
}
