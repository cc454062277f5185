use std::time::Instant;

use conditioned_data::{Pathfinder, PathfinderImage};
use rayon::prelude::*;

/// Measured with the published generator in Python.
struct Published {
    name: &'static str,
    config: Pathfinder,
    /// Images measured.
    n: f64,
    /// Share of attempts at two paths that succeed, and how many did.
    success: (f64, f64),
    /// Mean brightness of a pixel and its standard error.
    mean: (f64, f64),
    /// Share of pixels above 0 and above 127.
    above: [f64; 2],
}

fn published() -> [Published; 3] {
    [
        Published {
            name: "easy",
            config: Pathfinder::easy(),
            n: 600.0,
            success: (0.0454, 4457.0),
            mean: (13.17, 0.08),
            above: [0.231, 0.053],
        },
        Published {
            name: "intermediate",
            config: Pathfinder::intermediate(),
            n: 300.0,
            success: (0.014, 300.0),
            mean: (15.61, 0.11),
            above: [0.270, 0.064],
        },
        Published {
            name: "hard",
            config: Pathfinder::hard(),
            n: 200.0,
            success: (0.00293, 244.0),
            mean: (20.19, 0.15),
            above: [0.339, 0.086],
        },
    ]
}

/// Standard errors that two measurements may be apart: one check in 16,000 would fail by chance, and the seed is fixed.
const ERRORS: f64 = 4.0;
/// Shares of pixels are published in tenths of a percent.
const SHARE_ROUNDING: f64 = 0.0005;

/// A mean over images and its standard deviation from image to image.
struct Measured {
    mean: f64,
    deviation: f64,
}

impl Measured {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Self { mean, deviation: variance.sqrt() }
    }

    /// Whether the mean of `n` images is that of others, which has a standard error itself.
    fn is(&self, n: usize, wanted: f64, error: f64, rounding: f64) -> bool {
        let own = self.deviation / (n as f64).sqrt();
        (self.mean - wanted).abs() < ERRORS * own.hypot(error) + rounding
    }
}

struct Figures {
    n: usize,
    success: f64,
    mean: Measured,
    above: [Measured; 2],
}

impl Figures {
    fn of(images: &[PathfinderImage]) -> Self {
        let n = images.len();
        let attempts: usize = images.iter().map(|image| image.attempts).sum();
        let area = |image: &PathfinderImage| image.pixels.len() as f64;
        let mean = Measured::of(images.iter().map(|image| {
            image.pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / area(image)
        }));
        let above = [0, 127].map(|least| {
            Measured::of(images.iter().map(move |image| {
                image.pixels.iter().filter(|&&pixel| pixel > least).count() as f64 / area(image)
            }))
        });
        Self { n, success: n as f64 / attempts as f64, mean, above }
    }
}

fn draw(config: &Pathfinder, n: usize) -> Vec<PathfinderImage> {
    (0..n).into_par_iter().map(|index| config.image(0, index).unwrap()).collect()
}

#[test]
fn images_have_the_statistics_of_the_published_generator() {
    for (Published { name, config, n, success, mean, above }, own) in
        published().into_iter().zip([400, 300, 200])
    {
        let images = draw(&config, own);
        let figures = Figures::of(&images);
        // The number of attempts of an image is geometric: its relative deviation is 1.
        let error = success.0 * (1.0 / success.1 + 1.0 / own as f64).sqrt();
        let apart = (figures.success - success.0).abs();
        assert!(apart < ERRORS * error, "{name}: success {}", figures.success);
        assert!(figures.mean.is(own, mean.0, mean.1, 0.005), "{name}: mean {}", figures.mean.mean);
        for (found, wanted) in figures.above.iter().zip(above) {
            let error = found.deviation / n.sqrt();
            assert!(found.is(own, wanted, error, SHARE_ROUNDING), "{name}: share {}", found.mean);
        }
        let positive = images.iter().filter(|image| image.label == 1).count() as f64;
        let deviation = (own as f64 / 4.0).sqrt();
        assert!(
            (positive - own as f64 / 2.0).abs() < ERRORS * deviation,
            "{name}: {positive} of {own}"
        );
    }
}

