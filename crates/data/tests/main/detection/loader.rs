use std::sync::Arc;

use candle_core::Device;
use conditioned_data::{
    Category, DetectionAugment, DetectionBatch, DetectionCrop, DetectionLoader,
    DetectionLoaderConfig, DetectionResize, Example, ExampleSet, Examples, Instance, Result, Rle,
    Shapes,
};
use proptest::prelude::*;

use crate::plain;

/// What a few products and sums in f64 of numbers up to 4000 may be off by.
const ROUNDING: f64 = 1e-9;

/// Images of these sizes, each with an object that fills it but for the first column, and each third without any.
#[derive(Debug)]
struct Sizes(Vec<[usize; 2]>, Vec<Category>);

impl Sizes {
    fn new(sizes: Vec<[usize; 2]>) -> Self {
        Self(sizes, vec![Category { id: 7, name: "block".into() }])
    }

    fn pixel(index: usize, at: usize) -> u8 {
        (1 + (at * 7 + index * 31) % 255) as u8
    }
}

impl Examples for Sizes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn categories(&self) -> &[Category] {
        &self.1
    }

    fn example(&self, index: usize) -> Result<Example> {
        let [height, width] = self.0[index];
        let mask: Vec<bool> = (0..height * width).map(|at| at % width > 0).collect();
        let bbox = [1.0, 0.0, width as f64 - 1.0, height as f64];
        let mask = Rle::of_mask(&mask, height, width);
        let area = mask.area() as f64;
        let object = Instance { id: index as u64, category: 0, bbox, mask, area, crowd: true };
        let instances = if index % 3 == 2 || width == 1 { vec![] } else { vec![object] };
        let pixels = (0..height * width * 3).map(|at| Self::pixel(index, at)).collect();
        Ok(Example { id: 100 + index as u64, height, width, pixels, instances })
    }
}

fn loader(images: impl Examples + 'static, config: DetectionLoaderConfig) -> DetectionLoader {
    DetectionLoader::new(Arc::new(images), config, &plain(3), &Device::Cpu).unwrap()
}

fn batches(loader: &DetectionLoader, [epoch, first, every]: [usize; 3]) -> Vec<DetectionBatch> {
    loader.epoch_from(epoch, first, every).map(Result::unwrap).collect()
}

fn values(batch: &DetectionBatch) -> Vec<f32> {
    batch.images.flatten_all().unwrap().to_vec1().unwrap()
}

/// Small crops and sizes, so that all changes happen in images of 64 pixels.
fn all() -> DetectionAugment {
    let resize =
        |shorter: &[usize], longest| DetectionResize { shorter: shorter.to_vec(), longest };
    let crop = DetectionCrop { resize: resize(&[40, 50], 200), sides: [20, 60] };
    DetectionAugment { flip: true, crop: Some(crop), resize: Some(resize(&[48, 56, 64], 90)) }
}

#[test]
fn images_lie_in_the_corner_and_zeros_around_them() {
    let sizes = vec![[5, 9], [1, 1], [12, 3], [8, 4000], [7, 7]];
    let config = DetectionLoaderConfig { divisor: 8, ..DetectionLoaderConfig::evaluation(3) };
    let found = batches(&loader(Sizes::new(sizes.clone()), config), [0, 0, 1]);
    assert_eq!(found.len(), 2);
    assert_eq!([found[0].images.dims(), found[1].images.dims()], [[3, 3, 16, 16], [2, 3, 8, 4000]]);
    for (b, batch) in found.iter().enumerate() {
        let (pixels, dims) = (values(batch), batch.images.dims());
        let &[_, _, height, width] = dims else { panic!("{dims:?}") };
        for (i, target) in batch.targets.iter().enumerate() {
            let index = 3 * b + i;
            let size @ [rows, columns] = sizes[index];
            assert_eq!(
                (target.id, target.size, target.original_size),
                (100 + index as u64, size, size)
            );
            assert_eq!(target.scale, [1.0; 2]);
            let objects = usize::from(index % 3 != 2 && columns > 1);
            assert_eq!(target.boxes, vec![[1.0, 0.0, columns as f64, rows as f64]; objects]);
            assert_eq!((&target.classes, &target.crowd), (&vec![0; objects], &vec![true; objects]));
            assert!(target.masks.iter().all(|mask| mask.size() == size));
            for (at, &value) in
                pixels[i * 3 * height * width..][..3 * height * width].iter().enumerate()
            {
                let (c, y, x) = (at / (height * width), at / width % height, at % width);
                let inside = y < rows && x < columns;
                let wanted =
                    if inside { Sizes::pixel(index, (y * columns + x) * 3 + c) } else { 0 };
                assert_eq!(value, f32::from(wanted) / 255.0, "{index}: {c} {y} {x}");
            }
        }
    }
}