#[test]
fn the_label_says_whether_both_markers_are_on_one_path() {
    for config in [Pathfinder::easy(), Pathfinder::small()] {
        for image in draw(&config, 60) {
            let PathfinderImage { pixels, label, markers, paths, distractors, attempts } = image;
            assert!(attempts > 0);
            // Both paths may end at one pixel of a small window.
            let starts = paths.each_ref().map(|path| path.first() == Some(&markers[0]));
            let ends = paths.each_ref().map(|path| path.last() == Some(&markers[1]));
            let (same, other) = match starts {
                [true, _] => (ends[0], ends[1]),
                _ => (ends[1], ends[0]),
            };
            assert!(starts.contains(&true) && if label == 1 { same } else { other });
            assert!(config != Pathfinder::easy() || same != other);
            for [row, column] in markers.into_iter().filter(|_| config.radius >= 1.5) {
                // A disc of radius 1.5 makes these four at least 221, also at the border. Where the dash of a
                // distractor is brighter than the disc, it is 1.153 times as bright.
                for (y, x) in
                    [(row, column), (row - 1, column), (row, column - 1), (row - 1, column - 1)]
                {
                    assert!(pixels[y * config.size + x] > 190, "{row} {column} in {pixels:?}");
                }
            }
            assert!(distractors.len() <= config.distractors);
            assert!(distractors.iter().all(|path| path.len() == config.distractor_length));
            for path in &paths {
                assert_eq!(path.len(), config.contour_length);
            }
            // Rounding moves the second start by up to half a pixel in each direction.
            let distance = |[[y, x], [v, u]]: [[usize; 2]; 2]| {
                (y as f64 - v as f64).hypot(x as f64 - u as f64)
            };
            let apart = distance([paths[0][0], paths[1][0]]);
            assert!((apart - config.seed_distance as f64).abs() <= 0.5_f64.hypot(0.5), "{apart}");
            // Tips are a margin and a dash with its margin apart, up to a quarter turn between both, and rounding.
            for path in paths.iter().chain(&distractors) {
                for pair in path.windows(2).skip(1) {
                    let apart = distance([pair[0], pair[1]]);
                    assert!((1.5..5.5).contains(&apart), "{apart} in {path:?}");
                }
            }
        }
    }
}

#[test]
fn an_image_is_the_same_in_every_range_and_for_any_number_of_threads() {
    let config = Pathfinder::easy();
    let images = config.images(7, 0..24).unwrap();
    assert_eq!((images.len(), images.shape(), images.white()), (24, [1, 32, 32], 255));
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| config.images(7, 0..24)).unwrap();
        assert_eq!(again, images, "{threads} threads");
    }
    let part = config.images(7, 11..15).unwrap();
    assert_eq!(part, images.subset(&[11, 12, 13, 14]).unwrap());
    for index in [0, 23] {
        let image = config.image(7, index).unwrap();
        assert_eq!(images.image(index), Some(&image.pixels[..]));
        assert_eq!(images.labels()[index], image.label);
    }
    let hashes = [7, 8].map(|seed| config.images(seed, 0..2).unwrap().hash());
    assert_ne!(hashes[0], hashes[1]);
    assert!(config.images(7, 5..5).unwrap().is_empty());
}

#[test]
fn only_published_images_have_the_published_name() {
    let name = |config: Pathfinder| config.images(0, 0..1).unwrap().name().to_string();
    assert_eq!(name(Pathfinder::hard()), "Pathfinder32");
    assert_eq!(
        name(Pathfinder { distractors: 9, ..Pathfinder::easy() }),
        "generated Pathfinder 32x32"
    );
    assert_eq!(name(Pathfinder::small()), "generated Pathfinder 14x14");
    let counts = [Pathfinder::easy(), Pathfinder::intermediate(), Pathfinder::hard()]
        .map(|config| [config.contour_length, config.distractor_length, config.distractors]);
    assert_eq!(counts, [[6, 2, 10], [9, 3, 6], [14, 4, 5]]);
}