#[test]
fn evaluation_of_coco_says_how_to_go_back() {
    let augment = DetectionAugment::coco_evaluation();
    let config = DetectionLoaderConfig { augment, ..DetectionLoaderConfig::evaluation(1) };
    // mmcv's `rescale_size` of these by (1333, 800).
    let sizes = vec![[480, 640], [8, 4000], [1, 1], [427, 640]];
    let wanted = [[800, 1067], [3, 1333], [800, 800], [800, 1199]];
    let found = batches(&loader(Sizes::new(sizes.clone()), config), [0, 0, 1]);
    for ((batch, wanted), [height, width]) in found.iter().zip(wanted).zip(sizes) {
        let target = &batch.targets[0];
        assert_eq!((target.size, target.original_size), (wanted, [height, width]));
        assert!(batch.images.dims()[2..].iter().all(|side| side % 32 == 0));
        let [down, across] = target.scale;
        for [left, top, right, bottom] in &target.boxes {
            let back = [left / across, top / down, right / across, bottom / down];
            let truth = [1.0, 0.0, width as f64, height as f64];
            assert!(back.iter().zip(truth).all(|(a, b)| (a - b).abs() < ROUNDING), "{back:?}");
        }
    }
}

#[test]
fn settings_and_images_that_cannot_work_are_refused() {
    let new = |config, channels| {
        let images = Arc::new(Sizes::new(vec![[2, 2]]));
        DetectionLoader::new(images, config, &plain(channels), &Device::Cpu)
            .unwrap_err()
            .to_string()
    };
    let config = DetectionLoaderConfig::training(2, 0);
    let with = |augment| DetectionLoaderConfig { augment, ..config.clone() };
    assert!(new(config.clone(), 1).contains("one for each of 3 channels"));
    assert!(
        new(DetectionLoaderConfig { batch_size: 0, ..config.clone() }, 3)
            .starts_with("batch_size = 0")
    );
    assert!(
        new(DetectionLoaderConfig { divisor: 0, ..config.clone() }, 3).starts_with("divisor = 0")
    );
    let far = DetectionLoaderConfig { divisor: usize::MAX, ..config.clone() };
    assert!(new(far, 3).starts_with("divisor = "));
    let none = DetectionResize { shorter: vec![], longest: 9 };
    let message = new(with(DetectionAugment { resize: Some(none), ..DetectionAugment::none() }), 3);
    assert!(message.starts_with("resize = "), "{message}");
    let crop = all().crop.map(|crop| DetectionCrop { sides: [9, 8], ..crop });
    assert!(new(with(DetectionAugment { crop, ..all() }), 3).starts_with("sides = [9, 8]"));

    let fail = |example| ExampleSet::new(vec![example], vec![]).unwrap_err().to_string();
    let empty = Example { id: 5, height: 2, width: 3, pixels: vec![0; 18], instances: vec![] };
    let message = fail(Example { pixels: vec![0; 17], ..empty.clone() });
    assert!(message.contains("\"image 5\": 17 bytes, expected an image of 2x3"), "{message}");
    assert!(fail(Example { height: 0, pixels: vec![], ..empty.clone() }).contains("at least one"));
    let [object] = &Sizes::new(vec![[2, 3]]).example(0).unwrap().instances[..] else { panic!() };
    let kinds = Sizes::new(vec![]).1;
    let with = |object| {
        let example = Example { instances: vec![object], ..empty.clone() };
        ExampleSet::new(vec![example], kinds.clone()).unwrap_err().to_string()
    };
    let message = with(Instance { category: 1, ..object.clone() });
    assert!(message.contains("object 0: category 1 of 1"), "{message}");
    let message = with(Instance { mask: Rle::of_mask(&[true; 6], 3, 2), ..object.clone() });
    assert!(message.contains("a mask of 3x2, expected 2x3"), "{message}");
    let message = with(Instance { bbox: [0.0, f64::NAN, 1.0, 1.0], ..object.clone() });
    assert!(message.contains("expected finite numbers"), "{message}");

    // An example of any other source is checked by the loader.
    let sizes = Sizes(vec![[2, 3]], vec![]);
    let message = loader(sizes, config).epoch(0).next().unwrap().unwrap_err().to_string();
    assert!(message.contains("object 0: category 0 of 0"), "{message}");
}

#[test]
fn a_configuration_is_saved_and_read_again() {
    for augment in [DetectionAugment::default(), DetectionAugment::coco(), all()] {
        let json = serde_json::to_string(&augment).unwrap();
        assert_eq!(serde_json::from_str::<DetectionAugment>(&json).unwrap(), augment);
    }
    let message = serde_json::from_str::<DetectionAugment>(r#"{"flips": true}"#).unwrap_err();
    assert!(message.to_string().contains("flips"), "{message}");
    let sizes = DetectionAugment::coco().resize.unwrap().shorter;
    assert_eq!((sizes.len(), sizes[0], sizes[10]), (11, 480, 800));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn threads_and_resuming_do_not_change_a_bit(
        n in 1usize..30, batch_size in 1usize..8, first in 0usize..5, every in 1usize..4, seed: u64,
        epoch in 0usize..4,
    ) {
        let run = |workers, first, every| {
            let training = DetectionLoaderConfig::training(batch_size, seed);
            let config = DetectionLoaderConfig { workers, augment: all(), ..training };
            let images = Shapes::default().images(1, 0..n).unwrap();
            let found = batches(&loader(images, config), [epoch, first, every]);
            found.iter().map(|batch| (values(batch), batch.targets.clone())).collect::<Vec<_>>()
        };
        let whole = run(0, 0, 1);
        prop_assert_eq!(whole.len(), n.div_ceil(batch_size));
        let mut ids: Vec<u64> = whole.iter().flat_map(|batch| batch.1.iter().map(|t| t.id)).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..n as u64).collect::<Vec<_>>());
        prop_assert_eq!(&run(1, 0, 1), &whole);
        prop_assert_eq!(&run(3, 0, 1), &whole);
        prop_assert_eq!(
            run(2, first, every), whole.into_iter().skip(first).step_by(every).collect::<Vec<_>>()
        );
    }

    #[test]
    fn images_of_any_size_go_through(
        sizes in prop::collection::vec([1usize..40, 1usize..40], 1..12), seed: u64, small: bool,
    ) {
        let augment = if small { DetectionAugment::default() } else { all() };
        let config = DetectionLoaderConfig { augment, ..DetectionLoaderConfig::training(4, seed) };
        for batch in batches(&loader(Sizes::new(sizes), config), [1, 0, 1]) {
            let dims = batch.images.dims();
            for target in &batch.targets {
                let [height, width] = target.size;
                prop_assert!(height <= dims[2] && width <= dims[3]);
                for (mask, [left, top, right, bottom]) in target.masks.iter().zip(&target.boxes) {
                    prop_assert_eq!(mask.size(), target.size);
                    prop_assert!(0.0 <= *left && left < right && *right <= width as f64 + ROUNDING);
                    prop_assert!(0.0 <= *top && top < bottom && *bottom <= height as f64 + ROUNDING);
                }
            }
        }
    }
}

#[test]
fn images_in_memory_give_the_same_batches() {
    let shapes = Shapes::default().images(1, 0..10).unwrap();
    let all = (0..10).map(|index| shapes.example(index)).collect::<Result<Vec<_>>>().unwrap();
    let set = ExampleSet::new(all, shapes.categories().to_vec()).unwrap();
    assert!(set.example(10).unwrap_err().to_string().contains("index 10 is past the end of 10"));
    let config = DetectionLoaderConfig::training(4, 2);
    let [a, b] = [loader(shapes, config.clone()), loader(set, config)];
    for (a, b) in batches(&a, [1, 0, 1]).iter().zip(batches(&b, [1, 0, 1])) {
        assert_eq!((values(a), &a.targets), (values(&b), &b.targets));
    }
}

#[test]
fn orders_and_changes_differ_between_epochs_and_seeds() {
    let run = |seed, epoch| {
        let config = DetectionLoaderConfig::training(5, seed);
        let images = Shapes::default().images(1, 0..30).unwrap();
        let found = batches(&loader(images, config), [epoch, 0, 1]);
        found.iter().flat_map(|batch| batch.targets.iter().map(|t| t.id)).collect::<Vec<_>>()
    };
    assert_eq!(run(1, 0), run(1, 0));
    assert_ne!(run(1, 0), run(1, 1));
    assert_ne!(run(1, 2), run(2, 1));
}