#[test]
fn a_configuration_is_saved_and_read_again() {
    let config = Pathfinder { continuity: 1.8, ..Pathfinder::small() };
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Pathfinder>(&json).unwrap(), config);
    let unknown = json.replacen("\"padding\"", "\"pading\"", 1);
    let message = serde_json::from_str::<Pathfinder>(&unknown).unwrap_err().to_string();
    assert!(message.contains("pading"), "{message}");
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let fail = |config: Pathfinder| {
        let message = config.images(0, 0..3).unwrap_err().to_string();
        assert_eq!(config.image(0, 0).unwrap_err().to_string(), message);
        message
    };
    let easy = Pathfinder::easy;
    let message = fail(Pathfinder { seed_distance: 8, ..easy() });
    assert!(message.starts_with("seed_distance = 8: expected 1 to 7 in a window"), "{message}");
    let message = fail(Pathfinder { thickness: 1.0, ..easy() });
    assert_eq!(message, "thickness = 1: expected a number above 0, at most 0.5");
    for (field, config) in [
        ("antialias", Pathfinder { antialias: 0, ..easy() }),
        ("size", Pathfinder { size: 7, ..easy() }),
        ("size", Pathfinder { size: 513, ..easy() }),
        ("padding", Pathfinder { padding: 0, ..easy() }),
        ("padding", Pathfinder { padding: 16, ..easy() }),
        ("contour_length", Pathfinder { contour_length: 1, ..easy() }),
        ("distractor_length", Pathfinder { distractor_length: 0, ..easy() }),
        ("seed_distance", Pathfinder { seed_distance: 0, ..easy() }),
        ("paddle_length", Pathfinder { paddle_length: 0, ..easy() }),
        ("paddle_length", Pathfinder { paddle_length: usize::MAX, ..easy() }),
        ("margin", Pathfinder { margin: 8, ..easy() }),
        ("thickness", Pathfinder { thickness: f64::NAN, ..easy() }),
        ("radius", Pathfinder { radius: 0.0, ..easy() }),
        ("continuity", Pathfinder { continuity: f64::INFINITY, ..easy() }),
        ("paddle_contrast", Pathfinder { paddle_contrast: -0.5, ..easy() }),
        ("snake_contrast", Pathfinder { snake_contrast: 0.0, ..easy() }),
    ] {
        let message = fail(config);
        assert!(message.starts_with(&format!("{field} = ")), "{message}");
    }
    let message = easy().images(0, 0..usize::MAX).unwrap_err().to_string();
    assert!(message.contains("expected fewer images"), "{message}");
    // Nowhere to start, and nowhere to go on.
    let message = fail(Pathfinder { paddle_length: 1, ..Pathfinder::small() });
    assert!(message.starts_with("paddle_length = 1: no dash of this length"), "{message}");
    let message = fail(Pathfinder { contour_length: 99, ..Pathfinder::small() });
    assert!(message.starts_with("contour_length = 99: two such paths found no room in 200000"));
    assert!(message.contains("a larger window"), "{message}");
}

#[test]
#[ignore = "prints the table of docs/lra.md"]
fn figures() {
    let small = ("small", Pathfinder::small());
    let all = published().map(|Published { name, config, .. }| (name, config)).into_iter();
    for (name, config) in all.chain([small]) {
        let n = 4000;
        let Figures { n, success, mean, above } = Figures::of(&draw(&config, n));
        let error = mean.deviation / (n as f64).sqrt();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let start = Instant::now();
        one.install(|| config.images(1, 0..1000)).unwrap();
        let rate = 1000.0 / start.elapsed().as_secs_f64();
        let [success, lit, bright] = [success, above[0].mean, above[1].mean].map(|x| 100.0 * x);
        eprintln!(
            "{name}: {success:.3} % of attempts, mean {:.2} ± {error:.2}, above 0: {lit:.1} %, \
             above 127: {bright:.1} %, {rate:.0} images a second",
            mean.mean
        );
    }
}
